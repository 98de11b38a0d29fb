"""From a row to an example, by its layout."""

import re
from dataclasses import replace
from typing import Any

from studio.data.example import Example, Message, Row, RowError
from studio.data.layouts import Layout, is_verdict
from studio.data.prompts import render
from studio.data.turns import (
    NOTHING,
    empty_answer,
    is_turn,
    is_turns,
    messages,
    pairs,
    text,
    tools,
    unread,
)
from studio.spec import DataSection, System

# The parts of the question in the order in which they are said, the one that must be there, and
# the part that is the answer.
_PAIRS = {
    "alpaca": (("instruction", "input"), "instruction", "output"),
    "dolly": (("instruction", "context"), "instruction", "response"),
    "prompt_completion": (("prompt",), "prompt", "completion"),
    "question_answer": (("context", "question"), "question", "answer"),
}
_TURNS = {
    "messages": "messages",
    "sharegpt": "conversations",
    "conversation": "conversation",
}


def to_example(row: Row, layout: Layout, section: DataSection) -> Example:
    """What the row says. Raises RowError that says what is wrong with it."""
    if section.prompt_template:
        return _written(row, section.prompt_template, section.completion_template)
    part = _Parts(row, layout)
    match layout.name:
        case "text":
            return _text(part)
        case "preference":
            example = _preference(part)
        case "kto":
            example = _unpaired(part)
        case "messages" | "sharegpt" | "conversation":
            example = Example("chat", part.turns(_TURNS[layout.name]))
        case name:
            question, answer = _pair(part, *_PAIRS[name])
            before = (
                pairs(part.value("history"), part.column("history")) if part.has("history") else []
            )
            example = Example("chat", [*before, *question, *answer])
    if example.kind == "chat" and not any(m["role"] == "assistant" for m in example.messages):
        raise RowError(
            "It has no answer to learn from.", "Add an assistant's turn, or drop such rows."
        )
    return _completed(example, part)


def unread_keys(row: Row, layout: Layout) -> set[str]:
    """The keys in the row's turns under which something stands that is not read."""
    return set().union(*(unread(row.get(column)) for column in layout.columns.values()))


def with_system(example: Example, step: System) -> Example:
    """The example with the step's system message. Raw text has none."""
    if example.kind in ("text", "completion"):
        return example
    own = [m for m in example.messages if m["role"] == "system"]
    if own and step.when == "missing":
        return example
    others = [m for m in example.messages if m["role"] != "system"]
    return replace(example, messages=[{"role": "system", "content": step.text}, *others])


class _Parts:
    """A row's values under the names of the layout's parts."""

    def __init__(self, row: Row, layout: Layout) -> None:
        self._row = row
        self._columns = layout.columns

    def column(self, part: str) -> str:
        """The name of the part's column; of one that the layout lacks, the part's own."""
        return self._columns.get(part, part)

    def has(self, part: str) -> bool:
        """Whether the row has something there."""
        return part in self._columns and self._row.get(self._columns[part]) not in NOTHING

    def value(self, part: str) -> Any:
        """What must be there. Raises RowError where the row lacks the column."""
        column = self.column(part)
        if column not in self._row:
            raise RowError(
                f"The column `{column}` is missing.", "Add it, or drop such rows as unreadable."
            )
        return self._row[column]

    def text(self, part: str) -> str:
        """The part as text."""
        return text(self.value(part), f"`{self.column(part)}`")

    def says_impossible(self) -> bool:
        """Whether the row is a question of SQuAD that has no answer."""
        return self._row.get("is_impossible") is True

    def turns(self, part: str) -> list[Message]:
        """The part as messages."""
        return messages(self.value(part), self.column(part))


def _written(row: Row, prompt: str, completion: str | None) -> Example:
    written = text(render(prompt, row), "The prompt")
    if not completion:
        if not written.strip():
            raise empty_answer("The text")
        return Example("text", prompt=written)
    answer = text(render(completion, row), "The completion")
    if not answer.strip():
        raise empty_answer("The completion")
    return Example("completion", prompt=written, completion=answer)


def _text(part: _Parts) -> Example:
    written = part.text("text")
    if not written.strip():
        raise empty_answer(f"`{part.column('text')}`")
    return Example("text", prompt=written)


