"""Which rows are held back: by share, count, slice, name; weights and several sources."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.data import Data
from studio.data.split import names_rows
from studio.errors import StudioError
from studio.settings import Settings
from tests.unit.data_files import jsonl, opened


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    """A hundred rows."""
    return jsonl(tmp_path / "hundred.jsonl", [{"text": "t", "n": n} for n in range(100)])


def parts(data: Data, seed: int = 1) -> tuple[list[int], list[int], list[int]]:
    """The parts as lists."""
    found = data.parts(seed)
    for array in (found.train, found.validation, found.test):
        assert array.dtype == np.int64
    return found.train.tolist(), found.validation.tolist(), found.test.tolist()


@pytest.mark.parametrize(
    ("validation", "test", "counts"),
    [
        ("0", "0", (100, 0, 0)),
        ("0%", "0", (100, 0, 0)),
        ("10%", "0", (90, 10, 0)),
        ("0.25", "5", (70, 25, 5)),
        (".1", "10 %", (80, 10, 10)),
        ("7", "0", (93, 7, 0)),
        ("0.001", "0", (99, 1, 0)),
        ("[80:100]", "[:10]", (70, 20, 10)),
        ("[80%:90%]", "[90%:]", (80, 10, 10)),
        ("[90:500]", "5", (85, 10, 5)),
    ],
)
def test_parts_are_drawn_or_cut(
    settings: Settings, hundred: Path, validation: str, test: str, counts: tuple[int, int, int]
) -> None:
    data = opened(settings, hundred, validation=validation, test=test)
    train, held, kept = parts(data)
    assert (len(train), len(held), len(kept)) == counts
    assert sorted(train + held + kept) == list(range(100)) == list(range(data.total))
    assert train == sorted(train) and held == sorted(held) and kept == sorted(kept)


def test_slices_are_the_rows_they_name(settings: Settings, hundred: Path) -> None:
    _, held, kept = parts(opened(settings, hundred, validation="[80%:90%]", test="[3:5]"))
    assert held == list(range(80, 90)) and kept == [3, 4]


def test_what_is_drawn_depends_on_the_seed_alone(settings: Settings, hundred: Path) -> None:
    data = opened(settings, hundred, validation="10%", test="10%")
    assert parts(data, 1) == parts(data, 1) != parts(data, 2)
    assert parts(data, 1)[1] != parts(data, 1)[2]
    assert parts(data, 1)[1] == parts(opened(settings, hundred, validation="10%"), 1)[1]


def test_large_data_is_drawn_too(settings: Settings, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "large.jsonl", [{"text": "t"}] * 120_000)
    data = opened(settings, path, validation="10%", test="500")
    train, held, kept = parts(data)
    assert (len(train), len(held), len(kept)) == (107_500, 12_000, 500)
    assert sorted(train + held + kept) == list(range(120_000)) and parts(data) == parts(data)
    assert held == sorted(held) and max(held) > 100_000 and parts(data, 2)[1] != held


@pytest.mark.parametrize(
    ("validation", "test", "words"),
    [
        ("100", "0", "100 rows are to be held back"),
        ("60", "60", "60 rows are to be held back"),
        ("[100:120]", "0", "none of them"),
        ("[50:50]", "0", "none of them"),
        ("[0:10]", "[5:15]", "held back for evaluation already"),
        ("[:]", "0", "none is left to learn from"),
    ],
)
def test_what_can_not_be_held_back_is_told(
    settings: Settings, hundred: Path, validation: str, test: str, words: str
) -> None:
    with pytest.raises(StudioError, match=words) as caught:
        opened(settings, hundred, validation=validation, test=test).parts(1)
    assert caught.value.hint


def test_a_row_alone_is_learned(settings: Settings, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "t"}])
    assert parts(opened(settings, path, validation="10%")) == ([0], [], [])


def test_files_are_held_back_by_their_name(
    settings: Settings, hundred: Path, tmp_path: Path
) -> None:
    one = jsonl(tmp_path / "one.jsonl", [{"text": "one", "n": 0}] * 2)
    two = jsonl(tmp_path / "two.jsonl", [{"text": "two", "n": 0}] * 3)
    data = opened(settings, hundred, validation="one.jsonl", test=str(two))
    assert (data.total, data.size) == (100, 105)
    assert parts(data) == (list(range(100)), [100, 101], [102, 103, 104])
    assert data.row(101)["text"] == "one" and data.where(102) == "two.jsonl, line 1"
    assert [row["text"] for row in data.raw(99, 99)] == ["t", "one", "one", "two", "two", "two"]
    mixed = opened(settings, hundred, validation="10%", test=str(one))
    assert [len(part) for part in parts(mixed)] == [90, 10, 2] and parts(mixed)[2] == [100, 101]


@pytest.mark.parametrize("text", ["nonsense", "test[:10%]", "10 rows"])
def test_a_part_that_is_nothing_is_told(settings: Settings, hundred: Path, text: str) -> None:
    with pytest.raises(StudioError, match=r"neither a share, a count, a slice nor a file"):
        opened(settings, hundred, validation=text)
    with pytest.raises(StudioError, match=r"There is no file gone\.jsonl"):
        opened(settings, hundred, test="gone.jsonl")


def test_shares_counts_and_slices_speak_of_the_rows() -> None:
    for text in ("10%", " 0.1 ", "200", "[1:2]", "[:10%]", "[80%:]", "0"):
        assert names_rows(text), text
    for text in ("validation", "train[:10%]", "a.jsonl", "owner/name"):
        assert not names_rows(text), text


def counted(data: Data) -> Counter[int]:
    """How often each row is there."""
    return Counter(row["n"] for row in data.raw(0, data.size))


def test_a_weight_says_how_often_rows_are_there(settings: Settings, hundred: Path) -> None:
    def weighted(weight: float) -> Counter[int]:
        return counted(opened(settings, hundred, weight=weight))

    assert weighted(2) == Counter(dict.fromkeys(range(100), 2))
    half = weighted(0.5)
    assert len(half) == half.total() == 50 and half == weighted(0.5)
    assert max(half) > 50
    more = weighted(1.25)
    assert more.total() == 125 and len(more) == 100 and set(more.values()) == {1, 2}
    assert weighted(0.001).total() == 1


@pytest.mark.parametrize("fields", [{"validation": "10%", "test": "5"}, {"validation": "[20:40]"}])
@pytest.mark.parametrize("weight", [2.0, 2.5])
def test_a_row_that_counts_twice_is_in_one_part_and_held_back_once(
    settings: Settings, hundred: Path, fields: dict[str, Any], weight: float
) -> None:
    data = opened(settings, hundred, weight=weight, **fields)
    train, held, kept = ([data.row(p)["n"] for p in part] for part in parts(data))
    assert not set(train) & set(held + kept) and not set(held) & set(kept)
    assert len(held + kept) == len(set(held + kept)) and set(train + held + kept) == set(range(100))
    assert min(Counter(train).values()) == 2
    if fields["validation"] == "10%":
        assert (len(held), len(kept)) == (10, 5)
    else:
        assert held == list(range(20, 40))


def test_copies_are_no_duplicates(settings: Settings, hundred: Path) -> None:
    rows = [{"text": f"text {n % 50}", "n": n} for n in range(100)]
    jsonl(hundred, rows)
    for what, left in (("duplicate", 50), ("near_duplicate", 100)):
        data = opened(settings, hundred, weight=2, steps=[{"do": "drop", "what": what}])
        assert counted(data) == Counter(dict.fromkeys(range(left), 2))


def test_several_sources_follow_one_another_with_their_own_weights_and_layouts(
    settings: Settings, hundred: Path, tmp_path: Path
) -> None:
    first = jsonl(tmp_path / "a.jsonl", [{"question": f"q{n}", "answer": "a"} for n in range(4)])
    turns = [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]
    second = jsonl(tmp_path / "b.jsonl", [{"conversations": turns}] * 3)
    held = jsonl(tmp_path / "c.jsonl", [{"instruction": "i", "output": "o"}])
    also = [{"path": str(second), "weight": 2}]
    data = opened(settings, first, weight=0.5, also=also, validation=str(held))
    assert (data.total, data.size) == (8, 9)
    said = [data.example(row).messages[0]["content"][0] for row in data.raw(0, 9)]
    assert said == ["q"] * 2 + ["h"] * 6 + ["i"]
    assert (
        data.where(2) == data.where(5) == "b.jsonl, line 1" and data.where(8) == "c.jsonl, line 1"
    )
    assert data.layout.name == "question_answer"
    filtered = opened(settings, first, also=also, steps=[{"do": "shuffle", "seed": 3}])
    heard = Counter(filtered.example(row).messages[0]["content"][0] for row in filtered.raw(0, 99))
    assert heard == {"q": 4, "h": 6}
    for path, words in (
        (hundred, "hundred.jsonl is laid out as text"),
        (tmp_path / "no.jsonl", "no file"),
    ):
        with pytest.raises(StudioError, match=words):
            opened(settings, first, also=[{"path": str(path)}])
