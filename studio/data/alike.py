"""Rows that are the same, or nearly the same.

Nearly: the Jaccard likeness of their word 3-grams, those of the question beside those of the
answer, estimated by MinHash (Broder, 1997) with 128 permutations: a standard error of about 0.035
at a likeness of 0.8. Of question and answer the shorter counts for a fifth at least, so that two
questions about one long passage, with an answer each, are not the same row. The same text gives the
same signature everywhere and always.
"""

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from studio.data.example import APART

PERMUTATIONS = 128
# 16 bands of 8: a pair of likeness 0.8 meets in one of them with a chance of 0.95, one of 0.9 with
# 0.9999, one of 0.5 with 0.06.
_BANDS = 16
_GRAM = 3
# The shorter of two sides is given a quarter of the other's weight.
_LEAST = 4
_SEED = 42
# Of a crowd with equal bands each is held against this many before it, not against all.
_HELD = 4
_CHUNK = 65_536
# Bands whose keys are made in one go over the signatures, which may lie on disk.
_TOGETHER = 4

Numbers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.void]
Signatures = npt.NDArray[np.uint32]
_Hashes = npt.NDArray[np.uint64]


def _odd(count: int, *seed: int) -> _Hashes:
    drawn = np.random.default_rng([_SEED, *seed]).integers(1, 2**63, count, dtype=np.uint64)
    return drawn * np.uint64(2) + np.uint64(1)


