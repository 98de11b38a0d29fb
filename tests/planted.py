"""A file with faults whose numbers are known, to hold an audit against.

`python tests/planted.py rows.jsonl` writes the file and, beside it, rows.yaml, a recipe that
audits it; it prints the counts that `python -m studio audit rows.yaml --json` must report.
What each fault means is said in studio/data/findings.py.
"""

import json
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]
# Clean rows are shorter than this in any tokenizer, long ones longer.
MAX_LENGTH = 1024

_ADJECTIVES = (
    "quiet narrow golden ancient broken gentle hollow distant clever frozen bitter humble mighty "
    "polished crooked wooden silver tender sudden patient"
).split()
_NOUNS = (
    "river garden lantern teacher bridge harbour kettle mountain violin window baker valley ladder "
    "captain orchard mirror island blanket painter compass meadow soldier chapel bottle market "
    "forest hammer letter saddle tower"
).split()
_VERBS = (
    "carries follows remembers repairs watches paints borrows protects visits describes crosses "
    "measures answers gathers forgets"
).split()
_PLACES = (
    "near the old mill;behind the tall church;under the stone arch;beside the empty road;before "
    "the first snow;after the long summer;without any warning;along the northern shore"
).split(";")
_FOREIGN = {
    "de": (
        "Wie lange dauert die Fahrt von der alten Brücke bis zum Bahnhof, wenn es stark regnet?",
        "Bei diesem Wetter braucht man für den Weg ungefähr {} Minuten und sollte früher losgehen.",
    ),
    "fr": (
        "Pourquoi les habitants du village ferment-ils toujours leurs volets avant la nuit ?",
        "Parce que le vent souffle très fort en hiver et que la maison garde {} heures la chaleur.",
    ),
    "fa": (
        "چرا مردم این شهر هر روز صبح زود به بازار قدیمی می‌روند و نان تازه می‌خرند؟",
        "زیرا نان تازه در بازار قدیمی از ساعت {} صبح پخته می‌شود و همه آن را دوست دارند.",
    ),
}
_SAME_ANSWER = "I am sorry, but that is a question which nobody here can answer for you today."


