"""The steps and the further sources of the data as lists in words, and the way to add to them."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from studio.ui import acts

KINDS = (
    ("Keep only some rows", "filter"),
    ("Set the system message", "system"),
    ("Forget columns", "drop_columns"),
    ("Shuffle", "shuffle"),
    ("Take some of the rows", "take"),
    ("Leave out faulty rows", "drop"),
)
KEEPS = (
    ("is", "equals"),
    ("is not", "not_equals"),
    ("contains", "contains"),
    ("matches the pattern", "matches"),
    ("is longer than … characters", "longer"),
    ("is shorter than … characters", "shorter"),
    ("is there", "present"),
    ("is missing or empty", "absent"),
)
FAULTS = (
    ("lines that can't be read", "broken"),
    ("rows that are no conversation", "unreadable"),
    ("empty answers", "empty_answer"),
    ("speakers out of turn", "role_order"),
    ("damaged characters", "bad_encoding"),
    ("the same row again", "duplicate"),
    ("nearly the same row again", "near_duplicate"),
    ("answers that another row gave before", "duplicate_answer"),
    ("rows in another language than most", "other_language"),
    ("pairs of the same answer twice", "same_pair"),
    ("rows that are in the evaluation or test too", "leaked"),
    ("rows that the chat template refuses", "rejected"),
    ("rows with nothing to learn", "nothing_trained"),
    ("rows that would be cut", "cut"),
)
# Which of the boxes a kind of step needs; see `DataTab`.
BOXES = {
    "filter": ("column", "keep", "text"),
    "system": ("text", "when"),
    "drop_columns": ("text",),
    "shuffle": ("number",),
    "take": ("number", "skip"),
    "drop": ("fault",),
}
LABELS = {
    ("filter", "text"): "Value",
    ("system", "text"): "System message",
    ("drop_columns", "text"): "Columns, with commas",
    ("shuffle", "number"): "Seed",
    ("take", "number"): "Rows",
}


def made(kind: str, boxes: Mapping[str, Any]) -> dict[str, Any]:
    """The step that the boxes describe, as a recipe holds it; the spec judges it."""
    text = str(boxes.get("text") or "").strip()
    number = int(boxes.get("number") or 0)
    match kind:
        case "filter":
            step = {"column": str(boxes.get("column") or ""), "keep": boxes.get("keep")}
            return {"do": kind, **step, **({"value": text} if text else {})}
        case "system":
            only = {"when": "missing"} if boxes.get("when") else {}
            return {"do": kind, "text": text, **only}
        case "drop_columns":
            return {"do": kind, "columns": [c.strip() for c in text.split(",") if c.strip()]}
        case "shuffle":
            return {"do": kind, "seed": number}
        case "take":
            skip = int(boxes.get("skip") or 0)
            return {"do": kind, "rows": number, **({"skip": skip} if skip else {})}
        case _:
            return {"do": "drop", "what": boxes.get("fault")}


def words(step: Any) -> str:
    """One step in words."""
    if not isinstance(step, dict):
        return str(step)
    match step.get("do"):
        case "filter":
            keep = {value: text for text, value in KEEPS}.get(step.get("keep", "equals"), "?")
            value = step.get("value", "")
            if "…" in keep:
                return f"Keep rows whose {step.get('column')} {keep.replace('…', value)}"
            return f"Keep rows whose {step.get('column')} {keep} {value}".rstrip()
        case "system":
            where = "where there is none" if step.get("when") == "missing" else "of every row"
            return f"System message {where}: {step.get('text')}"
        case "drop_columns":
            return f"Forget the columns {', '.join(map(str, step.get('columns', ())))}"
        case "shuffle":
            return f"Shuffle with the seed {step.get('seed', 42)}"
        case "take":
            skip = f", after the first {step['skip']:,}" if step.get("skip") else ""
            return f"Take {step.get('rows'):,} rows{skip}"
        case "drop":
            fault = {value: text for text, value in FAULTS}.get(str(step.get("what")), "?")
            return f"Leave out {fault}"
    return str(step)


def listed(steps: Sequence[Any]) -> str:
    """The steps as a list, each with its place and its way out."""
    if not steps:
        return "<p class='soft'>None: the rows are used as they are.</p>"
    rows = []
    for at, step in enumerate(steps):
        said = words(step)
        here = {"field": "data.steps", "at": at}
        up = acts.button("↑", {"do": "move", **here, "by": -1}, label=f"Earlier: {said}")
        out = acts.button("×", {"do": "remove", **here}, label=f"Take back: {said}")
        rows.append(f"<li><span>{escape(said)}</span>{up if at else ''}{out}</li>")
    return f"<ol class='listed'>{''.join(rows)}</ol>"


def sources(also: Sequence[Any]) -> str:
    """The further sources as a list."""
    if not also:
        return "<p class='soft'>None: all rows come from the data chosen above.</p>"
    rows = []
    for at, source in enumerate(also):
        held = source if isinstance(source, dict) else {}
        path = str(held.get("path", source)).rsplit("/", 1)[-1]
        weight = held.get("weight", 1)
        said = path if weight == 1 else f"{path}, weight {weight:g}"
        act = {"do": "remove", "field": "data.also", "at": at}
        out = acts.button("×", act, label=f"Remove {said}")
        rows.append(f"<li><span>{escape(said)}</span>{out}</li>")
    return f"<ol class='listed'>{''.join(rows)}</ol>"
