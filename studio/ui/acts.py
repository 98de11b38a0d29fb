"""Buttons inside drawn HTML: each says what it changes in the form, and one handler changes it.

An act is one of
- {"do": "add", "step": {...}}: a step at the end of data.steps
- {"do": "remove", "field": key, "at": n} and {"do": "move", "field": key, "at": n, "by": -1 or 1}
- {"do": "set", "field": key, "value": ...}
- {"do": "accept", "finding": id}
- {"do": "row", "at": position}
It comes from the browser, so nothing in it is trusted: it can do what typing can, and no more.
"""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from studio.ui.context import script
from studio.ui.form import Form, Tree

Act = Mapping[str, Any]
_LISTED = ("data.steps", "data.also")


def component(attribute: str = "act") -> gr.HTML:
    """`select` brings the act of the button that was pressed, as JSON, in `event.act`. It hears
    buttons of its own `attribute` only, since each tab's is there from when the tab was opened."""
    return gr.HTML(
        html_template="<i></i>",
        js_on_load=script("acts.js"),
        attribute=attribute,
        elem_id="acts" if attribute == "act" else f"acts-{attribute}",
        elem_classes="hidden-part",
    )


def button(
    words: str,
    act: Act,
    *,
    kind: str = "",
    label: str = "",
    attribute: str = "act",
    pressed: bool | None = None,
) -> str:
    """A button that does `act`; `label` is what a screen reader says for a sign, `pressed` whether
    one that stays down is down."""
    name = f" aria-label='{escape(label, quote=True)}' title='{escape(label, quote=True)}'"
    down = "" if pressed is None else f" aria-pressed='{str(pressed).lower()}'"
    return (
        f"<button type='button' class='act {kind}'{name if label else ''}{down} "
        f"data-{attribute}='{escape(json.dumps(act), quote=True)}'>{escape(words)}</button>"
    )


def read(event: Any) -> Act:
    """The act of a `select` event; an empty one for what is none."""
    try:
        act = json.loads(str(event.act))
    except (AttributeError, ValueError):
        return {}
    return act if isinstance(act, dict) else {}


def changes(act: Act, tree: Tree, form: Form) -> dict[str, Any]:
    """The fields that the act changes, by key, with their new values; nothing for what is none."""
    data = tree.get("data", {})
    match act.get("do"):
        case "add":
            steps, step = _listed(data, "steps"), act.get("step")
            return {"data.steps": [*steps, step]} if step and step not in steps else {}
        case "accept":
            accepted, finding = _listed(data, "accepted"), str(act.get("finding", ""))
            return {} if finding in accepted else {"data.accepted": [*accepted, finding]}
        case "remove" | "move":
            key = str(act.get("field"))
            items = _listed(data, key.partition(".")[2]) if key in _LISTED else []
            moved = _without(items, act) if act["do"] == "remove" else _moved(items, act)
            return {} if moved is None else {key: moved}
        case "set":
            key = str(act.get("field"))
            return {key: act.get("value")} if key in form.components else {}
    return {}


def _listed(data: Mapping[str, Any], name: str) -> list[Any]:
    held = data.get(name)
    return held if isinstance(held, list) else []


def _without(items: list[Any], act: Act) -> list[Any] | None:
    at = act.get("at")
    if not isinstance(at, int) or not 0 <= at < len(items):
        return None
    return [item for number, item in enumerate(items) if number != at]


def _moved(items: list[Any], act: Act) -> list[Any] | None:
    at, by = act.get("at"), act.get("by")
    if not isinstance(at, int) or by not in (-1, 1):
        return None
    other = at + by
    if not (0 <= at < len(items) and 0 <= other < len(items)):
        return None
    moved = list(items)
    moved[at], moved[other] = moved[other], moved[at]
    return moved
