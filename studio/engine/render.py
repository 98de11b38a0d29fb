"""From a conversation to its text, and to where in that text the answers stand.

The exact way renders the conversation again up to each answer. Where a template merely strings
messages together, as most do, the same places are found from one rendering: the text's end must
then be, letter for letter, the messages from the first answer on with the template's own words
between them. Where it is not, the exact way decides.
"""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from studio.data import Message, RowError
from studio.data.sandbox import Budget, budget
from studio.engine import chat_sandbox
from studio.engine.deadline import Deadline, TooLong
from studio.errors import StudioError

chat_sandbox.install()

Span = tuple[int, int]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SECONDS = 2.0
# transformers keeps one compiled template for all who use it, and with it the spans that it marks:
# two threads at once would get each other's.
_one_at_a_time = threading.Lock()
# What a template may raise: it is a program of somebody else's.
_FAILURES = (
    jinja2.TemplateError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError,
    RecursionError, MemoryError,
)  # fmt: skip
NO_TEMPLATE = "This model has no chat template, so it was not made for conversations."
CHOOSE_TEMPLATE = (
    "Set data.chat_template to chatml and data.add_template_tokens to true, or choose the model's "
    "Instruct version."
)
_SAID = {"role", "content"}
# What a template may write around the content.
_BESIDE = {"tool_calls", "reasoning_content"}
# Words that no template has of its own.
_PROBE = ("Qzq1", "Azq1", "Qzq2", "Azq2")


@dataclass(frozen=True)
class Glue:
    """What a template writes between the contents of messages. An answer's span begins `before`
    letters before its content and ends `after` letters after it."""

    to_user: str
    to_assistant: str
    tail: str
    before: int
    after: int


class Renderer:
    """A tokenizer's chat template at work."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._deadline = Deadline(_SECONDS)
        self._template: dict[bool, str] = {}
        self._glue: Glue | bool | None = False
        self._compiled: jinja2.Template | None = None
        self._special: dict[str, Any] = {}

    def template(self, tools: bool = False) -> str:
        """The template's source; models may have another one for conversations with tools.
        Raises RowError (rejected) where there is none."""
        if tools not in self._template:
            if not self.tokenizer.chat_template:
                raise RowError(NO_TEMPLATE, CHOOSE_TEMPLATE, "rejected")
            self._template[tools] = self.tokenizer.get_chat_template(tools=[{}] if tools else None)
        return self._template[tools]

    def text(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]] | None = None,
        prompt: bool = False,
    ) -> str:
        """The conversation as the model reads it; with `prompt`, up to where its answer begins.

        Raises RowError (rejected) where the template refuses it.
        """
        return self._rendered(messages, tools, prompt, spans=False)[0]

    def whole(self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None) -> str:
        """The text of a conversation of which nothing is left out; else raises RowError."""
        text = self.text(messages, tools)
        _refuse_gaps(messages, tools, text)
        return text

    def answers(
        self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None
    ) -> tuple[str, list[Span]]:
        """The text and the span of each assistant message in it, in characters; where the template
        marks what is learned, its marks. Raises RowError (rejected) where the template refuses the
        conversation, leaves a part of it out, or can't be told where an answer stands."""
        marked = bool(_GENERATION.search(self.template(bool(tools))))
        text, spans = self._rendered(messages, tools, False, spans=marked)
        if not marked:
            plain = tools is None and all(
                m["role"] != "tool" and not m.keys() & _BESIDE for m in messages
            )
            found = self._strung(messages, text) if plain else None
            spans = found if found is not None else self._exact(messages, tools, text)
        _refuse_gaps(messages, tools, text)
        return text, spans

    def _rendered(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]] | None,
        prompt: bool,
        spans: bool,
    ) -> tuple[str, list[Span]]:
        try:
            with _one_at_a_time, self._deadline, budget(Budget()):
                if not spans and tools is None and _is_plain(messages):
                    return self._plainly(messages, prompt), []
                rendered, found = render_jinja_template(
                    conversations=[[_without_weight(message) for message in messages]],
                    tools=tools,
                    chat_template=self.template(bool(tools)),
                    return_assistant_tokens_mask=spans,
                    add_generation_prompt=prompt,
                    **self.tokenizer.special_tokens_map,
                )
        except TooLong:
            raise StudioError(
                f"The chat template was stopped: it took longer than {_SECONDS:g} s for one row.",
                "Its loops are too long; mend it, or choose another one.",
            ) from None
        except SecurityError as error:
            raise StudioError(
                f"The chat template was stopped: {str(error).rstrip('.')}.",
                "Mend it, or choose another one.",
            ) from None
        except _FAILURES as error:
            raise RowError(
                f"The chat template refuses this conversation: {error or type(error).__name__}",
                "Most templates want user and assistant in turn, and some know no system message. "
                "Drop such rows, or choose another template.",
                "rejected",
            ) from None
        return str(rendered[0]), [(a, b) for a, b in found[0]] if spans else []

    def _plainly(self, messages: Sequence[Message], prompt: bool) -> str:
        """What `render_jinja_template` writes of messages that hold nothing but text. It copies all
        that it is given first, in case there is more in it, which takes as long as the rest."""
        if self._compiled is None:
            self._compiled = _compile_jinja_template(self.template())
            self._special = dict(self.tokenizer.special_tokens_map)
        return str(
            self._compiled.render(
                messages=list(messages), tools=None, documents=None,
                add_generation_prompt=prompt, **self._special,
            )
        )  # fmt: skip

    def _strung(self, messages: Sequence[Message], text: str) -> list[Span] | None:
        """The spans where the text ends with the messages strung together, else None."""
        glue = self.glue()
        start = next((n for n, m in enumerate(messages) if m["role"] == "assistant"), None)
        # Where the very first message begins, glue can't tell: nothing came before it.
        if glue is None or not start:
            return None
        for strip in (False, True):
            parts: list[str] = []
            places: list[Span] = []
            length, role = 0, "user"
            for message in messages[start:]:
                if message["role"] == role or message["role"] not in ("user", "assistant"):
                    return None
                role = message["role"]
                content = message["content"].strip() if strip else message["content"]
                between = glue.to_assistant if role == "assistant" else glue.to_user
                # What stands before the first answer belongs to what came before.
                between = between if parts else ""
                if role == "assistant":
                    begin = length + len(between)
                    places.append((begin, begin + len(content)))
                parts += [between, content]
                length += len(between) + len(content)
            if role != "assistant":
                return None
            whole = "".join(parts) + glue.tail
            if text.endswith(whole):
                at = len(text) - len(whole)
                if not text.endswith(glue.to_assistant, 0, at):
                    return None
                if glue.after:
                    return [(at + a - glue.before, at + b + glue.after) for a, b in places]
                # Nothing closes an answer: the spaces at its end are not learned either.
                ends = [len(text[: at + b].rstrip()) for _, b in places]
                begins = [at + a - glue.before for a, _ in places]
                return [(a, max(a, b)) for a, b in zip(begins, ends, strict=True)]
        return None

    def glue(self) -> Glue | None:
        """What the template writes between messages, or None where it does more than that."""
        if isinstance(self._glue, bool):
            self._glue = self._learned()
        return self._glue

    def _learned(self) -> Glue | None:
        roles = ("user", "assistant", "user", "assistant")
        probe = [{"role": r, "content": c} for r, c in zip(roles, _PROBE, strict=True)]
        try:
            text = self.text(probe)
            spans = self._exact(probe, None, text)
        except StudioError:
            return None
        places = [text.find(word) for word in _PROBE]
        ends = [at + len(word) for at, word in zip(places, _PROBE, strict=True)]
        if -1 in places or places != sorted(places):
            return None
        (b1, e1), (b2, e2) = spans
        before, after = places[1] - b1, e1 - ends[1]
        if (before, after) != (places[3] - b2, e2 - ends[3]):
            return None
        to_assistant = text[ends[2] : places[3]]
        if text[ends[0] : places[1]] != to_assistant:
            return None
        return Glue(text[ends[1] : places[2]], to_assistant, text[ends[3] :], before, after)

    def _exact(
        self, messages: Sequence[Message], tools: list[dict[str, Any]] | None, text: str
    ) -> list[Span]:
        return [
            self._span(messages, tools, number, text)
            for number, message in enumerate(messages)
            if message["role"] == "assistant"
        ]

    def _span(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]] | None,
        number: int,
        text: str,
    ) -> Span:
        """Where the answer `messages[number]` stands: it begins where the model would begin to
        write. A template without a generation prompt leaves the answer's header to the model, so
        the header is learned with it."""
        after = self.text(messages[: number + 1], tools)
        content = str(messages[number]["content"]).strip()
        if number:
            before = self.text(messages[:number], tools, prompt=True)
        else:
            # Nothing stands before it that could be rendered: its words tell the place.
            before = after.partition(content)[0] if content else after.rstrip()
        if not text.startswith(before):
            raise unstable()
        # What follows the end-of-turn token, mostly a line break, the model never has to write.
        if text.startswith(after):
            return len(before), max(len(before), len(after.rstrip()))
        return len(before), _end_by_content(content, before, after, text)


