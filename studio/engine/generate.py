"""Writing answers: the settings in, text by side out, streamed where that is possible."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from studio.data import Message
from studio.engine.prompting import Prompter
from studio.engine.render import Renderer
from studio.engine.report import Stopped
from studio.errors import StudioError
from studio.spec import GenerateSection

_PROBE = "ATELIER"


@dataclass(frozen=True)
class Voice:
    """What hears and interrupts an answer that is being written. `say` gets new text by side and
    may raise Stopped; `stopped` tells whether to go on."""

    say: Callable[[Mapping[str, str]], None]
    stopped: Callable[[], bool]


@dataclass(frozen=True)
class Written:
    """One side's answer and the number of its tokens, its end not counted."""

    text: str
    tokens: int


@dataclass
class Speaker:
    """A model that answers, its tokenizer, what makes a prompt of a conversation, and the tokens
    that end its answers."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    prompt: Prompter
    ends: list[int]


def write(
    speaker: Speaker,
    sides: Mapping[str, Sequence[Message]],
    section: GenerateSection,
    voice: Voice,
    **extra: Any,
) -> dict[str, Written]:
    """One answer for each side, all in one batch; `extra` goes to `generate`.

    Raises StudioError where a conversation does not fit the model, Stopped where nobody listens.
    """
    model, tokenizer = speaker.model, speaker.tokenizer
    prompts = [speaker.prompt(messages) for messages in sides.values()]
    batch = tokenizer(
        prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    ).to(model.device)
    length = batch["input_ids"].shape[1]
    _check_fits(length, model.config)
    stream = Stream(tokenizer, list(sides), speaker.ends, voice)
    torch.manual_seed(section.seed)
    with torch.inference_mode():
        output = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            generation_config=generation_config(section, speaker),
            stopping_criteria=StoppingCriteriaList([_Interrupted(stream)]),
            # Beams are rewritten until the end: there is nothing to stream.
            streamer=stream if section.num_beams == 1 else None,
            **extra,
        )
    if section.num_beams > 1:
        stream.put_whole(output[:, length:])
    if stream.interrupted:
        raise Stopped
    return stream.written()


def generation_config(section: GenerateSection, speaker: Speaker) -> GenerationConfig:
    """Every setting of the section, said where it has an effect: what has none only warns."""
    sampling: dict[str, Any] = {}
    if section.do_sample:
        sampling = {
            "temperature": section.temperature,
            "top_p": section.top_p,
            "top_k": section.top_k,
        }
    beams: dict[str, Any] = {}
    if section.num_beams > 1:
        beams = {
            "length_penalty": section.length_penalty,
            "early_stopping": section.early_stopping,
        }
    return GenerationConfig(
        max_new_tokens=section.max_new_tokens,
        do_sample=section.do_sample,
        num_beams=section.num_beams,
        repetition_penalty=section.repetition_penalty,
        eos_token_id=speaker.ends,
        pad_token_id=speaker.tokenizer.pad_token_id,
        bos_token_id=speaker.tokenizer.bos_token_id,
        **sampling,
        **beams,
    )


def stop_ids(tokenizer: PreTrainedTokenizerBase, model: Any) -> list[int]:
    """The tokens that end an answer: the model's, the tokenizer's, and the one that the chat
    template closes a turn with, which some models name nowhere else."""
    named = model.generation_config.eos_token_id
    found = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    if tokenizer.chat_template:
        turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
        closing = Renderer(tokenizer).text(turn).rpartition(_PROBE)[2]
        ids = tokenizer(closing, add_special_tokens=False)["input_ids"]
        if ids and ids[0] in tokenizer.all_special_ids:
            found.add(ids[0])
    return sorted(token for token in found if token is not None)


def _check_fits(length: int, config: Any) -> None:
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and length >= context:
        raise StudioError(
            f"The conversation is {length} tokens long; this model holds {context}.",
            "Clear the chat, or shorten the system prompt.",
        )


class Stream(BaseStreamer):
    """Turns batches of tokens into new text by side.

    It never raises: peft leaves hooks behind in a model whose generation breaks off. An answer that
    nobody hears any more is marked `interrupted` and ended by the stopping criteria.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        sides: Sequence[str],
        ends: Sequence[int],
        voice: Voice,
    ) -> None:
        self._rows = {side: _Row(tokenizer, ends) for side in sides}
        self._voice = voice
        self._prompt_is_next = True
        self.interrupted = False

    def put(self, value: torch.Tensor) -> None:
        """The prompts first, of shape (rows, length); then one token a row, of shape (rows,)."""
        if value.dim() > 1:
            return
        self._say(
            {
                side: row.push(token)
                for (side, row), token in zip(self._rows.items(), value.tolist(), strict=True)
            }
        )

    def end(self) -> None:
        """Nothing follows: what was held back is said now."""
        self._say({side: row.flush() for side, row in self._rows.items()})

    def put_whole(self, rows: torch.Tensor) -> None:
        """Whole answers of shape (rows, length), said in one go."""
        for side, tokens in zip(self._rows, rows.tolist(), strict=True):
            row = self._rows[side]
            for token in tokens:
                row.push(token)
            row.flush()
        self._say({side: "".join(row.said) for side, row in self._rows.items()})

    def _say(self, new: dict[str, str]) -> None:
        said = {side: text for side, text in new.items() if text}
        if said and not self.interrupted:
            try:
                self._voice.say(said)
            except Stopped:
                self.interrupted = True

    def check(self) -> bool:
        """Whether to break off; asked once a token."""
        self.interrupted = self.interrupted or self._voice.stopped()
        return self.interrupted

    def written(self) -> dict[str, Written]:
        """The whole answers."""
        return {side: Written("".join(row.said), row.count) for side, row in self._rows.items()}


class _Interrupted(StoppingCriteria):
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._stream.check(), device=input_ids.device)


class _Row:
    """One answer's tokens as text that only grows.

    A token may be part of a character, and its text may depend on the token before it. So a token
    is decoded together with those of the last piece that was said, and what ends in the middle of a
    character (U+FFFD) is held back until the character is whole.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ends = frozenset(ends)
        self._tokens: list[int] = []
        self._said_from = self._said_to = 0
        self._ended = False
        self.said: list[str] = []

    @property
    def count(self) -> int:
        return len(self._tokens)

    def push(self, token: int) -> str:
        """The new text, possibly empty. Once the answer has ended, what follows is padding."""
        if self._ended or token in self._ends:
            self._ended = True
            return ""
        self._tokens.append(token)
        return self._new(whole=False)

    def flush(self) -> str:
        return self._new(whole=True)

    def _new(self, *, whole: bool) -> str:
        before = self._decode(self._tokens[self._said_from : self._said_to])
        text = self._decode(self._tokens[self._said_from :])
        if len(text) <= len(before) or (text.endswith("\ufffd") and not whole):
            return ""
        self._said_from, self._said_to = self._said_to, len(self._tokens)
        self.said.append(text[len(before) :])
        return self.said[-1]

    def _decode(self, tokens: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )
