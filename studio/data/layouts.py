"""The layouts in which people keep rows, and which of them a file has."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from studio.data.example import Broken, Kind, Row
from studio.data.prompts import variables
from studio.data.turns import is_turn, is_turns
from studio.errors import StudioError
from studio.spec import DataSection


@dataclass(frozen=True)
class Layout:
    """How the rows are laid out, why we think so, and which column is which part."""

    name: str
    reason: str
    columns: dict[str, str] = field(default_factory=dict)


def kind_of(layout: Layout, section: DataSection) -> Kind:
    """What the rows become; see `Example`."""
    if section.prompt_template:
        return "completion" if section.completion_template else "text"
    kinds: dict[str, Kind] = {"preference": "preference", "kto": "unpaired", "text": "text"}
    return kinds.get(layout.name, "chat")


Names = tuple[str, ...]


@dataclass(frozen=True)
class Form:
    """A layout: its parts with the names that columns may have for them, the best first. `fits`
    looks at some values of each part that must be there."""

    name: str
    needs: Mapping[str, Names]
    may: Mapping[str, Names]
    fits: Callable[[Any], bool]

    @property
    def parts(self) -> Names:
        return (*self.needs, *self.may)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_said(value: Any) -> bool:
    return isinstance(value, str) or is_turn(value) or is_turns(value)


def _is_answer(value: Any) -> bool:
    return isinstance(value, str | list) or (isinstance(value, Mapping) and "text" in value)


def _is_judged(value: Any) -> bool:
    """Text, turns or a verdict."""
    return _is_said(value) or is_verdict(value)


def is_verdict(value: Any) -> bool:
    """Whether the value says yes or no."""
    return isinstance(value, bool) or (
        isinstance(value, int | str) and str(value).lower() in ("0", "1", "true", "false")
    )


_SYSTEM = {"system": ("system", "system_prompt", "system_message")}
_TOOLS = {**_SYSTEM, "tools": ("tools",)}
_TURNS = ("messages", "conversations", "conversation")
_LABEL = {"label": ("label", "kto_tag")}
_PAIR = {
    "prompt": ("prompt", "input", "inputs", "query"),
    "completion": ("completion", "response", "output", "targets", "target"),
}

# In this order: the first that the columns and their values fit is taken.
FORMS = (
    Form("kto", {"messages": _TURNS, **_LABEL}, _TOOLS, _is_judged),
    Form("kto", {**_PAIR, **_LABEL}, _TOOLS, _is_judged),
    Form(
        "preference",
        {
            "chosen": ("chosen", "chosen_response"),
            "rejected": ("rejected", "rejected_response"),
        },
        {"prompt": ("prompt", "question", "instruction", *_TURNS), "input": ("input",), **_TOOLS},
        _is_said,
    ),
    Form(
        "messages",
        {"messages": ("messages", "conversations", "chat", "dialogue", "dialog")},
        _TOOLS,
        lambda value: is_turns(value, "role"),
    ),
    Form(
        "sharegpt",
        {"conversations": ("conversations", "conversation", "messages")},
        _TOOLS,
        lambda value: is_turns(value, "from"),
    ),
    Form(
        "conversation",
        {"conversation": ("conversation",)},
        _TOOLS,
        lambda value: is_turns(value, "role"),
    ),
    Form(
        "alpaca",
        {"instruction": ("instruction",), "output": ("output",)},
        {"input": ("input",), "history": ("history",), **_SYSTEM},
        _is_text,
    ),
    Form(
        "dolly",
        {"instruction": ("instruction",), "response": ("response",)},
        {"context": ("context", "input"), **_SYSTEM},
        _is_text,
    ),
    Form("prompt_completion", _PAIR, _TOOLS, _is_said),
    Form(
        "question_answer",
        {"question": ("question",), "answer": ("answer", "answers", "response")},
        {"context": ("context",), **_SYSTEM},
        _is_answer,
    ),
    Form("text", {"text": ("text", "content")}, {}, _is_text),
)


def detect(rows: Sequence[Row | Broken], section: DataSection) -> Layout:
    """The layout that the section names, or else the one that the rows have. The columns of its
    parts are found by their names where the section does not name them.

    Raises StudioError where there is none, or a column of the section's is not there.
    """
    found = [row for row in rows if not isinstance(row, Broken)]
    if not found:
        broken = next((row for row in rows if isinstance(row, Broken)), None)
        if broken is None:
            raise StudioError("The data has no rows.", "Choose a file with at least two rows.")
        raise StudioError(f"None of the first rows can be read: {broken.reason}", broken.hint)
    columns = list(dict.fromkeys(str(name) for row in found for name in row))
    if section.prompt_template:
        return _template(section, columns)
    for part, column in section.columns.items():
        if column not in columns:
            raise StudioError(
                f"The column `{column}`, which is to be the {part}, is in none of the first rows.",
                f"There are: {', '.join(columns)}.",
            )
    if section.layout != "auto":
        return _forced(section, columns)
    fitting = list(_fitting(found, columns, section.columns))
    if not fitting:
        raise _unknown(section, columns)
    first, *others = fitting
    used = set(first.columns.values())
    names = dict.fromkeys(x.name for x in others if not set(x.columns.values()) <= used)
    names.pop(first.name, None)
    if names:
        reason = f"{first.reason}; {' and '.join(list(names)[:2])} would be possible too"
        first = Layout(first.name, reason, first.columns)
    return first


def _template(section: DataSection, columns: list[str]) -> Layout:
    used = variables(section.prompt_template or "", section.completion_template)
    missing = sorted(used - set(columns))
    if missing:
        raise StudioError(
            f"The prompt template asks for `{missing[0]}`, and no column is called so.",
            f"There are: {', '.join(columns)}.",
        )
    return Layout("template", "your prompt template writes the text", {name: name for name in used})


def _resolve(form: Form, columns: list[str], given: Mapping[str, str]) -> dict[str, str] | None:
    """The form's parts with their columns, or None where one is missing."""
    by_name = {name.lower(): name for name in reversed(columns)}
    resolved = {part: column for part, column in given.items() if part in form.parts}
    taken = set(resolved.values())
    for part, names in (*form.needs.items(), *form.may.items()):
        if part not in resolved:
            column = next((by_name[n] for n in names if n in by_name), None)
            if column is not None and column not in taken:
                resolved[part] = column
                taken.add(column)
            elif part in form.needs:
                return None
    return resolved


