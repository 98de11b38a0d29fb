"""One row as the trainer takes it, and what can be wrong with one. No file is read here."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from studio.errors import StudioError

# role and content, both text. An assistant's may have tool_calls: [{"type": "function",
# "function": {"name": text, "arguments": dict}}], its thoughts as reasoning_content, and the weight
# 0 where it is not to be learned; those of role "tool" may have name and tool_call_id.
Message = dict[str, Any]
Row = dict[str, Any]
Kind = Literal["chat", "text", "completion", "preference", "unpaired"]
RowFault = Literal["broken", "unreadable", "empty_answer", "rejected", "nothing_trained"]
SOFT_FAULTS = ("role_order", "bad_encoding", "same_pair")


@dataclass(frozen=True)
class Example:
    """A row, read.

    `kind` says which of the parts count: chat (`messages` is the conversation), text (`prompt` is
    all of it, and all of it is learned), completion (`prompt` and `completion` are raw text from
    the user's own template), preference (`messages` is the prompt, `chosen` and `rejected` are
    its two continuations), unpaired (`messages` is the prompt, `chosen` the answer and `label`
    whether it is a good one).
    """

    kind: Kind
    messages: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    prompt: str = ""
    completion: str = ""
    chosen: list[Message] = field(default_factory=list)
    rejected: list[Message] = field(default_factory=list)
    label: bool | None = None


class RowError(StudioError):
    """A row that can't be used. `fault` is the name under which it is counted and dropped; `detail`
    says more of an unreadable one: non_text or unknown_role, or nothing."""

    def __init__(
        self, message: str, hint: str = "", fault: RowFault = "unreadable", detail: str = ""
    ) -> None:
        super().__init__(message, hint)
        self.fault: RowFault = fault
        self.detail = detail


@dataclass(frozen=True)
class Broken:
    """Stands where a row should be that is none: `reason` is a sentence, `hint` the remedy."""

    reason: str
    hint: str = "Mend or remove it."

    def error(self) -> RowError:
        """The same as an error."""
        return RowError(self.reason, self.hint, "broken")


def soft_faults(example: Example) -> set[str]:
    """What is odd about an example that can be used all the same: role_order where the roles do
    not take turns as they should, bad_encoding where its text was read wrongly at some time,
    same_pair where the better and the worse answer are one."""
    faults = set()
    if not _in_order(example):
        faults.add("role_order")
    if any(_badly_encoded(text) for text in texts(example)):
        faults.add("bad_encoding")
    if example.kind == "preference" and example.chosen == example.rejected:
        faults.add("same_pair")
    return faults


def texts(example: Example) -> list[str]:
    """Every text of the example, in its order; calls of tools as JSON."""
    found = [example.prompt, example.completion] if example.prompt or example.completion else []
    for message in (*example.messages, *example.chosen, *example.rejected):
        found += [message["content"], *thoughts(message)]
        if message.get("tool_calls"):
            found.append(_json(message["tool_calls"]))
    return found


def thoughts(message: Message) -> list[str]:
    """What was thought before it was said, or nothing."""
    return [message["reasoning_content"]] if "reasoning_content" in message else []


def last_answer(example: Example) -> str:
    """The last answer that is learned; nothing where there is none but text or a call."""
    said = example.chosen or example.messages
    last = said[-1]["content"] if said and said[-1]["role"] == "assistant" else ""
    return str(last or example.completion).strip()


# Between what is asked and what is answered in the text by which rows are compared.
APART = "\x1e"


def likeness(example: Example) -> str:
    """The text by which rows are compared for duplicates: all that is said but the system message
    and the list of tools, which many rows share; what is asked first, then APART and what is
    answered. A label counts: with another, a row is another."""
    asked, answered = [example.prompt], [example.completion]
    for message in (*example.messages, *example.chosen, *example.rejected):
        if message["role"] != "system":
            said = answered if message["role"] == "assistant" else asked
            said += [*thoughts(message), message["content"]]
            if message.get("tool_calls"):
                said.append(_json(message["tool_calls"]))
    if example.label is not None:
        answered.append(str(example.label))
    return APART.join("\n".join(part for part in said if part) for said in (asked, answered))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _in_order(example: Example) -> bool:
    match example.kind:
        case "chat":
            return _takes_turns(example.messages)
        case "preference":
            return all(
                _takes_turns([*example.messages, *answer])
                for answer in (example.chosen, example.rejected)
            )
        case "unpaired":
            return _takes_turns([*example.messages, *example.chosen])
        case _:
            return True


# Who may speak after whom; "call" is an assistant that calls tools.
_AFTER = {
    "start": ("user",),
    "user": ("assistant", "call"),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant", "call"),
}


def _takes_turns(messages: Sequence[Message]) -> bool:
    """Whether there is a system message first or none, then user and assistant in turn with the
    tools after the calls, and an assistant at the end."""
    before = "start"
    for number, message in enumerate(messages):
        role = message["role"]
        if role == "system" and number == 0:
            continue
        now = "call" if role == "assistant" and message.get("tool_calls") else role
        if now not in _AFTER[before]:
            return False
        before = now
    return before in ("assistant", "call")


# Lone surrogates, the mark of a failed decoding, and NUL.
_BAD = re.compile("[\ud800-\udfff\ufffd\x00]")
# UTF-8 that was read as Windows-1252: the first byte of a character and those that follow it. One
# such pair may well be meant ("Spaß”", "café…”"), two in a row are not; some are never meant.
_FOLLOW = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_MOJIBAKE = re.compile(
    f"ï»¿|ï¿½|Â[\xa0-\xbf]|Ã[\x80-\xbf€‚ƒ„†‡ˆ‰Š‹ŒŽ•–—˜™š›œžŸ]|â€[{_FOLLOW}]|ðŸ[{_FOLLOW}]{{2}}"
    f"|(?:[Â-ß][{_FOLLOW}]){{2,}}|(?:[à-ï][{_FOLLOW}]{{2}}){{2,}}"
)
# How each of those begins: a look that takes a tenth of the time.
_SUSPECT = re.compile(f"[Â-ð][{_FOLLOW}]")


def _badly_encoded(text: str) -> bool:
    if text.isascii():
        return "\x00" in text
    if _BAD.search(text):
        return True
    if not _SUSPECT.search(text):
        return False
    return any(_was_utf8(found.group()) for found in _MOJIBAKE.finditer(text))


def _was_utf8(text: str) -> bool:
    """Whether the letters are the bytes of whole characters; the five bytes that Windows-1252
    leaves out stand for themselves."""
    raw = b"".join(bytes([ord(c)]) if ord(c) < 256 else c.encode("cp1252", "replace") for c in text)
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
