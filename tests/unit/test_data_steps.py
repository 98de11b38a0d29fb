"""Filters and steps: which rows are left, in which order, and how they look."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from studio.data import Data, Silent, is_ready, open_data, peek
from studio.errors import StudioError
from studio.settings import Settings
from tests.unit.data_files import jsonl, opened, section


class Counting(Silent):
    """A report that remembers its stages."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, text: str, done: int | None = None, total: int | None = None) -> None:
        if "index" not in text:
            self.stages.append(text)


def numbers(data: Data) -> list[int]:
    """The numbers in the rows that are left."""
    return [row["n"] for row in data.raw(0, data.size)]


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """Ten rows; the odd ones are long."""
    rows = [
        {"text": "long " * 20 if n % 2 else "short", "n": n, "lang": "fa" if n > 6 else "en"}
        for n in range(10)
    ]
    return jsonl(tmp_path / "ten.jsonl", rows)


def left(settings: Settings, path: Path, *steps: dict[str, Any], **fields: Any) -> list[int]:
    """The numbers of the rows that the steps leave."""
    return numbers(opened(settings, path, steps=list(steps), **fields))


CELLS: list[Any] = ["en", "EN", "", None, 5, 5.0, True, ["a", "bc"], {"k": "wörd"}, "  "]


@pytest.mark.parametrize(
    ("keep", "value", "kept"),
    [
        ("equals", "en", [0]),
        ("equals", "", [2, 3]),
        ("equals", "5", [4, 5]),
        ("equals", "true", [6]),
        ("not_equals", "en", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("contains", "n", [0]),
        ("contains", "wörd", [8]),
        ("matches", "^(?i:en)$", [0, 1]),
        ("matches", "[0-9]", [4, 5]),
        ("longer", "2", [5, 6, 7, 8]),
        ("shorter", "2", [2, 3, 4]),
        ("present", "", [0, 1, 4, 5, 6, 7, 8]),
        ("absent", "", [2, 3, 9]),
    ],
)
def test_a_filter_keeps_the_rows_whose_column_passes(
    settings: Settings, tmp_path: Path, keep: str, value: str, kept: list[int]
) -> None:
    rows = [{"text": "t", "n": n, "c": cell} for n, cell in enumerate(CELLS)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    step = {"do": "filter", "column": "c", "keep": keep, "value": value}
    assert left(settings, path, step) == kept
    assert [row["n"] for row in peek(section(path, steps=[step]), settings, 99).rows] == kept


def test_a_column_that_a_row_lacks_is_absent(settings: Settings, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "t", "n": 0}, {"text": "t", "n": 1, "c": "x"}])
    assert left(settings, path, {"do": "filter", "column": "c", "keep": "absent"}) == [0]


