"""What can be shown of a row that can't be used: who says what, as far as it can be told, with
pictures and the like by their names."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from studio.data.example import Message, Row
from studio.data.layouts import Layout
from studio.data.turns import media, role_of

_TURNS = ("messages", "conversations", "conversation", "prompt", "chosen")
_ANSWERS = ("completion", "output", "response", "answer", "chosen", "rejected")


def glimpse(row: Row, layout: Layout) -> list[Message]:
    """The row's turns for a person to look at, each with a role and a text; never trained on."""
    found: list[Message] = []
    for part, column in layout.columns.items():
        value = row.get(column)
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = _read(value)
        if part in _TURNS and isinstance(value, list | Mapping):
            found += [_turn(turn) for turn in ([value] if isinstance(value, Mapping) else value)]
        elif part not in ("tools", "label") and value not in (None, ""):
            found.append({"role": _speaker(part), "content": _text(value)})
    order = {"system": 0, "user": 1, "assistant": 2}
    # Columns come in no order of their own; turns do.
    turns = any(part in ("messages", "conversations", "conversation") for part in layout.columns)
    return found if turns else sorted(found, key=lambda m: order.get(m["role"], 1))


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _speaker(part: str) -> str:
    if part == "system":
        return "system"
    return "assistant" if part in _ANSWERS else "user"


def _turn(turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        return {"role": "?", "content": _text(turn)}
    said = next((turn[key] for key in ("content", "value", "text") if key in turn), None)
    if said in (None, "") and turn.get("tool_calls"):
        said = turn["tool_calls"]
    return {"role": role_of(turn), "content": _text(said)}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, Sequence) and all(isinstance(part, str | Mapping) for part in value):
        return "\n".join(_part(part) for part in value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _part(part: str | Mapping[str, Any]) -> str:
    if isinstance(part, str):
        return part
    named = media(part)
    if named:
        return f"[{named}]"
    text = part.get("text")
    return text if isinstance(text, str) else json.dumps(part, ensure_ascii=False, default=str)