def _forced(section: DataSection, columns: list[str]) -> Layout:
    forms = [form for form in FORMS if form.name == section.layout]
    parts = dict.fromkeys(part for form in forms for part in form.parts)
    if stray := [part for part in section.columns if part not in parts]:
        raise StudioError(
            f"The layout {section.layout} has no part `{stray[0]}`.",
            f"Its parts are {', '.join(parts)}.",
        )
    for form in forms:
        resolved = _resolve(form, columns, section.columns)
        if resolved is not None:
            return Layout(form.name, "you chose it", resolved)
    needs = " and ".join(f"`{part}`" for part in forms[-1].needs)
    raise StudioError(
        f"The layout {section.layout} needs {needs}, and no column is called so.",
        f"Say under Columns which is which; there are: {', '.join(columns)}.",
    )


def _fitting(rows: list[Row], columns: list[str], given: Mapping[str, str]) -> Iterator[Layout]:
    for form in FORMS:
        resolved = _resolve(form, columns, given)
        if resolved is None or not set(given) <= set(form.parts):
            continue
        needed = [resolved[part] for part in form.needs]
        full = [row for row in rows if all(row.get(column) is not None for column in needed)]
        label = resolved.get("label")
        fit = [
            row
            for row in full
            if all(form.fits(row[column]) for column in needed)
            and (label is None or is_verdict(row[label]))
        ]
        # Not the first row alone: it may be the odd one.
        if fit and 2 * len(fit) >= len(rows):
            yield Layout(form.name, _reason(resolved, needed, len(fit), len(rows)), resolved)


def _reason(resolved: Mapping[str, str], needed: list[str], fit: int, looked_at: int) -> str:
    share = f"each of the first {looked_at} rows has" if looked_at > 1 else "the row has"
    if fit < looked_at:
        share = f"{fit} of the first {looked_at} rows have"
    others = [f"`{c}` is the {p}" for p, c in resolved.items() if c != p and c in needed]
    names = " and ".join(f"`{column}`" for column in needed)
    return "; ".join([f"{share} {names}", *others])


def _unknown(section: DataSection, columns: list[str]) -> StudioError:
    if section.columns:
        return StudioError(
            f"No layout has the parts {', '.join(section.columns)}, with the values there are.",
            "Choose the layout, or take a part of the mapping back.",
        )
    return StudioError(
        f"The columns {', '.join(columns) or '(none)'} are no layout that is known here.",
        "Choose a layout and say under Columns which is which, or write a prompt template.",
    )
