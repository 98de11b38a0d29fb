"""What is noted of each row: a few numbers, in arrays that lie on disk."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from studio.data import Broken, Data, Example, Numbers, Row, RowError, likeness, soft_faults
from studio.data.alike import PERMUTATIONS, Keys, Signatures, marks
from studio.data.cache import check_disk
from studio.data.example import last_answer, thoughts
from studio.data.languages import Languages
from studio.engine.audit_tokens import Measured, Measurer
from studio.errors import StudioError

# What a row can be flagged with; the first three leave nothing else to look at.
FLAGS = (
    "broken",
    "unreadable",
    "empty_answer",
    "rejected",
    "cut",
    "nothing_trained",
    "role_order",
    "bad_encoding",
    "same_pair",
    "non_text",
    "unknown_role",
    "tools",
    "turn_keys",
    "thoughts",
)
# Rows that are encoded together.
CHUNK = 500
_BIT = {name: np.uint16(1 << bit) for bit, name in enumerate(FLAGS)}


@dataclass(frozen=True)
class Noted:
    """One entry a row, 559 bytes in all. `length` is what its longest sequence has before anything
    is cut off; `tokens` and `trained` are what the trainer gets of all its sequences, and `lost`
    what is cut off. `key` is zero where the row says nothing that could be compared, `answer` where
    it has none."""

    flags: npt.NDArray[np.uint16]
    length: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int32]
    trained: npt.NDArray[np.int32]
    lost: npt.NDArray[np.int32]
    language: npt.NDArray[np.uint8]
    key: Keys
    answer: npt.NDArray[np.uint64]
    signature: Signatures

    @classmethod
    def make(cls, folder: Path, rows: int) -> "Noted":
        """Room for so many rows, all zero, shared by the processes that are forked from here.
        Raises StudioError where the disk is too small."""
        check_disk(folder, "the rows")
        kinds: dict[str, npt.DTypeLike] = {
            "flags": np.uint16, "length": np.int32, "tokens": np.int32, "trained": np.int32,
            "lost": np.int32, "language": np.uint8, "key": "V16", "answer": np.uint64,
        }  # fmt: skip

        def room(name: str, kind: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray:
            # A file of no bytes can't be mapped.
            shape = (max(1, rows), *shape[1:])
            made = open_memmap(folder / f"{name}.npy", "w+", np.dtype(kind), shape)
            # Plain: an element of a mapped array takes ten times as long.
            return made[:rows].view(np.ndarray)

        arrays = {name: room(name, kind, (rows,)) for name, kind in kinds.items()}
        return cls(**arrays, signature=room("signature", np.uint32, (rows, PERMUTATIONS)))

    def has(self, *names: str) -> npt.NDArray[np.bool_]:
        """Which rows have one of the flags."""
        return (self.flags & sum(_BIT[name] for name in names)) != 0

    @property
    def compared(self) -> npt.NDArray[np.bool_]:
        """Which rows were read, and so have a key."""
        return ~self.has("broken", "unreadable", "empty_answer")


@dataclass(frozen=True)
class Examiner:
    """Looks at rows and notes what it sees."""

    data: Data
    measurer: Measurer
    languages: Languages
    noted: Noted

    def look(self, positions: Numbers, begin: int) -> None:
        """Looks at the rows at these positions and notes them from entry `begin` on. Raises
        StudioError for a template under which no row can be trained."""
        ((_, rows),) = self.data.iterate(positions, len(positions))
        places, examples = self._read(rows, begin)
        for at, found in zip(places, self.measurer.measure(examples), strict=True):
            self._tokens(at, found, int(positions[at - begin]))
        said = [likeness(example) for example in examples]
        keys, signatures = marks(said)
        self.noted.key[places] = keys
        self.noted.signature[places] = signatures
        self.noted.language[places] = self.languages.tell(said)

    def _read(self, rows: Sequence[Row | Broken], begin: int) -> tuple[list[int], list[Example]]:
        """The entries and the examples of those rows that can be read."""
        places, examples = [], []
        for at, row in enumerate(rows, begin):
            try:
                example = self.data.example(row)
            except RowError as error:
                self._flag(at, error.fault, *filter(None, [error.detail]))
                continue
            self._flag(at, *soft_faults(example))
            if uses_tools(example):
                self._flag(at, "tools")
            if any(map(thoughts, (*example.messages, *example.chosen, *example.rejected))):
                self._flag(at, "thoughts")
            if self.data.unread(row):
                self._flag(at, "turn_keys")
            # Eight bytes are enough to tell a million answers apart.
            self.noted.answer[at] = _hashed(last_answer(example))
            places.append(at)
            examples.append(example)
        return places, examples

    def _tokens(self, at: int, found: Measured | StudioError, position: int) -> None:
        if isinstance(found, RowError):
            self._flag(at, found.fault)
            return
        if isinstance(found, StudioError):
            place = self.data.where(position)
            raise StudioError(f"{place}: {found.message}", found.hint)
        noted = self.noted
        noted.length[at], noted.tokens[at] = found.length, found.tokens
        noted.trained[at], noted.lost[at] = found.trained, found.lost
        if found.lost:
            self._flag(at, "cut")
        if not found.learns:
            self._flag(at, "nothing_trained")

    def _flag(self, at: int, *names: str) -> None:
        for name in names:
            self.noted.flags[at] |= _BIT[name]


def uses_tools(example: Example) -> bool:
    """Whether tools are on offer, or called."""
    return bool(example.tools) or any(
        message["role"] == "tool" or message.get("tool_calls") for message in example.messages
    )


def _hashed(text: str) -> int:
    if not text:
        return 0
    raw = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(raw, "little") or 1
