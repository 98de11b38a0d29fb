"""What an audit finds, in words that the page shows and numbers that a script can use.

The findings about rows, each with its exact count. A row may have several; what is said of one does
not depend on the others, but where that is stated.
- broken: a line that is no row at all, such as half a line of JSON
- unreadable: a row without its parts, with values that are not text (counted as non_text too) or
  with an unknown speaker (unknown_role); a broken row is not counted here
- empty_answer: an answer without a letter. Such a row, a broken and an unreadable one have none of
  the following, for there is nothing to look at
- rejected: the chat template refuses the row, or would leave a part of it out
- cut: the row is longer than max_length, and its end is cut off
- nothing_trained: no token is learned of an answer, as all of it is cut off; that row is cut too
- role_order: the speakers do not take turns, or a user has the last word
- bad_encoding: characters that were damaged when the text was read or written at some time
- duplicate: the row says the same as an earlier one, but for case and spaces; see `likeness` in
  studio.data.example for what is compared
- near_duplicate: it says nearly the same as an earlier one (a likeness of 0.8; see
  studio.data.alike), and is no duplicate
- leaked: a held-back row that says the same (leaked_exact), or nearly the same, as a row to learn
  from
- duplicate_answer: the row's last answer is, letter by letter, that of an earlier row with another
  question
- same_pair: of two answers to choose from, both are the same
- turn_keys: turns have keys, such as a weight of 0.5, under which something stands that is not read
- other_language: the row's first letters are in another language than those of most rows. Where
  that can't be told, as of numbers, the row is not counted

Duplicates are counted over all rows that are split, so that the count is what a step would leave
out; duplicate_in_train and near_duplicate_in_train are those among the rows to learn from. The rows
of a held-out file are looked at for everything but duplicates. Rows that a step leaves out as
rejected, cut or nothing_trained are only counted as dropped.

And those about the chat template: see `studio.engine.template`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["stop", "warn", "info"]
# The names of those that most sets are in; others keep their codes.
LANGUAGES = dict(
    pair.split("=")
    for pair in (
        "ar=Arabic bg=Bulgarian bn=Bengali ca=Catalan cs=Czech da=Danish de=German el=Greek "
        "en=English es=Spanish et=Estonian fa=Persian fi=Finnish fr=French he=Hebrew hi=Hindi "
        "hr=Croatian hu=Hungarian id=Indonesian it=Italian ja=Japanese ko=Korean lt=Lithuanian "
        "lv=Latvian ms=Malay nl=Dutch no=Norwegian pl=Polish ps=Pashto pt=Portuguese ro=Romanian "
        "ru=Russian sk=Slovak sl=Slovenian sr=Serbian sv=Swedish ta=Tamil th=Thai tr=Turkish "
        "uk=Ukrainian ur=Urdu vi=Vietnamese zh=Chinese und=unclear"
    ).split()
)


@dataclass(frozen=True)
class Finding:
    """One finding. `count` is exact. `example` is a row: {position, where, shown}; `remedy` is a
    step for `data.steps`, or {field, value}: one click applies it. A finding of severity `stop`
    would ruin the run, and holds it back until it is mended or accepted under its `id`."""

    id: str
    severity: Severity
    count: int
    words: str
    example: dict[str, Any] | None = None
    remedy: dict[str, Any] | None = None


@dataclass(frozen=True)
class Report:
    """An audit's result. `counts` has every figure by its name; `lengths` is the histogram, as
    `studio.jobs.lengths` gives it for a sample; `languages` has the rows by their language, und
    where it can't be told."""

    counts: dict[str, int | float]
    findings: tuple[Finding, ...]
    lengths: dict[str, Any]
    languages: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """The report that `to_json` wrote. Raises ValueError, KeyError or TypeError for another."""
        held = json.loads(text)
        return cls(**{**held, "findings": tuple(from_dicts(held["findings"]))})


def to_dicts(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The findings as JSON can hold them."""
    return [asdict(finding) for finding in findings]


def from_dicts(held: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """The findings that `to_dicts` gave."""
    return [Finding(**finding) for finding in held]


def blocking(findings: Iterable[Finding], accepted: Sequence[str]) -> list[Finding]:
    """Those that hold a run back."""
    return [f for f in findings if f.severity == "stop" and f.count and f.id not in accepted]


def drop(fault: str) -> dict[str, Any]:
    """The remedy that leaves out the rows with a fault."""
    return {"do": "drop", "what": fault}
