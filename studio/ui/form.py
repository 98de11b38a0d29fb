"""The form: components made from the spec's fields, and the way between them and a RunSpec.

Nothing here names a field: a new line in the spec is a new control on the page.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from annotated_types import Ge, Le
from gradio.components import Component
from pydantic.fields import FieldInfo

from studio.errors import Problem
from studio.plan.extras import REPORTERS
from studio.plan.machine import machine
from studio.plan.possible import Refused, judged
from studio.spec import DEFAULTS, Meta, RunSpec, fields, meta_of, parse, plain, show, used

Tree = dict[str, dict[str, Any]]
# Widgets whose value is a list of things with parts of their own.
LISTS = ("steps", "sources")
# Widgets that show a list as text with commas.
TEXTS = ("names", "numbers")
CHOICE_LABELS = {
    "quantization": {
        "none": "none",
        "int8": "int8 (8 bits)",
        "nf4": "nf4 (4 bits)",
        "fp4": "fp4 (4 bits)",
    },
    "method": {
        "lora": "LoRA",
        "adalora": "AdaLoRA: LoRA that moves its ranks to where they matter",
        "ia3": "IA3: a factor for each output",
        "loha": "LoHa: products of small matrices",
        "lokr": "LoKr: Kronecker products",
        "oft": "OFT: rotations",
        "vera": "VeRA: shared random matrices",
        "prompt_tuning": "Prompt tuning: a learned text",
        "prefix_tuning": "Prefix tuning: learned keys and values",
        "p_tuning": "P-tuning: a learned text that a network writes",
        "multitask_prompt_tuning": "Multitask prompt tuning",
        "none": "none: train all weights (full fine-tuning)",
    },
    "layout": {
        "auto": "auto: told from the columns",
        "sharegpt": "ShareGPT (conversations)",
        "prompt_completion": "prompt and completion",
        "question_answer": "question and answer",
        "text": "plain text",
        "preference": "preference (chosen, rejected)",
        "kto": "KTO (answer and label)",
    },
    "chat_template": {"model": "the model's own", "custom": "my own, written below"},
    "trainer": {
        "sft": "sft: supervised fine-tuning on answers",
        "cpt": "cpt: continued pre-training on text",
        "dpo": "dpo: which of two answers is better",
        "kto": "kto: answers marked good or bad",
        "orpo": "orpo: learn the better of two answers",
        "reward": "reward: a model that scores answers",
        "grpo": "grpo: try answers and reward them",
    },
    "report_to": {name: extra.label for name, extra in REPORTERS.items()},
    "train_on": {
        "assistant": "all answers",
        "last": "only the last turn",
        "completion": "the completion: all after the last question",
        "everything": "everything, questions too",
    },
}


class Form:
    """All fields of the spec as components, by key ("train.learning_rate"). The tabs call `basic`
    and `advanced` at the place where the fields belong."""

    def __init__(self, start: RunSpec, refused: Refused | None = None) -> None:
        """`refused` are choices that can't be had here, by field, with the reason."""
        self.start = start
        self.refused = refused or {}
        self.components: dict[str, Any] = {}
        self._fields = {f"{s}.{n}": (info, meta) for s, n, info, meta in fields()}

    def basic(self, section: str, *, group: str | None = None, **overrides: Any) -> list[Component]:
        """The section's fields that everybody sees, made where this is called."""
        made = []
        for key, (info, meta) in self._fields.items():
            if (
                key.startswith(section + ".")
                and meta.basic
                and (group is None or meta.group == group)
            ):
                made.append(self.make(key, info, meta, **overrides))
        return made

    def advanced(
        self, *sections: str, inside: Mapping[str, Callable[[], None]] | None = None
    ) -> None:
        """The other fields of the sections, in closed groups named as the spec names them.
        `inside` makes what else belongs into a group, before its fields."""
        groups: dict[str, list[str]] = {}
        for section in sections:
            for key, (_info, meta) in self._fields.items():
                if key.startswith(section + ".") and not meta.basic and key not in self.components:
                    groups.setdefault(meta.group, []).append(key)
        gr.HTML("<div class='group-head'>Advanced</div>")
        for group, keys in groups.items():
            slug = group.lower().replace(" ", "-")
            with gr.Accordion(
                group,
                open=False,
                elem_id=f"group-{keys[0].split('.')[0]}-{slug}",
                elem_classes="advanced",
            ):
                if inside and group in inside:
                    inside[group]()
                for key in keys:
                    self.make(key, *self._fields[key])

    def make(
        self, key: str, info: FieldInfo | None = None, meta: Meta | None = None, **overrides: Any
    ) -> Component:
        """The component of one field. `overrides` go to the component as they are."""
        if info is None or meta is None:
            info, meta = self._fields[key]
        section, name = key.split(".")
        value = to_widget(getattr(getattr(self.start, section), name), info)
        common: dict[str, Any] = {
            "label": meta.label,
            "info": info.description,
            "value": value,
            "elem_id": field_id(key),
            "elem_classes": "field",
            "interactive": True,
        }
        if meta.widget in LISTS:
            # Held as JSON; the tab shows it as a list, in the field's own place.
            common |= {"elem_id": f"v{field_id(key)[1:]}", "visible": "hidden"}
        refused = self.refused.get(key, {})
        component = _component(name, info, meta, {**common, **overrides}, refused)
        self.components[key] = component
        return component

    def tree(self, values: Mapping[Component, Any]) -> Tree:
        """The form's values as {section: {field: value}}, not judged yet."""
        tree: Tree = {}
        for key, component in self.components.items():
            section, name = key.split(".")
            tree.setdefault(section, {})[name] = from_widget(
                values[component], self._fields[key][0]
            )
        return tree

    def spec(self, values: Mapping[Component, Any]) -> RunSpec:
        """The form's values as a spec. Raises SpecError with every problem."""
        return parse(self.tree(values))

    def fill(self, tree: Mapping[str, Mapping[str, Any]]) -> dict[Component, Any]:
        """New values for all components: `tree` over the defaults, as it stands, right or wrong."""
        updates = {}
        for key, component in self.components.items():
            section, name = key.split(".")
            default = getattr(getattr(DEFAULTS, section), name)
            updates[component] = to_widget(
                tree.get(section, {}).get(name, default), self._fields[key][0]
            )
        return updates

    def set(self, values: Mapping[str, Any]) -> dict[Component, Any]:
        """New values for some components, by key."""
        return {
            self.components[key]: to_widget(value, self._fields[key][0])
            for key, value in values.items()
        }

    def reset(self, key: str, base: RunSpec) -> dict[Component, Any]:
        """The way back of one field, to its value in `base`."""
        section, name = key.split(".")
        value = to_widget(getattr(getattr(base, section), name), self._fields[key][0])
        return {self.components[key]: value}

    def marks(self, tree: Tree, base: RunSpec) -> dict[str, dict[str, str]]:
        """For each field that differs from `base`, is wrong or has no effect now (`unused`): what
        the page writes beside it, or that it hides it."""
        problems = {problem.field: problem for problem in judged(tree, machine())}
        marks: dict[str, dict[str, str]] = {}
        for key in self.components:
            section, name = key.split(".")
            original = getattr(getattr(base, section), name)
            mark = {}
            if not used(key, tree):
                mark["unused"] = "1"
            if key in problems:
                mark |= problem_mark(problems[key])
            if not _same(tree.get(section, {}).get(name), original):
                mark["changed"] = _words(original)
            if mark:
                marks[key] = mark
        return marks


