"""Lists of turns, in the ways in which people write them, as chat messages."""

import json
from collections.abc import Mapping
from typing import Any

from studio.data.example import Message, RowError

# No value; some sets keep empty lists as text.
NOTHING: tuple[Any, ...] = (None, "", "[]", "{}", "null", [], {})

_ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter", "instruction", "question"),
    "assistant": ("assistant", "gpt", "chatgpt", "bard", "bing", "model", "bot", "ai", "answer"),
    "tool": ("tool", "observation", "function", "function_response", "tool_response", "ipython"),
    "call": ("function_call", "tool_call", "function-call", "tool_calls"),
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}
_ROLE_KEYS = ("role", "from")
_TEXT_KEYS = ("content", "value", "text")
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
# What else is read of a turn, by who speaks.
_MORE = {
    "assistant": ("tool_calls", "function_call", "weight", *_THOUGHTS),
    "call": ("weight", *_THOUGHTS),
    "tool": ("name", "tool_call_id"),
}


def is_turn(value: Any, role_key: str = "") -> bool:
    """Whether the value looks like a turn; like one whose speaker is under `role_key`."""
    keys = (role_key,) if role_key else _ROLE_KEYS
    return isinstance(value, Mapping) and any(key in value for key in keys)


def is_turns(value: Any, role_key: str = "") -> bool:
    """Whether the value looks like a list of turns; a table in text holds it as JSON."""
    if isinstance(value, str) and value.startswith("[") and '"' in value[:20]:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return isinstance(value, list) and len(value) > 0 and is_turn(value[0], role_key)


def messages(value: Any, column: str) -> list[Message]:
    """The column's turns as messages; a turn alone counts as a list of one. Raises RowError."""
    if is_turn(value):
        value = [value]
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _json(value, f"`{column}`")
    if not isinstance(value, list) or not value:
        raise RowError(
            f"`{column}` is not a list of turns.",
            "Each row needs at least a question and an answer.",
        )
    found: list[Message] = []
    for number, turn in enumerate(value, 1):
        found.append(_message(turn, f"Turn {number} of `{column}`"))
    return found


def pairs(value: Any, column: str) -> list[Message]:
    """The column's pairs of a question and its answer as messages. Raises RowError."""
    value = _json(value, f"`{column}`") if isinstance(value, str) else value
    if not isinstance(value, list) or any(not isinstance(p, list) or len(p) != 2 for p in value):
        raise RowError(
            f"`{column}` is not a list of pairs of a question and its answer.",
            'Write it as [["question", "answer"], ...], or drop the column.',
        )
    found: list[Message] = []
    for number, pair in enumerate(value, 1):
        where = f"Pair {number} of `{column}`"
        asked, answer = (text(said, where) for said in pair)
        if not answer.strip():
            raise empty_answer(where)
        found += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return found


def _message(turn: Any, where: str) -> Message:
    role_key = _key(turn, _ROLE_KEYS)
    if role_key is None:
        raise RowError(
            f"{where} does not say who speaks: it lacks `role` or `from`.",
            "Add it, or remove the turn.",
        )
    role = _ROLE_OF.get(str(turn[role_key]).lower())
    if role is None:
        raise RowError(
            f"{where} is spoken by {turn[role_key]!r}.",
            "Known are system, user, assistant, tool and function_call, and human and gpt.",
            detail="unknown_role",
        )
    text_key = _key(turn, _TEXT_KEYS)
    content = turn[text_key] if text_key else None
    if role == "call":
        made = {"role": "assistant", "content": "", "tool_calls": calls(content, where)}
        return made | _aside(turn)
    called = [turn[key] for key in ("tool_calls", "function_call") if turn.get(key) not in NOTHING]
    if text_key is None and not called:
        raise RowError(f"{where} lacks `content` or `value`.", "Add it, or remove the turn.")
    if role == "tool" and isinstance(content, dict | list):
        content = json.dumps(content, ensure_ascii=False, default=str)
    message: Message = {"role": role, "content": text(content, where)}
    if role == "assistant" and called:
        message["tool_calls"] = calls(called[0], where)
    if role == "assistant" and not called and not message["content"].strip():
        raise empty_answer(where)
    if role == "assistant":
        message |= _aside(turn)
    if role == "tool":
        message |= {key: turn[key] for key in _MORE["tool"] if _is_said(turn.get(key))}
    return message


