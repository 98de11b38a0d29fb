"""From rows to tokens and labels: the one way in which preview, audit and trainer see a row."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from studio.data import Example, Message, RowError
from studio.engine.render import Renderer, Span
from studio.engine.takers import row_limit
from studio.errors import StudioError
from studio.spec import RunSpec

IGNORED = -100
# The name of a sequence that is asked, not learned.
PROMPT = "prompt"
Ids = npt.NDArray[np.int32]
# A sequence before it is encoded: its name, its text and the spans of the text that are learned.
Prepared = tuple[str, str, list[Span]]


@dataclass(frozen=True)
class Tokens:
    """One sequence of a row. `ranges` are the tokens that are learned, as [from, to) in ascending
    order; what lies from `max_length` on is cut off. `name` tells the sequences of a row apart:
    chosen and rejected, or nothing where there is only one."""

    name: str
    text: str
    encoding: Encoding
    ranges: tuple[Span, ...]
    max_length: int

    @property
    def total(self) -> int:
        """Tokens before anything is cut off."""
        return len(self.encoding)

    @property
    def length(self) -> int:
        """Tokens that the trainer gets."""
        return min(self.total, self.max_length)

    @property
    def cut(self) -> int:
        """Tokens that are cut off."""
        return self.total - self.length

    @property
    def trained(self) -> int:
        """Tokens that are learned."""
        limit = self.length
        return sum(max(0, min(end, limit) - min(start, limit)) for start, end in self.ranges)

    @property
    def input_ids(self) -> Ids:
        """Shape (length,)."""
        return np.asarray(self.encoding.ids[: self.max_length], dtype=np.int32)

    @property
    def labels(self) -> Ids:
        """Shape (length,): the token's id where it is learned, else -100."""
        ids = self.input_ids
        labels = np.full_like(ids, IGNORED)
        for start, end in self.ranges:
            labels[start:end] = ids[start:end]
        return labels

    @property
    def prompt(self) -> int:
        """Tokens before the first that is learned."""
        return min(self.ranges[0][0] if self.ranges else self.total, self.length)

    def pieces(self) -> list[str]:
        """Every token's part of the text, those cut off too; joined they give the text. Of tokens
        that share a character, as the bytes of an emoji do, the first shows it."""
        pieces, shown = [], 0
        for _, end in self.encoding.offsets:
            pieces.append(self.text[shown:end])
            shown = max(shown, end)
        if pieces:
            pieces[-1] += self.text[shown:]
        return pieces


@dataclass(frozen=True)
class Encoded:
    """A row as its trainer takes it: one sequence, or of a preference two."""

    example: Example
    sequences: tuple[Tokens, ...]

    @property
    def cut(self) -> bool:
        """Whether anything is cut off."""
        return any(s.cut for s in self.sequences)

    @property
    def learns(self) -> bool:
        """Whether every sequence has a token left to learn from; a prompt alone has to be whole."""
        return all(not s.cut if s.name == PROMPT else s.trained for s in self.sequences)


