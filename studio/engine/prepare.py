"""From rows to what the trainer gets: tokens and labels.

The preview shows what `encode` returns, and the trainer gets what `encode` returns: what is shown
as trained is what is trained.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from studio.data import Layout, Message, to_messages
from studio.errors import StudioError

Span = tuple[int, int]
IGNORED = -100
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Encoded:
    """One row as the trainer gets it. `labels` holds the token's id where it is learned, else
    -100; `pieces` are the tokens' texts, which joined with `cut`, what was cut off, give `text`."""

    text: str
    input_ids: list[int]
    labels: list[int]
    pieces: list[str]
    cut: list[str] = field(default_factory=list)

    @property
    def trained(self) -> list[bool]:
        """For each token, whether it is learned."""
        return [label != IGNORED for label in self.labels]


def encode_row(
    row: dict[str, Any],
    layout: Layout,
    tokenizer: PreTrainedTokenizerBase,
    train_on: str,
    max_length: int,
    system_prompt: str | None = None,
) -> tuple[list[Message], Encoded]:
    """The row's messages and their tokens. Raises StudioError that says what is wrong with it."""
    messages = to_messages(row, layout, system_prompt)
    return messages, encode(tokenizer, messages, train_on, max_length)


def encode(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], train_on: str, max_length: int
) -> Encoded:
    """Renders the conversation with the model's template and marks the tokens that are learned.

    `train_on`: assistant (all answers), last (the last answer) or everything. A token is learned
    if it begins inside an answer; an answer ends with its end-of-turn token. Raises StudioError
    where the template refuses the conversation or can't be marked.
    """
    text = render(tokenizer, messages)
    # The template writes the special tokens itself: adding them again would double the first.
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = tokens["input_ids"], tokens["offset_mapping"]
    spans = [(0, len(text))] if train_on == "everything" else _answers(tokenizer, messages, text)
    if train_on == "last":
        spans = spans[-1:]
    labels = [
        token if any(start <= begin < end for start, end in spans) else IGNORED
        for token, (begin, _) in zip(ids, offsets, strict=True)
    ]
    pieces = _pieces(text, offsets)
    return Encoded(
        text, ids[:max_length], labels[:max_length], pieces[:max_length], pieces[max_length:]
    )


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prompt: bool = False
) -> str:
    """The conversation as the model reads it; with `prompt`, up to where its answer begins.

    Raises StudioError where the template refuses it.
    """
    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=prompt
            )
        )
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        raise StudioError(
            f"The model's chat template refuses this conversation: {error}",
            "Most templates want user and assistant in turn, and some know no system message.",
        ) from None


def _answers(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str
) -> list[Span]:
    """Where the answers stand in `text`, in characters."""
    template = tokenizer.get_chat_template()
    if _GENERATION.search(template):
        return _marked(tokenizer, messages, template, text)
    return [
        _span(tokenizer, messages, number, text)
        for number, message in enumerate(messages)
        if message["role"] == "assistant"
    ]


def _marked(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], template: str, text: str
) -> list[Span]:
    """The spans that the template itself marks with {% generation %}."""
    rendered, spans = render_jinja_template(
        conversations=[list(messages)],
        chat_template=template,
        return_assistant_tokens_mask=True,
        add_generation_prompt=False,
        **tokenizer.special_tokens_map,
    )
    if rendered[0] != text:
        raise _unstable()
    return [(start, end) for start, end in spans[0]]


def _span(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], number: int, text: str
) -> Span:
    """Where the answer `messages[number]` stands: it begins where the model would begin to write.

    A template without a generation prompt leaves the answer's header to the model, so the header
    is learned with it.
    """
    after = render(tokenizer, messages[: number + 1])
    # Nothing stands before the first message that could be rendered: its words tell the place.
    before = (
        render(tokenizer, messages[:number], prompt=True)
        if number
        else after.partition(messages[0]["content"].strip())[0]
    )
    if not text.startswith(before):
        raise _unstable()
    # What follows the end-of-turn token, mostly a line break, the model never has to write.
    if text.startswith(after):
        return len(before), max(len(before), len(after.rstrip()))
    return len(before), _end_by_content(messages[number]["content"].strip(), before, after, text)


def _end_by_content(content: str, before: str, after: str, text: str) -> int:
    """The answer's end where a template writes it another way once more turns follow, as those of
    thinking models do: found by its words and by what closes it when it is the last."""
    _, found, closing = after[len(before) :].rpartition(content)
    at = text.find(content, len(before))
    end = at + len(content) + len(closing.rstrip())
    if not content or not found or at < 0 or text[at + len(content) : end] != closing.rstrip():
        raise _unstable()
    return end


def _unstable() -> StudioError:
    return StudioError(
        "This model's chat template is not prefix-stable: it writes earlier turns another way once "
        "more turns follow, so it can't be told where an answer stands.",
        "Learn from everything, or put a chat_template.jinja with {% generation %} marks into the "
        "model's folder.",
    )


def _pieces(text: str, offsets: Sequence[Span]) -> list[str]:
    """Each token's part of the text; joined they give the text. Of tokens that share a character,
    as the bytes of an emoji do, the first shows it and the others are empty."""
    pieces, shown = [], 0
    for _, end in offsets:
        pieces.append(text[shown:end])
        shown = max(shown, end)
    if pieces:
        pieces[-1] += text[shown:]
    return pieces