def _is_said(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _aside(turn: Mapping[str, Any]) -> Message:
    """What an answer has beside its words: its thoughts, and that it is not to be learned."""
    thoughts = next((turn[key] for key in _THOUGHTS if _is_said(turn.get(key))), None)
    found: Message = {} if thoughts is None else {"reasoning_content": text(thoughts, "A thought")}
    return found | {"weight": 0} if _weight(turn) == 0 else found


def _weight(turn: Mapping[str, Any]) -> float | None:
    """The turn's weight where it is one that is known: 0 or 1."""
    weight = turn.get("weight")
    return weight if isinstance(weight, int | float) and weight in (0, 1) else None


def unread(value: Any) -> set[str]:
    """The keys of turns under which something stands that is not read. Of what are no turns, none
    are told."""
    if isinstance(value, str) and is_turns(value):
        value = json.loads(value)
    found: set[str] = set()
    for turn in [value] if is_turn(value) else value if is_turns(value) else ():
        key = _key(turn, _ROLE_KEYS)
        role = _ROLE_OF.get(str(turn[key]).lower()) if key else None
        if role is None:
            continue
        read = {*_ROLE_KEYS, *_TEXT_KEYS, *_MORE.get(role, ())}
        found |= {str(k) for k, inner in turn.items() if k not in read and inner not in NOTHING}
        if "weight" in read and turn.get("weight") is not None and _weight(turn) is None:
            found.add("weight")
    return found


def role_of(turn: Mapping[str, Any]) -> str:
    """Who speaks, by the name that is used here, or by the turn's own where that is none."""
    key = _key(turn, _ROLE_KEYS)
    said = str(turn[key]) if key else "?"
    role = _ROLE_OF.get(said.lower(), said)
    return "assistant" if role == "call" else role


def _key(turn: Any, keys: tuple[str, ...]) -> str | None:
    """The first of the keys that the turn has a value under, or else has at all."""
    if not isinstance(turn, Mapping):
        return None
    there = [key for key in keys if key in turn]
    return next((key for key in there if turn[key] is not None), there[0] if there else None)


def empty_answer(where: str) -> RowError:
    """An empty answer would teach the model to say nothing."""
    return RowError(
        f"{where} is an empty answer.", "Write the answer, or drop such rows.", "empty_answer"
    )


def text(value: Any, where: str) -> str:
    """The value as text: nothing is empty text, and of a list of parts the texts are joined.
    Half a character, which no tokenizer takes, becomes U+FFFD. Raises RowError."""
    if value is None:
        return ""
    if isinstance(value, list):
        value = "\n".join(_part(part, where) for part in value)
    if not isinstance(value, str):
        raise RowError(
            f"{where} is {_named(value)}, not text.", "Write it as text.", detail="non_text"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _named(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "a number" if isinstance(value, int | float) else "an object"


_MEDIA = ("image", "image_url", "input_image", "audio", "input_audio", "video", "file")


def media(part: Mapping[str, Any]) -> str:
    """What the part of a message is where it is no text, as "an image (cat.png)"; else nothing."""
    kind = str(part.get("type") or "text")
    return _shown(kind, part) if kind in _MEDIA else ""


def _part(part: Any, where: str) -> str:
    """The text of a part of a message that is made of several."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        if named := media(part):
            raise RowError(
                f"{where} holds {named}, which a model of text can't take.",
                "Drop such rows, or describe it in words.",
                detail="non_text",
            )
        if isinstance(part.get("text"), str):
            return str(part["text"])
    raise RowError(
        f"{where} holds a part that is not text.", "Write it as text.", detail="non_text"
    )


def _shown(kind: str, part: Mapping[str, Any]) -> str:
    """What the part holds, with its name where it has a short one."""
    word = kind.removeprefix("input_").removesuffix("_url")
    inner = part.get(kind) or part.get(word) or part.get("url") or part.get("path")
    name = inner.get("url") or inner.get("path") if isinstance(inner, Mapping) else inner
    article = "an" if word[0] in "aeiou" else "a"
    short = isinstance(name, str) and len(name) <= 80
    return f"{article} {word} ({name})" if short else f"{article} {word}"


def calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Calls of tools as {"type": "function", "function": {"name", "arguments": dict}}, with the id
    where there is one. Raises RowError."""
    value = _json(value, f"{where}: the call") if isinstance(value, str) else value
    found = []
    for call in value if isinstance(value, list) else [value]:
        inner = call.get("function", call) if isinstance(call, Mapping) else {}
        inner = inner if isinstance(inner, Mapping) else call
        name = inner.get("name")
        if not isinstance(name, str) or not name:
            raise RowError(f"{where} calls a tool without its name.", "Add `name` to the call.")
        arguments = next((inner[k] for k in ("arguments", "parameters") if k in inner), None) or {}
        if isinstance(arguments, str):
            arguments = _json(arguments, f"{where}: the arguments of {name}")
        if not isinstance(arguments, dict):
            raise RowError(
                f"{where}: the arguments of {name} are no object.", "Write them by their names."
            )
        # Arrow gives every call the arguments of all of them, with nothing in most.
        made = {"name": name, "arguments": arguments}
        kept = {"id": call["id"]} if isinstance(call.get("id"), str) and call["id"] else {}
        found.append({"type": "function", "function": made, **kept})
    return found


def tools(value: Any, column: str) -> list[dict[str, Any]] | None:
    """The tools on offer, each as {"type": "function", "function": {...}}, or None. Raises
    RowError."""
    if value in NOTHING:
        return None
    value = _json(value, f"`{column}`") if isinstance(value, str) else value
    if value in NOTHING:
        return None
    found = []
    for tool in value if isinstance(value, list) else [value]:
        tool = _json(tool, f"A tool in `{column}`") if isinstance(tool, str) else tool
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise RowError(
                f"`{column}` holds a tool without a name.",
                'Each looks like {"name": ..., "description": ..., "parameters": {...}}.',
            )
        found.append({"type": "function", "function": inner})
    return found


def _json(value: str, where: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RowError(f"{where} is not JSON.", "Mend it, or drop such rows.") from None