def _pair(
    part: _Parts, said: tuple[str, ...], main: str, answer: str
) -> tuple[list[Message], list[Message]]:
    """Question and answer. Each may be turns already."""
    names = [name for name in said if name == main or part.has(name)]
    asked = part.turns(main) if is_turns(part.value(main)) else [_user(part, *names)]
    reply = part.value(answer)
    if is_turns(reply) or is_turn(reply):
        return asked, part.turns(answer)
    return asked, [_assistant(part, answer, _first_answer(reply) if main == "question" else reply)]


def _user(part: _Parts, *parts: str) -> Message:
    texts = [part.text(name) for name in parts]
    return {"role": "user", "content": "\n\n".join(t for t in texts if t)}


def _assistant(part: _Parts, name: str, value: Any) -> Message:
    where = f"`{part.column(name)}`"
    said = text(value, where)
    if not said.strip():
        if part.says_impossible():
            raise RowError(
                "The question can't be answered from its context, so there is no answer.",
                "Drop such rows, or write in a completion template what is to be said.",
                "empty_answer",
            )
        raise empty_answer(where)
    return {"role": "assistant", "content": said}


def _first_answer(value: Any) -> Any:
    """Of several answers to a question, as {"text": [...]} or as a list, the first."""
    if isinstance(value, dict) and "text" in value:
        value = value["text"]
    if isinstance(value, list):
        value = value[0] if value else ""
        return _first_answer(value) if isinstance(value, dict) else value
    return value


def _preference(part: _Parts) -> Example:
    chosen, rejected = _continuation(part, "chosen"), _continuation(part, "rejected")
    prompt: list[Message] = []
    if part.has("prompt"):
        names = ("prompt", "input") if part.has("input") else ("prompt",)
        turns = is_turns(part.value("prompt"))
        prompt = part.turns("prompt") if turns else [_user(part, *names)]
    # Whole conversations hold the prompt themselves, once in each.
    same, most = 0, min(len(chosen), len(rejected)) - 1
    while same < most and chosen[same] == rejected[same]:
        same += 1
    if same and chosen[0]["role"] != "assistant":
        prompt = []
    prompt = [*prompt, *chosen[:same]]
    if not prompt:
        raise RowError(
            f"`{part.column('chosen')}` and `{part.column('rejected')}` have no prompt.",
            "Say under Columns which column is the prompt, or drop such rows.",
        )
    return Example("preference", prompt, chosen=chosen[same:], rejected=rejected[same:])


_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def _continuation(part: _Parts, name: str) -> list[Message]:
    """An answer: text, a turn, a conversation with it at its end, or such a one as a transcript."""
    value = part.value(name)
    if is_turn(value) or is_turns(value):
        return part.turns(name)
    said = text(value, f"`{part.column(name)}`")
    if not said.lstrip().startswith("Human:") or part.has("prompt"):
        return [_assistant(part, name, said)]
    _, *spoken = _SPEAKER.split(said.strip())
    turns = [
        {"from": speaker, "value": words.strip()}
        for speaker, words in zip(spoken[::2], spoken[1::2], strict=True)
    ]
    return messages(turns, part.column(name))


def _unpaired(part: _Parts) -> Example:
    label = part.value("label")
    if not is_verdict(label):
        raise RowError(
            f"`{part.column('label')}` is {label!r}, neither true nor false.",
            "Write true for a good answer and false for a bad one.",
        )
    if part.has("messages"):
        turns = part.turns("messages")
    else:
        asked, answer = _pair(part, *_PAIRS["prompt_completion"])
        turns = [*asked, *answer]
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise RowError(
            "It does not end with an answer to judge.", "Add the answer, or drop such rows."
        )
    good = str(label).lower() in ("1", "true")
    return Example("unpaired", turns[:-1], chosen=turns[-1:], label=good)


def _completed(example: Example, part: _Parts) -> Example:
    """With the system message and the tools that stand in columns of their own."""
    turns = example.messages
    if part.has("system") and not any(m["role"] == "system" for m in turns):
        turns = [{"role": "system", "content": part.text("system")}, *turns]
    offered = tools(part.value("tools"), part.column("tools")) if part.has("tools") else None
    if offered is None and turns is example.messages:
        return example
    return replace(example, messages=turns, tools=offered)