@dataclass
class Encoder:
    """Encodes rows for one tokenizer, one trainer and one choice of what is learned. `ends`: raw
    text gets the end token."""

    tokenizer: PreTrainedTokenizerBase
    train_on: str
    max_length: int
    trainer: str = "sft"
    ends: bool = True
    renderer: Renderer = field(init=False)

    def __post_init__(self) -> None:
        self.renderer = Renderer(self.tokenizer)
        self._backend = self.tokenizer.backend_tokenizer
        # Whatever the model's files say: nothing is cut or filled up before we have counted it.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._bos, self._eos = edges(self.tokenizer)
        if not self.ends:
            self._eos = ""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, spec: RunSpec, limit: int = 0) -> "Encoder":
        """The encoder of a run of `spec`; a `limit` above 0 takes the place of its own."""
        ends = spec.train.trainer != "cpt" or spec.cpt.add_eos_token
        limit = limit or row_limit(spec)
        return cls(tokenizer, spec.data.train_on, limit, spec.train.trainer, ends)

    def encode(self, examples: Sequence[Example]) -> list[Encoded | StudioError]:
        """Each row's sequences, or what is wrong with it: a RowError for the row alone, another
        StudioError for a template under which no row can be trained."""
        prepared = self.prepare(examples)
        texts = [text for p in prepared if isinstance(p, list) for _, text, _ in p]
        # The template writes the special tokens itself: adding them again would double the first.
        encodings = iter(self._backend.encode_batch(texts, add_special_tokens=False))
        return [
            p if isinstance(p, StudioError) else self._encoded(example, p, encodings)
            for example, p in zip(examples, prepared, strict=True)
        ]

    def prepare(self, examples: Sequence[Example]) -> list[list[Prepared] | StudioError]:
        """Each row's sequences as text, or what is wrong with it. A template under which no row
        can be trained is tried on no further one: each may take seconds until it is stopped."""
        found: list[list[Prepared] | StudioError] = []
        fatal: StudioError | None = None
        for example in examples:
            try:
                found.append(fatal or self._texts(example))
            except StudioError as error:
                found.append(error)
                fatal = None if isinstance(error, RowError) else error
        return found

    def one(self, example: Example) -> Encoded:
        """A single row. Raises StudioError."""
        (encoded,) = self.encode([example])
        if isinstance(encoded, StudioError):
            raise encoded
        return encoded

    def _encoded(self, example: Example, prepared: list[Prepared], encodings: Any) -> Encoded:
        sequences = []
        for name, text, spans in prepared:
            encoding = next(encodings)
            # A token is learned if it begins inside an answer.
            ranges = tuple(
                (_from(encoding, start, text), _from(encoding, end, text)) for start, end in spans
            )
            sequences.append(Tokens(name, text, encoding, ranges, self.max_length))
        if example.kind == "preference":
            sequences = _after_one_prompt(*sequences)
            if self.trainer == "orpo":
                # It learns all of the better one, what is asked included.
                chosen = sequences[0]
                sequences[0] = replace(chosen, ranges=((0, chosen.ranges[-1][1]),))
        return Encoded(example, tuple(sequences))

    def _texts(self, example: Example) -> list[Prepared]:
        """The row's sequences as (name, text, what is learned of it)."""
        match example.kind:
            case "chat" if self.trainer == "grpo":
                asked = example.messages[: _last_answer(example.messages)]
                return [(PROMPT, self.renderer.text(asked, example.tools, prompt=True), [])]
            case "chat":
                return [("", *self._chat(example))]
            case "text":
                text = self._edged(example.prompt)
                return [("", text, [(0, len(text))])]
            case "completion":
                raw = example.prompt + example.completion
                text = self._edged(raw)
                start = len(self._begin(raw)) + len(example.prompt)
                whole = self.train_on == "everything" or self.trainer == "cpt"
                start = 0 if whole else start
                return [("", text, [(start, len(text))])]
            case "preference":
                return [
                    (name, *self._answer(example, answer))
                    for name, answer in (("chosen", example.chosen), ("rejected", example.rejected))
                ]
            case _:
                return [("", *self._answer(example, example.chosen))]

    def _chat(self, example: Example) -> tuple[str, list[Span]]:
        messages, tools = example.messages, example.tools
        silent = [m.get("weight") == 0 for m in messages if m["role"] == "assistant"]
        if self.train_on == "everything" and not any(silent):
            text = self.renderer.whole(messages, tools)
            return text, [(0, len(text))]
        text, spans = self.renderer.answers(messages, tools)
        if self.train_on == "assistant" and not any(silent):
            return text, spans
        _refuse_odd_marks(spans, messages)
        if self.train_on == "everything":
            return text, _around(spans, silent, len(text))
        last = 1 if self.train_on == "last" else _answers_after_the_last_question(messages)
        count = len(spans) if self.train_on == "assistant" else last
        learned = [s for s, no in zip(spans[-count:], silent[-count:], strict=True) if not no]
        if not learned:
            raise RowError(
                "Its answers have the weight 0, so there is nothing to learn of it.",
                "Drop such rows, or give an answer the weight 1.",
                "nothing_trained",
            )
        return text, learned

    def _answer(self, example: Example, answer: list[Message]) -> tuple[str, list[Span]]:
        """The prompt with one of its answers, which is learned, and nothing after it: dpo and kto
        judge all that follows the prompt."""
        messages = [*example.messages, *answer]
        text, spans = self.renderer.answers(messages, example.tools)
        _refuse_odd_marks(spans, messages)
        first = spans[-sum(m["role"] == "assistant" for m in answer)][0]
        return text[: spans[-1][1]], [(first, spans[-1][1])]

    def _edged(self, text: str) -> str:
        """Raw text with the tokens at its ends that the tokenizer would put there."""
        end = "" if not self._eos or text.endswith(self._eos) else self._eos
        return self._begin(text) + text + end

    def _begin(self, text: str) -> str:
        return "" if not self._bos or text.startswith(self._bos) else self._bos


