"""The layouts in which people keep conversations, and how each becomes chat messages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studio.errors import StudioError

Row = Mapping[str, Any]
Message = dict[str, str]

_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "system": "system",
}
_ROLES = ("system", "user", "assistant", "tool")
# No tools; some sets keep the list as text.
_NOTHING: tuple[Any, ...] = (None, "", "[]", [], {})


@dataclass(frozen=True)
class Layout:
    """How the rows are laid out, and why we think so."""

    name: str
    reason: str


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise StudioError(
            f"`{key}` is {type(value).__name__}, not text.", "Every part of a conversation is text."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise StudioError(
            f"`{key}` holds half a character ({value[error.start]!r}).",
            "The text was cut in the middle of an emoji; mend or remove it.",
        ) from None
    return value


def _chat(
    turns: Any, key: str, role_key: str, text_key: str, roles: Mapping[str, str]
) -> list[Message]:
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise StudioError(
            f"`{key}` is not a list of turns.", "Each row needs at least a question and an answer."
        )
    messages = []
    for number, turn in enumerate(turns, 1):
        where = f"Turn {number} of `{key}`"
        if isinstance(turn, Mapping) and turn.get("tool_calls") not in _NOTHING:
            raise StudioError(
                f"{where} calls a tool, which is not trained here yet.",
                "Leave out the conversations with tools.",
            )
        if not isinstance(turn, Mapping) or role_key not in turn or text_key not in turn:
            raise StudioError(
                f"{where} lacks `{role_key}` or `{text_key}`.", "Add it, or remove the turn."
            )
        role = roles.get(str(turn[role_key]))
        if role is None:
            raise StudioError(
                f"{where} is spoken by {turn[role_key]!r}.", f"Known are: {', '.join(roles)}."
            )
        text = _text(turn, text_key)
        if role == "assistant":
            _check_answer(text, where)
        messages.append({"role": role, "content": text})
    return messages


def _check_answer(text: str, where: str) -> None:
    """An empty answer would teach the model to say nothing."""
    if not text.strip():
        raise StudioError(f"{where} is an empty answer.", "Write the answer, or remove the row.")


def _messages(row: Row) -> list[Message]:
    return _chat(row.get("messages"), "messages", "role", "content", {r: r for r in _ROLES})


def _conversation(row: Row) -> list[Message]:
    return _chat(row.get("conversation"), "conversation", "role", "content", {r: r for r in _ROLES})


def _sharegpt(row: Row) -> list[Message]:
    return _chat(row.get("conversations"), "conversations", "from", "value", _SHAREGPT_ROLES)


def _pair(question: str, answer: str, *extra: str) -> Callable[[Row], list[Message]]:
    def convert(row: Row) -> list[Message]:
        parts = [_text(row, key) for key in (question, *extra)]
        reply = _text(row, answer)
        _check_answer(reply, f"`{answer}`")
        return [
            {"role": "user", "content": "\n\n".join(p for p in parts if p)},
            {"role": "assistant", "content": reply},
        ]

    return convert


@dataclass(frozen=True)
class _Kind:
    name: str
    columns: tuple[str, ...]
    convert: Callable[[Row], list[Message]]


# In this order: the first whose columns are all there is taken.
_KINDS = (
    _Kind("messages", ("messages",), _messages),
    _Kind("ShareGPT", ("conversations",), _sharegpt),
    _Kind("conversation", ("conversation",), _conversation),
    _Kind("alpaca", ("instruction", "output"), _pair("instruction", "output", "input")),
    _Kind("dolly", ("instruction", "response"), _pair("instruction", "response", "context")),
    _Kind("prompt and completion", ("prompt", "completion"), _pair("prompt", "completion")),
    _Kind("question and answer", ("question", "answer"), _pair("question", "answer", "context")),
)


def detect(rows: Sequence[Row]) -> Layout:
    """The layout of the rows, told from the first one's columns. Raises StudioError if unknown."""
    if not rows:
        raise StudioError("The data has no rows.", "Choose a file with at least two rows.")
    columns = [str(column) for column in rows[0]]
    for kind in _KINDS:
        if all(column in columns for column in kind.columns):
            return Layout(
                kind.name,
                f"it has the column{'s' if len(kind.columns) > 1 else ''} "
                f"{' and '.join(kind.columns)}",
            )
    known = "; ".join(" + ".join(k.columns) for k in _KINDS)
    raise StudioError(
        f"The columns {', '.join(columns) or '(none)'} are no layout that is known here.",
        f"Rename them to one of: {known}.",
    )


def to_messages(row: Row, layout: Layout, system_prompt: str | None = None) -> list[Message]:
    """The row as chat messages; a `system_prompt` takes the place of the row's own.

    Raises StudioError that says what is wrong with the row.
    """
    if row.get("tools") not in _NOTHING:
        raise StudioError(
            "The row offers tools, and those are not shown to the model here yet.",
            "Leave out such rows, or remove the column `tools`.",
        )
    kind = next(k for k in _KINDS if k.name == layout.name)
    messages = kind.convert(row)
    if not any(m["role"] == "assistant" for m in messages):
        raise StudioError(
            "The row has no answer to learn from.", "Add an assistant turn, or remove the row."
        )
    if system_prompt:
        messages = [
            {"role": "system", "content": system_prompt},
            *(m for m in messages if m["role"] != "system"),
        ]
    return messages
