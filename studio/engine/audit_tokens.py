"""How many tokens rows have, and how many of them are learned, without the tokens' places.

`Encoder.encode` asks the tokenizer where each token stands, which takes a third of its time. Most
tokenizers cut text by its bytes, and leave none out: then a token's place is told by how many bytes
those before it have. Where that does not add up to the text, `encode` is asked after all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers.decoders import ByteLevel

from studio.data import Example
from studio.engine.encode import Encoded, Encoder
from studio.engine.render import Span
from studio.errors import StudioError

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    """A row in numbers: tokens of its longest sequence before anything is cut off; of all its
    sequences those that the trainer gets, those that are learned and those that are lost; and
    whether every sequence has some to learn."""

    length: int
    tokens: int
    trained: int
    lost: int
    learns: bool


class Measurer:
    """Measures rows as an encoder encodes them."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        # What these two learn of a row is not only what the text says.
        exact = encoder.trainer in ("orpo", "grpo")
        self._sizes = None if exact else _sizes(encoder.tokenizer.backend_tokenizer)

    def measure(self, examples: Sequence[Example]) -> list[Measured | StudioError]:
        """Each row's numbers, or what is wrong with it; see `Encoder.encode`."""
        if self._sizes is None:
            return [_counted(found) for found in self._encoder.encode(examples)]
        prepared = self._encoder.prepare(examples)
        texts = [text for p in prepared if isinstance(p, list) for _, text, _ in p]
        backend = self._encoder.tokenizer.backend_tokenizer
        made = backend.encode_batch_fast(texts, add_special_tokens=False)
        places = iter(_places([found.ids for found in made], self._sizes))
        measured: list[Measured | StudioError] = []
        for example, p in zip(examples, prepared, strict=True):
            if isinstance(p, StudioError):
                measured.append(p)
                continue
            # All of them are taken, whatever comes of the first.
            rows = [self._ranges(text, spans, next(places)) for _, text, spans in p]
            whole = [row for row in rows if row is not None]
            if len(whole) < len(rows):
                measured += [_counted(found) for found in self._encoder.encode([example])]
            else:
                measured.append(_summed(whole))
        return measured

    def _ranges(
        self, text: str, spans: list[Span], begins: Numbers
    ) -> tuple[int, int, int, int] | None:
        """A sequence's tokens: all of them, those that are kept, learned and lost. None where they
        are not, byte for byte, the text. `begins`: each token's first byte, and the end."""
        ascii_only = text.isascii()
        if begins[-1] != (len(text) if ascii_only else len(text.encode())):
            return None
        total = len(begins) - 1
        kept = min(total, self._encoder.max_length)
        edges = list(chain.from_iterable(spans))
        if not ascii_only:
            edges = [len(text[:edge].encode()) for edge in edges]
        at = np.minimum(np.searchsorted(begins[:-1], edges), kept).tolist()
        trained = sum(end - start for start, end in zip(at[::2], at[1::2], strict=True))
        return total, kept, trained, total - kept


def _sizes(backend: Any) -> Numbers | None:
    """How many bytes each token stands for, where the tokenizer cuts text by its bytes."""
    if not isinstance(backend.decoder, ByteLevel) or backend.normalizer is not None:
        return None
    added = {number: token.content for number, token in backend.get_added_tokens_decoder().items()}
    vocabulary = backend.get_vocab(with_added_tokens=True)
    sizes = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for token, number in vocabulary.items():
        # Each letter of such a token stands for a byte; an added one is written as it is.
        sizes[number] = len(added[number].encode()) if number in added else len(token)
    return sizes


def _places(ids: list[list[int]], sizes: Numbers) -> list[Numbers]:
    """Of each sequence the first bytes of its tokens, and where the last one ends."""
    ends = np.cumsum([len(found) for found in ids], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(ids), np.int64, int(ends[-1]) if len(ends) else 0)
    # One number more at each sequence's beginning.
    begins = np.concatenate([[0], np.cumsum(sizes[flat])])
    return (
        [
            begins[start : end + 1] - begins[start]
            for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
        ]
        if len(ends)
        else []
    )


def _summed(rows: list[tuple[int, int, int, int]]) -> Measured:
    total, kept, trained, lost = zip(*rows, strict=True)
    return Measured(max(total), sum(kept), sum(trained), sum(lost), all(trained))


def _counted(found: Encoded | StudioError) -> Measured | StudioError:
    if isinstance(found, StudioError):
        return found
    summed = _summed([(s.total, s.length, s.trained, s.cut) for s in found.sequences])
    return replace(summed, learns=found.learns)