def _around(spans: Sequence[Span], silent: Sequence[bool], end: int) -> list[Span]:
    """All of a text of that length but the spans that are silent."""
    edges = [0]
    for span, left_out in zip(spans, silent, strict=True):
        edges += span if left_out else ()
    edges.append(end)
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def _after_one_prompt(chosen: Tokens, rejected: Tokens) -> list[Tokens]:
    """The two answers after the same tokens. A tokenizer may join the prompt's last letters with
    the first of one answer: what the two have in common is the prompt then, as trl has it."""
    shared = min(chosen.prompt, rejected.prompt)
    left, right = chosen.encoding.ids[:shared], rejected.encoding.ids[:shared]
    if left != right:
        shared = next(n for n, pair in enumerate(zip(left, right, strict=True)) if len({*pair}) > 1)
    return [
        t if t.prompt == shared else replace(t, ranges=((shared, t.ranges[-1][1]),))
        for t in (chosen, rejected)
    ]


def _from(encoding: Encoding, char: int, text: str) -> int:
    """The first token that begins at this letter of the text or after it."""
    if char >= len(text):
        return len(encoding)
    token = encoding.char_to_token(char)
    # Asked only where it must be: the offsets of all tokens, made into numbers of Python's, cost a
    # tenth of the whole. No token holds a letter that the tokenizer leaves out.
    if token is None:
        return bisect_left(encoding.offsets, (char,))
    while token < len(encoding):
        held = encoding.token_to_chars(token)
        if held is None or held[0] >= char:
            break
        token += 1
    return token


def edges(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What raw text begins with, if the tokenizer begins it with something, and what ends it."""
    bos = tokenizer.bos_token or ""
    starts = bool(bos) and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return (bos if starts else ""), tokenizer.eos_token or ""


def _refuse_odd_marks(spans: Sequence[Span], messages: Sequence[Message]) -> None:
    """Raises RowError where a template's own marks are not one for each answer, so that it can't be
    told which belong to the last."""
    answers = sum(m["role"] == "assistant" for m in messages)
    if len(spans) != answers:
        raise RowError(
            f"The chat template marks {len(spans)} parts of a row with {answers} answers.",
            "Put one {% generation %} mark around each answer, or learn from all of them.",
            "rejected",
        )


def _answers_after_the_last_question(messages: Sequence[Message]) -> int:
    count = 0
    for message in reversed(messages):
        if message["role"] == "user":
            break
        count += message["role"] == "assistant"
    return max(1, count)


def _last_answer(messages: Sequence[Message]) -> int:
    """Where the last answer stands. Raises RowError where nothing is asked before it."""
    at = max(n for n, m in enumerate(messages) if m["role"] == "assistant")
    if not any(m["role"] == "user" for m in messages[:at]):
        raise RowError("Nothing is asked before the answer.", "Mend or remove it.", "rejected")
    return at


def reference_answer(example: Example) -> str:
    """What the row says that the answer to its prompt is."""
    return str(example.messages[_last_answer(example.messages)]["content"])
