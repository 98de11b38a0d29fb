"""How many tokens rows have, and how many of them are learned, without the tokens' places.

`Encoder.encode` asks the tokenizer where each token stands, which takes a third of its time. Most
tokenizers cut text by its bytes, and leave none out: then a token's place is told by how many bytes
those before it have. Where that does not add up to the text, `encode` is asked after all.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers.decoders import ByteLevel

from studio.data import Example
from studio.engine.encode import Encoded, Encoder, Prepared
from studio.errors import StudioError

Numbers = npt.NDArray[np.int64]
# Of a sequence: all tokens, those that are kept, learned and lost.
Count = tuple[int, ...]


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
        sequences = [s for p in prepared if isinstance(p, list) for s in p]
        counts = iter(self._counts(sequences, self._sizes))
        measured: list[Measured | StudioError] = []
        for example, p in zip(examples, prepared, strict=True):
            if isinstance(p, StudioError):
                measured.append(p)
                continue
            # All of them are taken, whatever comes of the first.
            rows = [next(counts) for _ in p]
            whole = [row for row in rows if row is not None]
            if len(whole) < len(rows):
                measured += [_counted(found) for found in self._encoder.encode([example])]
            else:
                measured.append(_summed(whole))
        return measured

    def _counts(self, sequences: list[Prepared], sizes: Numbers) -> list[Count | None]:
        """Each sequence's tokens: all of them, those that are kept, learned and lost. None where
        they are not, byte for byte, the text. All sequences at once: one by one takes three times
        as long."""
        backend = self._encoder.tokenizer.backend_tokenizer
        texts = [text for _, text, _ in sequences]
        ids, lengths = array("q"), list[int]()
        for made in backend.encode_batch_fast(texts, add_special_tokens=False):
            ids.fromlist(made.ids)
            lengths.append(len(made))
        total = np.array(lengths, np.int64)
        kept = np.minimum(total, self._encoder.max_length)
        ends = np.cumsum(total)
        starts = ends - total
        # The first byte of each token, and the end of the last.
        begins = np.concatenate([[0], np.cumsum(sizes[np.array(ids, np.int64)])])
        first = begins[starts]
        bytes_of, edges, owners = _edges(sequences)
        at = np.searchsorted(begins[:-1], first[owners] + edges) - starts[owners]
        at = np.clip(at, 0, kept[owners])
        # Of each span where it begins and where it ends.
        spans = at[1::2] - at[::2]
        trained = np.bincount(owners[::2], weights=spans, minlength=len(total)).astype(np.int64)
        rows = np.stack([total, kept, trained, total - kept], axis=1).tolist()
        fits = (begins[ends] - first == bytes_of).tolist()
        return [tuple(row) if fit else None for row, fit in zip(rows, fits, strict=True)]


def _edges(sequences: list[Prepared]) -> tuple[Numbers, Numbers, Numbers]:
    """How many bytes each text has; at which of them the spans begin and end, one after the other;
    and whose each of those is."""
    bytes_of, edges, owners = list[int](), list[int](), list[int]()
    for number, (_, text, spans) in enumerate(sequences):
        ascii_only = text.isascii()
        bytes_of.append(len(text) if ascii_only else len(text.encode()))
        for edge in chain.from_iterable(spans):
            edges.append(edge if ascii_only else len(text[:edge].encode()))
            owners.append(number)
    return np.array(bytes_of, np.int64), np.array(edges, np.int64), np.array(owners, np.int64)


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


def _summed(rows: list[Count]) -> Measured:
    total, kept, trained, lost = zip(*rows, strict=True)
    return Measured(max(total), sum(kept), sum(trained), sum(lost), all(trained))


def _counted(found: Encoded | StudioError) -> Measured | StudioError:
    if isinstance(found, StudioError):
        return found
    summed = _summed([(s.total, s.length, s.trained, s.cut) for s in found.sequences])
    return replace(summed, learns=found.learns)