def test_a_pattern_without_an_end_is_stopped(settings: Settings, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a" * 90 + "b"}] * 2)
    began = time.monotonic()
    for pattern, words in ((r"^(a|aa)+$", "takes too long"), ("(", "no regular expression")):
        step = {"do": "filter", "column": "text", "keep": "matches", "value": pattern}
        with pytest.raises(StudioError, match=words):
            left(settings, path, step)
    assert time.monotonic() - began < 5


def test_steps_are_done_in_their_order(settings: Settings, ten: Path) -> None:
    odd = {"do": "filter", "column": "text", "keep": "longer", "value": "10"}
    take = {"do": "take", "rows": 3, "skip": 1}
    assert left(settings, ten, odd, take) == [3, 5, 7]
    assert left(settings, ten, take, odd) == [1, 3]
    assert left(settings, ten, take, take) == [2, 3]
    english = {"do": "filter", "column": "lang", "value": "en"}
    assert left(settings, ten, odd, english, {"do": "take", "rows": 2}) == [1, 3]
    both = section(ten, steps=[english, odd, take])
    assert [row["n"] for row in peek(both, settings, 9).rows] == [3, 5]


def test_a_shuffle_is_the_same_for_the_same_seed(settings: Settings, ten: Path) -> None:
    def shuffled(seed: int) -> list[int]:
        return left(settings, ten, {"do": "shuffle", "seed": seed})

    assert shuffled(1) == shuffled(1) != shuffled(2)
    assert sorted(shuffled(1)) == list(range(10)) != shuffled(1)
    english = {"do": "filter", "column": "lang", "value": "en"}
    wanted = [n for n in shuffled(3) if n < 7]
    assert left(settings, ten, {"do": "shuffle", "seed": 3}, english) == wanted
    assert opened(settings, ten, steps=[{"do": "shuffle", "seed": 3}]).where(0) == (
        f"ten.jsonl, line {shuffled(3)[0] + 1}"
    )


def test_dropped_columns_are_gone_for_what_comes_after(settings: Settings, ten: Path) -> None:
    drop = {"do": "drop_columns", "columns": ["lang", "absent"]}
    english = {"do": "filter", "column": "lang", "value": "en"}
    data = opened(settings, ten, steps=[english, drop])
    assert data.total == 7 and data.columns == ["text", "n"] and set(data.row(0)) == {"text", "n"}
    with pytest.raises(StudioError, match=r"After step 2 of data\.steps no row is left"):
        opened(settings, ten, steps=[drop, english])
    assert set(peek(section(ten, steps=[drop]), settings, 1).rows[0]) == {"text", "n"}


def test_a_layout_is_not_told_from_a_dropped_column(settings: Settings, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "completion": "c"}] * 3
    path = jsonl(tmp_path / "a.jsonl", rows)
    assert opened(settings, path).kind == "preference"
    drop = {"do": "drop_columns", "columns": ["rejected"]}
    assert opened(settings, path, steps=[drop]).layout.name == "prompt_completion"


def test_a_system_message_is_on_every_example(settings: Settings, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}])
    data = opened(settings, path, steps=[{"do": "system", "text": "Be brief."}])
    assert data.example(data.row(0)).messages[0] == {"role": "system", "content": "Be brief."}
    assert data.row(0) == {"question": "q", "answer": "a"}
    raw = jsonl(tmp_path / "b.jsonl", [{"text": "t"}])
    with pytest.raises(StudioError, match="can't be added to raw text"):
        opened(settings, raw, steps=[{"do": "system", "text": "Be brief."}])


FAULTY: list[tuple[str, str]] = [
    ("good", '{"messages": [{"role": "user", "content": "q"}, '
             '{"role": "assistant", "content": "a"}]}'),
    ("broken", '{"messages": ['),
    ("unreadable", '{"messages": 5}'),
    ("empty_answer", '{"messages": [{"role": "user", "content": "q"}, '
                     '{"role": "assistant", "content": ""}]}'),
    ("role_order", '{"messages": [{"role": "assistant", "content": "a"}]}'),
    ("bad_encoding", '{"messages": [{"role": "user", "content": "q\\ud83d"}, '
                     '{"role": "assistant", "content": "b"}]}'),
    ("good", '{"messages": [{"role": "user", "content": "p"}, '
             '{"role": "assistant", "content": "a"}]}'),
]  # fmt: skip


@pytest.mark.parametrize(
    "what", ["broken", "unreadable", "empty_answer", "role_order", "bad_encoding"]
)
def test_a_drop_leaves_out_the_rows_with_the_fault(
    settings: Settings, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(line for _, line in FAULTY), encoding="utf-8")
    steps = [{"do": "drop", "what": what}]
    data = opened(settings, path, steps=steps)
    lines = [n for n, (fault, _) in enumerate(FAULTY, 1) if fault != what]
    assert [data.where(n) for n in range(data.total)] == [f"a.jsonl, line {n}" for n in lines]
    assert peek(section(path, steps=steps), settings, 99).where == [
        f"a.jsonl, line {n}" for n in lines
    ]


