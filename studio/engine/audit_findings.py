"""From what was counted in the rows to what a person should know of them, with a way to mend it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from studio.data import Broken, Data, Example, Numbers, RowError, likeness, soft_faults, texts
from studio.data.example import APART, last_answer
from studio.data.findings import LANGUAGES, Finding, Severity, drop
from studio.engine.audit_rows import Noted
from studio.engine.audit_sums import Sums
from studio.engine.encode import Encoder
from studio.spec import Filter, RunSpec

_STOP = ("broken", "unreadable", "empty_answer", "rejected", "nothing_trained")
_INFO = ("other_language", "turn_keys")
# So many of the rows that have some are asked for their keys.
_ASKED = 100
# An answer that is given so often is worth a look: by so many rows, and by one row in so many.
_OFTEN, _SHARE = 20, 100
_SHOWN = 160
_NAMED = 5
# A longer answer is not one that people would filter by.
_FILTERED = 200


@dataclass(frozen=True)
class Facts:
    """All that was found out. `context`: tokens that the model can hold, where that is known."""

    spec: RunSpec
    data: Data
    encoder: Encoder
    context: int | None
    positions: Numbers
    noted: Noted
    sums: Sums


def findings(facts: Facts) -> list[Finding]:
    """What was found in the rows."""
    said = _words(facts)
    found = []
    for fault, words in said.items():
        count = int(facts.sums.counts[fault])
        if count:
            at = int(np.flatnonzero(facts.sums.which[fault])[0])
            found.append(
                Finding(
                    fault,
                    _severity(facts, fault, count),
                    count,
                    words,
                    _example(facts, fault, at),
                    _remedy(facts, fault, count),
                )
            )
    return found


def _words(facts: Facts) -> dict[str, str]:
    """A sentence for each finding."""
    counts, limit = facts.sums.counts, facts.spec.train.max_length

    def n(fault: str, one: str, more: str, noun: str = "row") -> str:
        count = int(counts[fault])
        return f"{count:,} {noun} {one}" if count == 1 else f"{count:,} {noun}s {more}"

    def be(fault: str, noun: str = "row") -> str:
        return n(fault, "is", "are", noun)

    return {
        "broken": n("broken", "can't", "can't", "line") + " be read as a row.",
        "unreadable": n("unreadable", "can't", "can't") + f" be used: {_reasons(counts)}.",
        "empty_answer": n("empty_answer", "has an empty answer", "have an empty answer")
        + ", which would teach the model to say nothing.",
        "rejected": be("rejected") + " refused by the chat template, or would lose a part to it.",
        "cut": be("cut") + f" longer than max_length ({limit:,} tokens); what comes after is lost.",
        "nothing_trained": "Of "
        + n("nothing_trained", "nothing is learned", "nothing is learned")
        + f": all of the answer comes after token {limit:,}, where it is cut off.",
        "role_order": n("role_order", "breaks", "break")
        + " the order of speakers: a question and its answer in turn, an answer at the end.",
        "bad_encoding": n("bad_encoding", "holds", "hold")
        + " damaged characters, such as \ufffd or Ã©.",
        "duplicate": n("duplicate", "says", "say") + " the same as an earlier one.",
        "near_duplicate": n("near_duplicate", "says", "say")
        + " nearly the same as an earlier one.",
        "leaked": n("leaked", "that is held back says", "that are held back say")
        + " the same as a row that is learned, or nearly: the loss on them would promise too much.",
        "duplicate_answer": n("duplicate_answer", "has an answer", "have an answer")
        + f" that another row gave before.{_most_given(facts)}",
        "same_pair": n("same_pair", "has", "have")
        + " the same answer as the better and the worse.",
        "turn_keys": n("turn_keys", "has", "have")
        + f" something in the turns that is not read, under {_unread(facts)}.",
        "other_language": be("other_language")
        + f" in another language than most, which are in {_named(facts)}.",
    }


def _named(facts: Facts) -> str:
    return LANGUAGES.get(facts.sums.main_language, facts.sums.main_language)


def _reasons(counts: dict[str, int | float]) -> str:
    texts, roles = counts["non_text"], counts["unknown_role"]
    rest = counts["unreadable"] - texts - roles
    told = (
        (texts, "holding what is not text"),
        (roles, "with an unknown speaker"),
        (rest, "lacking a part"),
    )
    return ", ".join(f"{count:,} {words}" for count, words in told if count)


def _unread(facts: Facts) -> str:
    found: set[str] = set()
    for at in np.flatnonzero(facts.sums.which["turn_keys"])[:_ASKED]:
        found |= facts.data.unread(facts.data.row(int(facts.positions[at])))
    more = " and others" if len(found) > _NAMED else ""
    return ", ".join(f"`{key}`" for key in sorted(found)[:_NAMED]) + more


def _given(facts: Facts) -> tuple[int, int]:
    """How often the most frequent answer is given, and by which row first."""
    answers = facts.noted.answer[facts.sums.which["duplicate_answer"]]
    values, times = np.unique(answers, return_counts=True)
    most = int(times.argmax())
    return int(times[most]) + 1, int(np.flatnonzero(facts.noted.answer == values[most])[0])


def _often(facts: Facts, times: int) -> bool:
    return times >= _OFTEN and times * _SHARE >= len(facts.positions)


def _most_given(facts: Facts) -> str:
    if not facts.sums.counts["duplicate_answer"]:
        return ""
    times, at = _given(facts)
    said = " ".join(last_answer(_read(facts, at)).split())
    return f" The most frequent one is given {times:,} times: “{_short(said, 40)}”."


def _severity(facts: Facts, fault: str, count: int) -> Severity:
    counts = facts.sums.counts
    if fault in _STOP or (fault == "cut" and 2 * count >= counts["rows"] - counts["dropped"]):
        return "stop"
    held = counts["validation_rows"] + counts["test_rows"]
    if fault == "leaked" and 100 * count > held:
        return "stop"
    if fault == "duplicate_answer" and not _often(facts, _given(facts)[0]):
        return "info"
    return "info" if fault in _INFO else "warn"


def _example(facts: Facts, fault: str, at: int) -> dict[str, Any]:
    if fault == "duplicate_answer" and _often(facts, _given(facts)[0]):
        at = _given(facts)[1]
    position = int(facts.positions[at])
    return {
        "position": position,
        "where": facts.data.where(position),
        "shown": _short(" ".join(_shown(facts, fault, at).split()), _SHOWN),
    }


def _shown(facts: Facts, fault: str, at: int) -> str:
    """The row in a few words, with what is wrong with it where that does not show."""
    noted = facts.noted
    (row,) = facts.data.raw(int(facts.positions[at]), 1)
    try:
        example = facts.data.example(row)
    except RowError as error:
        return row.reason if isinstance(row, Broken) else error.message
    if fault == "rejected":
        (found,) = facts.encoder.encode([example])
        return found.message if isinstance(found, RowError) else ""
    said = likeness(example).replace(APART, " → ")
    if fault in ("duplicate", "near_duplicate", "leaked"):
        like = int(facts.positions[facts.sums.like[at]])
        return f"like {facts.data.where(like)}: {said}"
    if fault in ("cut", "nothing_trained"):
        return f"{noted.length[at]:,} tokens: {said}"
    if fault == "role_order":
        turns = (*example.messages, *example.chosen)
        return ", ".join(str(turn["role"]) for turn in turns)
    if fault == "bad_encoding":
        return _damaged(example)
    if fault == "duplicate_answer":
        return last_answer(example)
    return said


def _damaged(example: Example) -> str:
    """The words around the damage."""
    for text in texts(example):
        words = text.split()
        for number, word in enumerate(words):
            if soft_faults(Example("text", prompt=word)):
                return " ".join(words[max(0, number - 6) : number + 7])
    return " ".join(texts(example))


def _remedy(facts: Facts, fault: str, count: int) -> dict[str, Any] | None:
    if fault == "turn_keys":
        return None
    if fault == "duplicate_answer":
        return _without_answer(facts) or drop(fault)
    if fault == "cut":
        # Enough for 99 rows in 100; the few that are longer still are better left out.
        enough = -(-int(facts.sums.counts["length_p99"]) // 64) * 64
        enough = min(enough, facts.context or enough)
        if enough > facts.spec.train.max_length:
            return {"field": "train.max_length", "value": enough}
    return drop(fault)


def _without_answer(facts: Facts) -> dict[str, Any] | None:
    """The step that leaves out the most frequent answer, where that is a column's text."""
    times, at = _given(facts)
    said = last_answer(_read(facts, at))
    columns = facts.data.layout.columns
    column = next((columns[p] for p in _ANSWERS if p in columns), None)
    if column is None or not _often(facts, times) or len(said) > _FILTERED:
        return None
    step = Filter(column=column, keep="not_equals", value=said)
    return step.model_dump(mode="json")


_ANSWERS = ("output", "response", "completion", "answer")


def _read(facts: Facts, at: int) -> Example:
    return facts.data.example(facts.data.row(int(facts.positions[at])))


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