@dataclass
class Planted:
    """The lines of the file as far as they are made, and what is wrong with them."""

    dice: random.Random
    lines: list[bytes] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def sentence(self) -> str:
        """Twelve words or so that hardly come together twice."""
        pick = self.dice.choice
        return (
            f"The {pick(_ADJECTIVES)} {pick(_NOUNS)} {pick(_VERBS)} a {pick(_ADJECTIVES)} "
            f"{pick(_NOUNS)} {pick(_PLACES)}, and the {pick(_NOUNS)} {pick(_VERBS)} my "
            f"{pick(_ADJECTIVES)} {pick(_NOUNS)}."
        )

    def turns(self) -> list[Row]:
        """A question and an answer without a fault."""
        return [
            {"role": "user", "content": f"Is this true? {self.sentence()}"},
            {"role": "assistant", "content": f"{self.sentence()} {self.sentence()}"},
        ]

    def add(self, turns: Any, *faults: str, **columns: Any) -> None:
        """A row with these faults."""
        row = {"messages": turns, **columns}
        self.raw(json.dumps(row, ensure_ascii=False).encode(), *faults)

    def raw(self, line: bytes, *faults: str) -> None:
        """A line with these faults."""
        self.lines.append(line)
        self.counts.update(("rows", *faults))

    def long(self) -> str:
        """Far more than MAX_LENGTH tokens."""
        return " ".join(self.sentence() for _ in range(MAX_LENGTH // 4))


def _unusable(made: Planted, times: int) -> None:
    for number in range(times):
        whole = json.dumps({"messages": made.turns()}).encode()
        made.raw(whole[: 40 + number], "broken")
        made.raw(b'["a list", "and no row"]', "broken")
        made.raw(whole.replace(b"true", b"tr\xffue", 1), "broken")
        # A blank line is no row.
        made.lines.append(b"")
        question, answer = made.turns()
        made.add([question, {**answer, "content": number}], "unreadable", "non_text")
        made.add([{**question, "content": {"a": 1}}, answer], "unreadable", "non_text")
        made.add([{**question, "role": "narrator"}, answer], "unreadable", "unknown_role")
        made.add([question, {"content": "Nobody says this."}], "unreadable")
        made.add([question], "unreadable")
        made.raw(json.dumps({"text": made.sentence()}).encode(), "unreadable")
        for nothing in ("", " \n\t", None):
            made.add([question, {**answer, "content": nothing}], "empty_answer")


def _odd(made: Planted, times: int) -> None:
    for number in range(times):
        question, answer = made.turns()
        made.add([question, question | {"content": made.sentence()}, answer], "role_order")
        made.add([answer, question, made.turns()[1]], "role_order")
        made.add([*made.turns(), made.turns()[0]], "role_order")
        for damage in ("caf\u00c3\u00a9", "it\u00e2\u20ac\u2122s", "\ufffd", "null\x00"):
            question, answer = made.turns()
            damaged = answer["content"] + f" A {damage} stands here."
            made.add([question, {**answer, "content": damaged}], "bad_encoding")
        question, answer = made.turns()
        both = {**answer, "content": answer["content"] + " \ufffd"}
        made.add([question, both, *made.turns()[:1]], "role_order", "bad_encoding")
        # The template of the models that this is tried with writes nothing of a call.
        call = {"type": "function", "function": {"name": f"find_{number}", "arguments": {}}}
        asks = {"role": "assistant", "content": "", "tool_calls": [call]}
        told = {"role": "tool", "content": made.sentence()}
        question, answer = made.turns()
        made.add([question, asks, told, answer], "rejected")


def _long(made: Planted, times: int) -> None:
    for _ in range(times):
        question, answer = made.turns()
        made.add([question, {**answer, "content": made.long()}], "cut")
        question, answer = made.turns()
        made.add([{**question, "content": made.long()}, answer], "cut", "nothing_trained")
        made.add([*made.turns(), {**question, "content": made.long()}, made.turns()[1]], "cut")


def _foreign(made: Planted, times: int) -> None:
    for number, (asked, answered) in enumerate(_FOREIGN.values()):
        for turn in range(times):
            # Most of it is made of other words each time, or they were near duplicates.
            question = {"role": "user", "content": asked}
            said = " ".join([answered.format(number), *_shuffled(made, answered, turn)])
            made.add([question, {"role": "assistant", "content": said}], "other_language")


def _shuffled(made: Planted, text: str, turn: int) -> list[str]:
    words = [word for word in text.split() if "{" not in word] * 3
    made.dice.shuffle(words)
    return [*words, str(turn)]


def _near(turns: list[Row], word: str) -> list[Row]:
    """The same but for the last word."""
    question, answer = turns
    return [question, {**answer, "content": f"{answer['content'].rsplit(' ', 1)[0]} {word}."}]


def _alike(made: Planted, times: int) -> list[list[Row]]:
    """Rows that stand several times among those to learn from; gives rows that stand once."""
    for number in range(times):
        one, other, often = made.turns(), made.turns(), made.turns()
        made.add(one)
        made.add(other)
        made.add(often)
        made.add(one, "duplicate", "duplicate_in_train")
        # Case and spaces make no other row of it.
        loud = [{**turn, "content": f" {turn['content'].upper()}\n"} for turn in often]
        made.add(loud, "duplicate", "duplicate_in_train")
        made.add(often, "duplicate", "duplicate_in_train")
        made.add(_near(other, f"anything{number}"), "near_duplicate", "near_duplicate_in_train")
        first = number == 0
        given = [made.turns()[0], {"role": "assistant", "content": _SAME_ANSWER}]
        made.add(given, *([] if first else ["duplicate_answer"]))
    once = [made.turns() for _ in range(2 * times)]
    for turns in once:
        made.add(turns)
    return once


def _held(made: Planted, once: list[list[Row]], times: int, clean: int) -> None:
    """The rows to hold back; some are those of `once` again."""
    for number in range(times):
        same, like = once[2 * number], once[2 * number + 1]
        made.add(same, "leaked", "leaked_exact", "duplicate")
        made.add(_near(like, f"elsewhere{number}"), "leaked", "near_duplicate")
    for _ in range(clean):
        made.add(made.turns())


def write(path: Path, seed: int = 0, times: int = 3, clean: int = 200) -> dict[str, int]:
    """Writes the file and its recipe; gives the counts. `times`: how often each fault is planted;
    `clean`: how many rows without a fault are among those to learn from at least."""
    made = Planted(random.Random(seed))
    for _ in range(20):
        made.add(made.turns())
    # Counted apart, so that they can be mixed; what comes again keeps its order.
    alike = Planted(made.dice)
    once = _alike(alike, times)
    rest = Planted(made.dice)
    _unusable(rest, times)
    _odd(rest, times)
    _long(rest, times)
    _foreign(rest, times)
    for _ in range(clean):
        rest.add(rest.turns())
    made.dice.shuffle(rest.lines)
    made.lines += [*rest.lines, *alike.lines]
    made.counts += rest.counts + alike.counts
    train = made.counts["rows"]
    _held(made, once, times, clean=10 * times)
    total = made.counts["rows"]
    path.write_bytes(b"\n".join(made.lines) + b"\n")
    recipe = {
        "data": {"path": str(path.resolve()), "validation": f"[{train}:{total}]"},
        "train": {"max_length": MAX_LENGTH},
    }
    # JSON is YAML too.
    path.with_suffix(".yaml").write_text(json.dumps(recipe, indent=2), encoding="utf-8")
    made.counts.update(train_rows=train, validation_rows=total - train)
    return dict(sorted(made.counts.items()))


if __name__ == "__main__":
    print(json.dumps(write(Path(sys.argv[1])), indent=2))