def test_several_drops_are_one_pass_and_see_the_steps_before_them(
    settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(line for _, line in FAULTY), encoding="utf-8")
    drops = [{"do": "drop", "what": fault} for fault, _ in FAULTY if fault != "good"]
    assert opened(settings, path, steps=drops).total == 2
    with pytest.raises(StudioError, match="After step 3 of"):
        opened(settings, path, steps=[*drops[:1], {"do": "take", "rows": 2, "skip": 1},
               {"do": "take", "rows": 2, "skip": 9}, *drops])  # fmt: skip


def sentence(seed: int) -> str:
    """Forty words that no other seed says in this order."""
    return " ".join(str(random.Random(seed * 100 + n).randrange(10**6)) for n in range(40))


def test_duplicates_leave_their_first_one(settings: Settings, tmp_path: Path) -> None:
    texts = ["a", "b", " A ", "c", "b", "b"]
    path = jsonl(tmp_path / "a.jsonl", [{"text": t, "n": n} for n, t in enumerate(texts)])
    drop = {"do": "drop", "what": "duplicate"}
    assert left(settings, path, drop) == [0, 1, 3]
    assert left(settings, path, {"do": "take", "rows": 5, "skip": 2}, drop) == [2, 3, 4]
    # Of a shuffled pair the first one as they stand now.
    shuffle = {"do": "shuffle", "seed": 5}
    order = left(settings, path, shuffle)
    kept = left(settings, path, shuffle, drop)
    keys = [texts[n].strip().lower() for n in order]
    assert kept == [n for at, n in enumerate(order) if keys.index(keys[at]) == at]


def test_rows_that_say_nearly_the_same_leave_their_first_one(
    settings: Settings, tmp_path: Path
) -> None:
    texts = [sentence(1), sentence(2), sentence(1) + " end", sentence(3), "broken"]
    rows: list[Any] = [{"text": t, "n": n} for n, t in enumerate(texts)]
    rows[4] = {"text": 5, "n": 4}
    path = jsonl(tmp_path / "a.jsonl", rows)
    assert left(settings, path, {"do": "drop", "what": "near_duplicate"}) == [0, 1, 3, 4]
    strict = {"do": "drop", "what": "near_duplicate", "threshold": 1.0}
    assert left(settings, path, strict) == [0, 1, 2, 3, 4]
    # The same is a fault of its own.
    jsonl(path, [*rows, {"text": texts[0], "n": 5}])
    assert left(settings, path, {"do": "drop", "what": "near_duplicate"}) == [0, 1, 3, 4, 5]