def _is_plain(messages: Sequence[Message]) -> bool:
    return all(message.keys() == _SAID for message in messages)


def _without_weight(message: Message) -> Message:
    """The message as a template may see it: what is learned of it is no part of what is said."""
    return {key: value for key, value in message.items() if key != "weight"}


def _refuse_gaps(
    messages: Sequence[Message], tools: list[dict[str, Any]] | None, text: str
) -> None:
    """Raises RowError where the template has left out what the row says."""
    for message in messages:
        content = str(message["content"]).strip()
        # What a tool answered may stand there as JSON.
        kept = content in text or message["role"] == "tool"
        missing = "" if kept else content
        for call in message.get("tool_calls") or ():
            if call["function"]["name"] not in text:
                missing = f"the call of {call['function']['name']}"
        # A thinking model's template drops earlier thoughts, and means to.
        if missing and "</think>" not in content:
            raise _left_out(missing)
    for tool in tools or ():
        if tool["function"]["name"] not in text:
            raise _left_out(f"the tool {tool['function']['name']}")


def _left_out(what: str) -> RowError:
    shown = what if len(what) <= 40 else f"{what[:37]}..."
    return RowError(
        f"The chat template leaves out a part of the row: {shown!r}.",
        "Choose a template that knows tools and system messages, such as chatml, or drop such "
        "rows.",
        "rejected",
    )


def _end_by_content(content: str, before: str, after: str, text: str) -> int:
    """The answer's end where a template writes it another way once more turns follow, as those of
    thinking models do: found by its words and by what closes it when it is the last."""
    if not content:
        raise unstable()
    _, found, closing = after[len(before) :].rpartition(content)
    at = text.find(content, len(before))
    end = at + len(content) + len(closing.rstrip())
    if not found or at < 0 or text[at + len(content) : end] != closing.rstrip():
        raise unstable()
    return end


def unstable() -> RowError:
    """A template that writes what was said another way once more is said."""
    return RowError(
        "This model's chat template is not prefix-stable: it writes earlier turns another way once "
        "more turns follow, so it can't be told where an answer stands.",
        "Learn from everything, choose another chat template, or write one of your own with "
        "{% generation %} marks around the answers.",
        "rejected",
    )