def problem_mark(problem: Problem) -> dict[str, str]:
    """What the page writes beside a field that is wrong: what to do, and the button that does it,
    where there is one."""
    mark = {"problem": f"{problem.message} {problem.hint}".strip()}
    if problem.changes:
        mark |= {"mend": json.dumps(problem.changes), "does": mending(problem)}
    return mark


def mending(problem: Problem) -> str:
    """What the button of a problem says: the first of its changes."""
    key, value = next(iter(problem.changes.items()))
    words = ", ".join(f"{k} = {v}" for k, v in value.items()) if isinstance(value, dict) else ""
    return f"Set {key.partition('.')[2]} to {words or show(value) or 'nothing'}"


def _words(original: Any) -> str:
    """The value that a way back leads to."""
    if isinstance(original, list | dict):
        return f"{len(original)} entries" if original else ""
    return "" if original is None else show(original)


def field_id(key: str) -> str:
    """The element id of a field: "train.learning_rate" is `f-train-learning_rate`."""
    return "f-" + key.replace(".", "-")


def to_widget(value: Any, info: FieldInfo) -> Any:
    """A field's value as its component holds it."""
    meta = meta_of(info)
    if value is None and _kind(info) in (str, int, float):
        # A text box that is given None says over and over that it has changed; a number opens as 0.
        return ""
    if meta.widget == "sci":
        return show(value)
    if meta.widget == "choices":
        return [value] if isinstance(value, str) else value
    if meta.widget in LISTS:
        return json.dumps(plain(value), ensure_ascii=False)
    if meta.widget in TEXTS and isinstance(value, list):
        return ", ".join(map(str, value))
    if meta.widget == "mapping" and isinstance(value, Mapping):
        return ", ".join(f"{part} = {column}" for part, column in value.items())
    return value


