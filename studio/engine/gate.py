"""The gate before a run: what would ruin it stops it in words, unless it is accepted by name."""

import hashlib
from array import array
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from studio.data import Data
from studio.data.findings import Finding, blocking, drop
from studio.engine import template
from studio.errors import StudioError
from studio.spec import Drop, RunSpec

_SAID = {
    "broken": "can't be read",
    "unreadable": "are no rows of this layout",
    "empty_answer": "have an empty answer",
    "rejected": "are refused by the chat template",
    "nothing_trained": "have nothing left to learn",
    "cut": "are longer than {length} tokens and would be cut off",
}


@dataclass
class Leaks:
    """Which rows that are held back say, letter by letter, what a row to learn from says. Eight
    bytes of each are kept, which are enough to tell a million rows apart."""

    learned: "array[int]" = field(default_factory=lambda: array("Q"))
    held: "array[int]" = field(default_factory=lambda: array("Q"))
    positions: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, part: str, position: int, said: str) -> None:
        """Notes what the row of a part says."""
        raw = hashlib.blake2b(said.encode("utf-8", "replace"), digest_size=8).digest()
        number = int.from_bytes(raw, "little")
        if part == "train":
            self.learned.append(number)
        else:
            self.held.append(number)
            self.positions.append(position)

    def found(self) -> list[int]:
        """The positions of those that are held back."""
        again = np.isin(np.array(self.held, np.uint64), np.array(self.learned, np.uint64))
        positions: list[int] = np.array(self.positions, np.int64)[again].tolist()
        return positions


@dataclass
class Tally:
    """What came up while rows were tokenized: counts by fault, and the first row of each. `held` of
    the rows are held back."""

    rows: int = 0
    held: int = 0
    leaks: Leaks = field(default_factory=Leaks)
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, fault: str, position: int, why: str = "") -> None:
        """Counts the row at the position under the fault; `why` is a sentence."""
        self.counts[fault] = self.counts.get(fault, 0) + 1
        # The parts come one after the other, so an earlier row may come later.
        if fault not in self.first or position < self.first[fault][0]:
            self.first[fault] = (position, why)


def refuse_template(tokenizer: PreTrainedTokenizerBase, spec: RunSpec, data: Data) -> None:
    """Raises StudioError for a chat template that would ruin the run."""
    if data.kind == "text":
        return
    found = template.examine(tokenizer, spec.data)
    if spec.data.train_on == "everything":
        # Then it is of no matter where an answer stands and how it ends.
        found = [f for f in found if f.id not in ("unstable", "end_of_turn")]
    _refuse(found, spec)


def refuse_rows(tally: Tally, spec: RunSpec, data: Data) -> None:
    """Raises StudioError for rows that would ruin the run. Those that a step drops may go."""
    found = []
    left = tally.rows - sum(tally.counts.get(fault, 0) for fault in data.token_drops)
    for fault in sorted(tally.counts, key=list(_SAID).index):
        count = tally.counts[fault]
        # The end of a few long rows may be missed.
        if fault in _dropped(spec) or (fault == "cut" and 2 * count < left):
            continue
        said = _SAID[fault].format(length=f"{spec.train.max_length:,}")
        position, why = tally.first[fault]
        first = f"{data.where(position)}{f': {why}' if why else '.'}"
        words = f"{count:,} of {tally.rows:,} rows {said}; the first is {first}"
        found.append(Finding(fault, "stop", count, words, remedy=drop(fault)))
    leaked = tally.leaks.found()
    # As in the audit: of very many rows, a few are alike by chance.
    if 100 * len(leaked) > tally.held:
        words = f"{_leaked(leaked, tally)}; the first is {data.where(min(leaked))}."
        found.append(Finding("leaked", "stop", len(leaked), words, remedy=drop("leaked")))
    _refuse(found, spec)


def _leaked(leaked: list[int], tally: Tally) -> str:
    return (
        f"{len(leaked):,} of {tally.held:,} rows that are held back say the same as a row that is "
        "learned, so the loss on them would promise too much"
    )


def notes(tally: Tally, spec: RunSpec) -> list[str]:
    """What was left out or cut, a sentence each."""
    told = []
    for fault, count in tally.counts.items():
        if fault == "cut":
            done = "left out" if fault in _dropped(spec) else "cut"
            said = f"are longer than {spec.train.max_length:,} tokens and were {done}"
        else:
            said = f"{_SAID[fault]} and were left out"
        told.append(f"{count:,} of {tally.rows:,} rows {said}.")
    if leaked := tally.leaks.found():
        told.append(f"{_leaked(leaked, tally)}.")
    return told


def _dropped(spec: RunSpec) -> set[str]:
    return {step.what for step in spec.data.steps if isinstance(step, Drop)}


def _refuse(found: list[Finding], spec: RunSpec) -> None:
    stopping = blocking(found, spec.data.accepted)
    if stopping:
        raise StudioError(" ".join(f.words for f in stopping), _remedies(stopping))


def _remedies(stopping: list[Finding]) -> str:
    """What to do about all of them, in a sentence."""
    ways = []
    drops = [f.id for f in stopping if f.remedy and "do" in f.remedy]
    if "cut" in drops:
        ways.append("raise train.max_length")
    if drops:
        steps = " and ".join(f"{{do: drop, what: {fault}}}" for fault in drops)
        ways.append(f"add to data.steps {steps}")
    ways += [
        f"set {f.remedy['field']} to {str(f.remedy['value']).lower()}"
        for f in stopping
        if f.remedy and "field" in f.remedy
    ]
    ways.append(f"accept it: data.accepted: [{', '.join(f.id for f in stopping)}]")
    told = ", or ".join(ways) + "."
    return told[0].upper() + told[1:]
