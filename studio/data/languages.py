"""Which languages texts are in, by py3langid's model, for many texts at once.

The library goes through one text letter by letter. Here its automaton takes a step in all texts
together, which costs a third; the result is the library's own, and a test holds the two together.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from py3langid.langid import MODEL_FILE, LanguageIdentifier

# Bytes of a text that are looked at: more letters hardly change the verdict.
LOOKED_AT = 200
# A verdict that is less sure than this is none. Numbers and names have no language.
_SURE = 0.6
UNKNOWN = "und"


class Languages:
    """The model, ready."""

    def __init__(self) -> None:
        model = LanguageIdentifier.from_model_file(MODEL_FILE)
        self._next = np.asarray(model.tk_nextmove, dtype=np.int64)
        self._row = np.asarray(model.tk_row, dtype=np.int64) << 8
        self._output = np.asarray(model.tk_output, dtype=np.int64)
        self._weights = np.asarray(model.nb_ptc, dtype=np.float32)
        self._prior = np.asarray(model.nb_pc, dtype=np.float32)
        # Some languages are there once for each of their scripts.
        self.names = [*dict.fromkeys(model.nb_classes), UNKNOWN]
        self._column = np.array([self.names.index(name) for name in model.nb_classes])

    def tell(self, texts: Sequence[str]) -> npt.NDArray[np.uint8]:
        """For each text the number of its language in `names`; the last where it can't be told."""
        raw = [_bytes(text) for text in texts]
        lengths = np.array([len(text) for text in raw])
        scores = np.tile(self._prior, (len(raw), 1))
        visits, counts = self._visits(raw, lengths)
        weights = np.log1p(counts.astype(np.float32))
        owners, features = np.divmod(visits, len(self._weights))
        bounds = np.searchsorted(owners, np.arange(len(raw) + 1)).tolist()
        for text, (begin, end) in enumerate(pairwise(bounds)):
            scores[text] += weights[begin:end] @ self._weights[features[begin:end]]
        # The library's own way to make short and long texts equally sure.
        scores *= (1 / np.sqrt(np.maximum(lengths, 1)))[:, None]
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        likely /= likely.sum(axis=1, keepdims=True)
        named = np.zeros((len(raw), len(self.names) - 1), np.float32)
        np.add.at(named.T, self._column, likely.T)
        best = named.argmax(axis=1)
        seen = np.diff(bounds) > 0
        sure = seen & (named.max(axis=1, initial=0) >= _SURE)
        return np.where(sure, best, len(self.names) - 1).astype(np.uint8)

    def _visits(
        self, raw: Sequence[bytes], lengths: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """How often each text shows each feature: text * features + feature, ascending, and the
        counts."""
        # The longest first: those that have ended are left out by their number.
        order = np.argsort(-lengths, kind="stable")
        width = int(lengths.max(initial=0))
        letters = np.zeros((width, len(raw)), np.int64)
        for column, text in enumerate(order.tolist()):
            letters[: lengths[text], column] = np.frombuffer(raw[text], np.uint8)
        going = np.searchsorted(-lengths[order], -np.arange(width), side="left")
        state = np.zeros(len(raw), np.int64)
        found = []
        for step, left in enumerate(going.tolist()):
            state[:left] = self._next[self._row[state[:left]] + letters[step, :left]]
            feature = self._output[state[:left]]
            hit = np.flatnonzero(feature >= 0)
            found.append(order[hit] * len(self._weights) + feature[hit])
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.unique(np.concatenate(found), return_counts=True)


def main_language(numbers: npt.NDArray[np.uint8], names: Sequence[str]) -> int | None:
    """The number of the language that most texts are in; None where it can be told of none."""
    times = np.bincount(numbers, minlength=len(names))
    times[names.index(UNKNOWN)] = 0
    return int(times.argmax()) if times.any() else None


def _bytes(text: str) -> bytes:
    """The text as the model reads it."""
    head = text[:LOOKED_AT]
    if head.isupper():
        head = head.lower()
    encoded: bytes = LanguageIdentifier._encode(head)[:LOOKED_AT]
    return encoded