def test_answers_given_before_and_other_languages_are_left_out(
    settings: Settings, tmp_path: Path
) -> None:
    pairs = [
        ("Who painted the ceiling of the chapel?", "Nobody knows that."),
        ("Where does the river end?", "It ends in the sea, beyond the hills."),
        ("When was the old bridge built?", "Nobody knows that."),
        # The same as an earlier one: that is a fault of its own.
        ("who painted the ceiling  of the chapel?", "Nobody knows that."),
        ("Wie lange dauert die Fahrt bis zum Bahnhof?", "Ungefähr eine halbe Stunde dauert sie."),
        ("12 + 13", "25"),
    ]
    rows = [{"prompt": q, "completion": a, "n": n} for n, (q, a) in enumerate(pairs)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    assert left(settings, path, {"do": "drop", "what": "duplicate_answer"}) == [0, 1, 3, 4, 5]
    assert left(settings, path, {"do": "drop", "what": "other_language"}) == [0, 1, 2, 3, 5]
    # Nothing is foreign where nothing can be told.
    path = jsonl(tmp_path / "b.jsonl", [{"text": str(n), "n": n} for n in range(3)])
    assert left(settings, path, {"do": "drop", "what": "other_language"}) == [0, 1, 2]


def test_rows_that_leak_into_a_held_out_part_are_not_learned(
    settings: Settings, tmp_path: Path
) -> None:
    texts = [sentence(n) for n in range(1, 5)]
    texts += [texts[0] + " end", texts[1], sentence(6)]
    path = jsonl(tmp_path / "a.jsonl", [{"text": t, "n": n} for n, t in enumerate(texts)])
    leaked = [{"do": "drop", "what": "leaked"}]
    data = opened(settings, path, steps=leaked, validation="[0:1]", test="[5:6]")
    parts = data.parts(1)
    assert data.total == 7
    assert (parts.train.tolist(), parts.validation.tolist(), parts.test.tolist()) == (
        [2, 3, 6], [0], [5],
    )  # fmt: skip
    held = jsonl(tmp_path / "held.jsonl", [{"text": sentence(4), "n": 0}])
    outside = opened(settings, path, steps=leaked, validation=str(held))
    assert outside.parts(1).train.tolist() == [0, 1, 2, 4, 5, 6]
    assert outside.parts(1).validation.tolist() == [7]


def test_drops_for_the_tokenizer_are_handed_on(settings: Settings, ten: Path) -> None:
    steps = [
        {"do": "drop", "what": what} for what in ("cut", "rejected", "nothing_trained", "broken")
    ]
    data = opened(settings, ten, steps=steps)
    assert data.total == 10 and data.token_drops == {"cut", "rejected", "nothing_trained"}


def test_a_held_out_file_goes_through_what_judges_a_row_by_itself(
    settings: Settings, ten: Path, tmp_path: Path
) -> None:
    rows = [{"text": "t", "n": 100 + n, "lang": "en" if n < 3 else "fa"} for n in range(4)]
    held = jsonl(tmp_path / "held.jsonl", rows)
    steps = [
        {"do": "filter", "column": "lang", "value": "en"},
        {"do": "drop_columns", "columns": ["lang"]},
        {"do": "take", "rows": 2},
        {"do": "shuffle", "seed": 1},
        {"do": "drop", "what": "duplicate"},
    ]
    data = opened(settings, ten, steps=steps, validation=str(held))
    assert data.total == 2 and sorted(numbers(data)[:2]) == [0, 1]
    assert numbers(data)[2:] == [100, 101, 102] and data.columns == ["text", "n"]
    assert data.parts(1).validation.tolist() == [2, 3, 4] and data.where(4) == "held.jsonl, line 3"


def test_what_was_chosen_is_kept(settings: Settings, ten: Path) -> None:
    fields = {"steps": [{"do": "filter", "column": "lang", "value": "en"}]}

    first = Counting()
    open_data(section(ten, **fields), settings, first)
    assert "choosing rows" in first.stages
    # What comes after the rows does not make them be chosen again.
    again = section(ten, chat_template="chatml", train_on="last", validation="10%", **fields)
    second = Counting()
    assert open_data(again, settings, second).total == 7
    assert "choosing rows" not in second.stages
    jsonl(ten, [{"text": "t", "n": 1, "lang": "en"}])
    assert opened(settings, ten, **fields).total == 1


def test_a_choice_that_takes_long_is_not_ready_until_it_was_made(
    settings: Settings, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"{n} " + "x" * 1000} for n in range(3000)])
    plain = section(path)
    chosen = section(path, steps=[{"do": "filter", "column": "text", "keep": "present"}])
    opened(settings, path)
    assert is_ready(plain, settings) and not is_ready(chosen, settings)
    opened(settings, path, steps=chosen.steps)
    assert is_ready(chosen, settings)
    small = jsonl(tmp_path / "b.jsonl", [{"text": "x"}])
    assert not is_ready(section(small, steps=[{"do": "drop", "what": "near_duplicate"}]), settings)


def test_a_take_after_a_filter_reads_no_further_than_it_must(
    settings: Settings, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x", "n": n} for n in range(50_000)])
    steps = [{"do": "filter", "column": "n", "keep": "present"}, {"do": "take", "rows": 5}]
    seen = Counting()
    assert open_data(section(path, steps=steps), settings, seen).total == 5
    assert seen.stages == ["choosing rows"]