def from_widget(value: Any, info: FieldInfo) -> Any:
    """A component's value as the spec reads it: an emptied box is None, or the empty text."""
    widget = meta_of(info).widget
    if widget in LISTS:
        return _read_list(value)
    if widget in TEXTS and isinstance(value, str):
        return _read_names(value)
    if widget == "mapping" and isinstance(value, str):
        return _read_mapping(value)
    if isinstance(value, str):
        # In a template, a line break at the end is a part of it.
        value = value if widget == "long" and value.strip() else value.strip()
        if value == "" and type(None) in get_args(info.annotation):
            return None
        return value
    # gr.Number gives 16.0 for 16.
    if isinstance(value, float) and value.is_integer() and _kind(info) is int:
        return int(value)
    return value


def _read_list(value: Any) -> Any:
    """The list that the JSON holds; what is none is left for the spec to judge."""
    try:
        return json.loads(value or "[]")
    except (TypeError, ValueError):
        return value


def _read_names(text: str) -> list[Any]:
    """The parts between commas, numbers as such."""
    parts = [part.strip() for part in text.replace("\n", ",").split(",")]
    return [int(part) if part.isdecimal() else part for part in parts if part]


def _read_mapping(text: str) -> Any:
    """The mapping of "prompt = frage, completion = antwort"; what is none is left as it is."""
    pairs = [pair.partition("=") for pair in text.replace("\n", ",").split(",") if pair.strip()]
    if not all(part.strip() and column.strip() for part, _, column in pairs):
        return text
    return {part.strip(): column.strip() for part, _, column in pairs}


def _same(value: Any, original: Any) -> bool:
    original = plain(original)
    if isinstance(original, int | float) and not isinstance(original, bool):
        try:
            return float(value) == float(original)
        except (TypeError, ValueError):
            return False
    if isinstance(original, str) and isinstance(value, list):
        return value == [original]
    if isinstance(original, Mapping) and isinstance(value, Mapping):
        # A box gives text where the spec has numbers.
        return {k: str(v) for k, v in value.items()} == {k: str(v) for k, v in original.items()}
    return bool(value == original)


def _kind(info: FieldInfo) -> Any:
    """The field's type without Optional."""
    arguments = [a for a in get_args(info.annotation) if a is not type(None)]
    return (
        arguments[0]
        if type(None) in get_args(info.annotation) and len(arguments) == 1
        else info.annotation
    )


def _literals(info: FieldInfo) -> list[str] | None:
    return list(get_args(info.annotation)) if get_origin(info.annotation) is Literal else None


def _bounds(info: FieldInfo) -> dict[str, Any]:
    """Only bounds that can be stood on: a box can't show "more than 0"."""
    bounds: dict[str, Any] = {}
    for item in info.metadata:
        if isinstance(item, Ge):
            bounds["minimum"] = item.ge
        elif isinstance(item, Le):
            bounds["maximum"] = item.le
    return bounds


def _component(
    name: str, info: FieldInfo, meta: Meta, common: dict[str, Any], refused: Mapping[str, str]
) -> Component:
    labels = CHOICE_LABELS.get(name, {})

    def said(choice: str) -> tuple[str, str]:
        words = labels.get(choice, choice)
        return (f"{words} (not here: {refused[choice]})" if choice in refused else words), choice

    if meta.widget == "many":
        (item,) = get_args(info.annotation)
        return gr.CheckboxGroup([said(c) for c in get_args(item)], **common)
    choices = _literals(info)
    if choices is not None:
        pairs = common.pop("choices", None) or [said(c) for c in choices]
        return (
            gr.Radio(pairs, **common)
            if meta.widget == "radio"
            else gr.Dropdown(pairs, filterable=False, **common)
        )
    if meta.widget == "choices":
        return gr.Dropdown(list(meta.choices), multiselect=True, allow_custom_value=True, **common)
    if "choices" in common:
        return gr.Dropdown(common.pop("choices"), allow_custom_value=True, **common)
    kind = _kind(info)
    if kind is bool:
        return gr.Checkbox(**common)
    if meta.widget == "sci":
        return gr.Textbox(max_lines=1, **common)
    # Bounds are not given to gr.Number: it raises at a wrong value, where the form wants to say
    # all problems at once, each beside its field.
    if kind in (int, float):
        return gr.Number(precision=None, step=_step(kind, info), **common)
    return gr.Textbox(
        lines=2 if meta.widget == "long" else 1,
        max_lines=6 if meta.widget == "long" else 1,
        **common,
    )


def _step(kind: type, info: FieldInfo) -> float:
    if kind is int:
        return 1
    return 0.05 if _bounds(info).get("maximum", 2) <= 1 else 0.1