# Multiply and add, each number by its own odd factor: a hash that numpy can make. Of the words of
# a gram, its side, its copies and its bits once more; and of the numbers of a band.
_PLACES = _odd(_GRAM, 1)
_SIDE, _COPY, _MIXER = _odd(3, 2)
_FACTORS = _odd(PERMUTATIONS // _BANDS, 3)


def normal(text: str) -> str:
    """The text as it is compared: spaces, case and forms of one letter make no difference."""
    return " ".join(_words(text))


def _words(text: str) -> list[str]:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return text.lower().split()


def exact_key(text: str) -> bytes:
    """16 bytes that are equal for texts that are the same when compared."""
    return _digest([normal(side) for side in text.split(APART, 1)])


def _digest(sides: Sequence[str]) -> bytes:
    said = APART.join(sides).encode("utf-8", "replace")
    return hashlib.blake2b(said, digest_size=16).digest()


def signature(text: str) -> Signatures:
    """The text's MinHash: 128 numbers, equal in about as many places as the texts are alike."""
    made: Signatures = marks([text])[1][0]
    return made


def marks(texts: Sequence[str]) -> tuple[Keys, Signatures]:
    """Each text's `exact_key`, as an array of shape (texts,) and type V16, and its `signature`, as
    one of shape (texts, 128). For many texts at once that is a third of the work."""
    if not texts:
        return np.empty(0, "V16"), np.empty((0, PERMUTATIONS), np.uint32)
    sides = [[_words(side) for side in text.split(APART, 1)] for text in texts]
    keys = np.frombuffer(b"".join(_digest([*map(" ".join, two)]) for two in sides), "V16")
    # Two sides a text, of which one may have no words.
    parts = chain.from_iterable(two if len(two) == 2 else (*two, []) for two in sides)
    hashed = RMinHash.hash_token_sets(list(parts))
    ends = np.cumsum([len(words) for words in hashed], dtype=np.int64)
    words = np.fromiter(chain.from_iterable(hashed), np.uint64, ends[-1])
    grams, begins = _grams(words, ends)
    made = RMinHash.digest_matrix_from_flat_token_hashes(grams, begins, PERMUTATIONS, _SEED)
    return keys, np.array(made.to_rows(), np.uint32)


def _grams(words: _Hashes, ends: Numbers) -> tuple[_Hashes, _Hashes]:
    """The hashes of all grams, those of one text after those of another, and where those of each
    begin, with the end of the last. `ends`: where the words of each text's two sides end. A side
    with fewer words than a gram has one gram, of all of them."""
    lengths = np.diff(ends, prepend=0)
    counts = np.where(lengths, np.maximum(1, lengths - _GRAM + 1), 0)
    pairs = counts.reshape(-1, 2)
    wanted = pairs[:, ::-1] / (_LEAST * np.maximum(pairs, 1))
    copies = np.maximum(1, np.rint(wanted)).astype(np.int64).reshape(-1)
    sizes = counts * copies
    starts = np.concatenate([[0], np.cumsum(sizes)])
    # Each gram's side, its number there, and from that its first word.
    side = np.repeat(np.arange(len(sizes)), sizes)
    number = np.arange(starts[-1]) - starts[side]
    copy, gram = np.divmod(number, counts[side])
    first = gram + (ends - lengths)[side]
    hashed = (side & 1).astype(np.uint64) * _SIDE + copy.astype(np.uint64) * _COPY
    for place, factor in enumerate(_PLACES):
        at = first + place
        there = at < ends[side]
        hashed += np.where(there, words[np.where(there, at, 0)] * factor, np.uint64(0))
    hashed ^= hashed >> np.uint64(32)
    hashed *= _MIXER
    hashed ^= hashed >> np.uint64(29)
    return hashed, starts[::2].astype(np.uint64)


def first_alike(keys: Keys) -> Numbers:
    """For each row the number of the first one with an equal key; its own where it is the first.

    `keys`: an array of shape (rows,) and type V16, made of `exact_key`.
    """
    _, first, back = np.unique(keys.view("V16"), return_index=True, return_inverse=True)
    return first.astype(np.int64)[back.reshape(-1)]


def first_near(signatures: Signatures, threshold: float, rows: Numbers | None = None) -> Numbers:
    """For each row the number of the first one found that is alike to at least `threshold`; its own
    where there is none before it. `signatures` has the shape (rows, 128) and may lie on disk; of
    them only those of `rows` are compared, which the numbers then count."""
    rows = np.arange(len(signatures)) if rows is None else rows
    nearest = np.arange(len(rows), dtype=np.int64)
    for keys in _bands(signatures, rows):
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for distance in range(1, _HELD + 1):
            # Neighbours in the order of the band's keys; rows of one key come in their own order.
            same = np.flatnonzero(ordered[distance:] == ordered[:-distance])
            if not len(same):
                break
            earlier, later = order[same], order[same + distance]
            for at in range(0, len(same), _CHUNK):
                left, right = earlier[at : at + _CHUNK], later[at : at + _CHUNK]
                equal = signatures[rows[left]] == signatures[rows[right]]
                alike = equal.mean(axis=1) >= threshold
                np.minimum.at(nearest, right[alike], left[alike])
    return _roots(nearest)


def first_like(
    keys: Keys, signatures: Signatures, threshold: float, rows: Numbers | None = None
) -> tuple[Numbers, Numbers]:
    """`first_alike` and `first_near`, the second over one row of each that are the same: rows that
    are alike have the same first one. `keys` are those of `rows`."""
    rows = np.arange(len(signatures)) if rows is None else rows
    same = first_alike(keys)
    firsts, back = np.unique(same, return_inverse=True)
    near = first_near(signatures, threshold, rows[firsts])
    return same, firsts[near][back.reshape(-1)]


def _bands(signatures: Signatures, rows: Numbers) -> Iterator[_Hashes]:
    """The keys of one band after the other."""
    width = PERMUTATIONS // _BANDS
    for band in range(0, _BANDS, _TOGETHER):
        keys = np.empty((_TOGETHER, len(rows)), np.uint64)
        columns = slice(band * width, (band + _TOGETHER) * width)
        for at in range(0, len(rows), _CHUNK):
            part = signatures[rows[at : at + _CHUNK], columns].astype(np.uint64)
            hashed = (part.reshape(-1, _TOGETHER, width) * _FACTORS).sum(axis=2, dtype=np.uint64)
            keys[:, at : at + _CHUNK] = hashed.T
        yield from keys


def _roots(nearest: Numbers) -> Numbers:
    """Each row's first one, over as many links as it takes."""
    while True:
        further = nearest[nearest]
        if np.array_equal(further, nearest):
            return nearest
        nearest = further
