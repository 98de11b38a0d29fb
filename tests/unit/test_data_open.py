"""Opened data: rows at any place, finding words, what is known of all of them, what it costs."""

import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.data import BUNDLED, Broken, Silent, fingerprint, is_ready, locate, open_data, peek
from studio.data.jsonl import JsonlTable, index
from studio.errors import StudioError
from studio.settings import PROJECT, Settings
from tests.unit.data_files import jsonl, opened, section, write

ROWS: list[dict[str, Any]] = [
    {"question": "What is your NAME?", "answer": "Bramble"},
    {"question": "اسم شما چیست؟", "answer": "Straße"},
    {"question": "numbers", "answer": "seven", "n": 7, "more": {"deep": ["Treasure"]}},
    {"question": "name again", "answer": "Bramble"},
]


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """Four rows."""
    return jsonl(tmp_path / "four.jsonl", ROWS)


BUNDLED_AS = {
    "persona": ("chat", "messages"),
    "persona-pairs": ("preference", "preference"),
    "persona-marks": ("unpaired", "kto"),
    "workshop-texts": ("text", "text"),
    "workshop-sums": ("chat", "prompt_completion"),
}


def test_the_bundled_sets_can_be_learned_from(settings: Settings) -> None:
    assert set(BUNDLED_AS) == set(BUNDLED)
    for name, told in BUNDLED_AS.items():
        data = opened(settings, name, validation="10%")
        assert (data.kind, data.layout.name) == told
        assert data.total >= 40 and len(data.parts(42).validation) >= 4
        assert all(data.example(row) for row in data.raw(0, data.total))


def test_rows_are_given_from_any_place_and_none_beyond_the_end(
    settings: Settings, four: Path
) -> None:
    data = opened(settings, four)
    assert data.raw(2, 99) == ROWS[2:] and data.raw(4, 9) == data.raw(99, 1) == []
    assert data.raw(-3, 2) == [] and data.raw(0, 0) == []
    for position in (-1, 4):
        for ask in (data.row, data.where, data.example_at):
            with pytest.raises(StudioError, match="There is no row"):
                ask(position)


@pytest.mark.parametrize(
    ("text", "start", "forward", "found"),
    [
        ("name", 0, True, 0),
        ("name", 1, True, 3),
        ("name", 2, False, 0),
        ("name", 3, False, 3),
        ("شما", 0, True, 1),
        ("STRASSE", 0, True, 1),
        ("treasure", 0, True, 2),
        ("7", 0, True, 2),
        ("deep", 0, True, None),
        ("name", 99, True, None),
        ("name", 99, False, 3),
        ("name", -5, True, 0),
        ("nowhere", 3, False, None),
    ],
)
def test_words_are_found_in_both_directions(
    settings: Settings, four: Path, text: str, start: int, forward: bool, found: int | None
) -> None:
    assert opened(settings, four).find(text, start, forward) == found


def test_words_are_found_far_away_past_broken_rows(settings: Settings, tmp_path: Path) -> None:
    lines = ['{"text": "x"}'] * 5000
    lines[10], lines[4000] = "{", '{"text": "here it is"}'
    data = opened(settings, write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert data.find("HERE", 0) == data.find("here", 4999, forward=False) == 4000
    assert data.find("here", 4001) is data.find("here", 3999, forward=False) is None


def test_a_search_can_be_stopped(settings: Settings, four: Path) -> None:
    class Enough(Exception):  # noqa: N818 - a stop is no error
        pass

    class Stopping(Silent):
        def stage(self, text: str, done: int | None = None, total: int | None = None) -> None:
            raise Enough

    with pytest.raises(Enough):
        opened(settings, four).find("x", 0, report=Stopping())


def test_rows_are_gone_through_in_chunks_and_in_the_order_asked_for(
    settings: Settings, four: Path
) -> None:
    data = opened(settings, four)
    asked = np.array([3, 0, 1, 2, 2])
    parts = list(data.iterate(asked, chunk=2))
    assert [positions.tolist() for positions, _ in parts] == [[3, 0], [1, 2], [2]]
    assert [row for _, rows in parts for row in rows] == [ROWS[n] for n in asked]
    assert list(data.iterate(asked[:0])) == []


def test_the_fingerprint_changes_with_the_file_and_with_what_is_done(
    settings: Settings, four: Path
) -> None:
    def told(**fields: Any) -> str:
        return opened(settings, four, **fields).fingerprint

    first = told()
    assert first == told() == told(accepted=["cut"]) == fingerprint(section(four), settings)
    others = [
        told(validation="1"),
        told(train_on="last"),
        told(chat_template="chatml"),
        told(weight=2.0),
        told(steps=[{"do": "take", "rows": 2}]),
        told(also=[{"path": "persona", "weight": 0.5}]),
    ]
    jsonl(four, ROWS[:3])
    assert len({first, *others, told()}) == 8


def test_what_is_known_of_the_rows(settings: Settings, four: Path) -> None:
    data = opened(settings, four)
    assert (data.kind, data.layout.name) == ("chat", "question_answer")
    assert data.columns == ["question", "answer", "n", "more"]
    assert data.token_drops == frozenset() and data.notes == ()


def test_a_peek_stops_where_it_has_enough(settings: Settings, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"{n}"} for n in range(30)])
    with path.open("ab") as file:
        file.write(b"{\n" * 10)
    seen = peek(section(path), settings, 25)
    assert [row["text"] for row in seen.rows if isinstance(row, dict)] == [*map(str, range(25))]
    assert seen.where[24] == "a.jsonl, line 25" and seen.layout.name == "text"
    assert sum(isinstance(row, Broken) for row in peek(section(path), settings, 99).rows) == 10
    assert not settings.home.joinpath("cache").exists()


def test_a_peek_goes_on_with_the_next_source(settings: Settings, four: Path) -> None:
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    jsonl(four.with_name("b.jsonl"), [{"messages": turns}])
    found = section(four, also=[{"path": "b.jsonl"}])
    seen = peek(found, settings, 99)
    assert seen.rows == [*ROWS, {"messages": turns}] and seen.where[4] == "b.jsonl, line 1"


def test_a_peek_gives_up_where_no_row_passes(settings: Settings, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x" * 500}] * 400_000)
    step = {"do": "filter", "column": "text", "value": "y"}
    began = os.times().elapsed
    assert peek(section(path, steps=[step]), settings, 1).rows == []
    assert os.times().elapsed - began < 3


def test_a_file_that_is_no_data_is_told_by_all(settings: Settings, tmp_path: Path) -> None:
    found = section(jsonl(tmp_path / "odd.jsonl", [{"a": "1", "b": "2"}]))
    for ask in (lambda: peek(found, settings, 3), lambda: open_data(found, settings)):
        with pytest.raises(StudioError, match=r"odd\.jsonl: The columns a, b are no layout"):
            ask()
    for ask in (open_data, is_ready):
        with pytest.raises(StudioError, match="There is no file"):
            ask(section("gone.jsonl"), settings)


@pytest.mark.parametrize("path", ["owner/name", "name"])
def test_what_is_no_file_here_is_an_id_of_the_hub(settings: Settings, path: str) -> None:
    assert locate(path, settings) is None
    (settings.workspace / path).mkdir(parents=True)
    assert locate(path, settings) == settings.workspace / path


@pytest.mark.parametrize("path", ["./name", "a/b/c", "rows.jsonl", "rows.CSV.GZ", "/tmp/no/x"])
def test_what_can_only_be_a_file_is_not_asked_of_the_hub(settings: Settings, path: str) -> None:
    with pytest.raises(StudioError, match="There is no file"):
        locate(path, settings)


def test_several_threads_may_read_at_once(settings: Settings, tmp_path: Path) -> None:
    rows = [{"text": f"{n} " + "x" * (n % 300)} for n in range(3000)]
    data = opened(settings, jsonl(tmp_path / "a.jsonl", rows))
    wrong: list[int] = []

    def read(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(100):
            at = dice.randrange(3000)
            if data.raw(at, 7) != rows[at : at + 7]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_any_order_of_rows_is_read_from_lines_of_any_length(tmp_path: Path) -> None:
    dice = random.Random(1)
    rows = [{"n": n, "x": "é" * int(10 ** dice.uniform(0, 5))} for n in range(600)]
    raw = jsonl(tmp_path / "a.jsonl", rows).read_bytes().split(b"\n")
    # Blank lines, lines that begin with a space, Windows' ends of lines and none at the end.
    mixed = b"\xef\xbb\xbf" + b"".join(
        dice.choice([b"", b"\n", b"  \n", b" ", b"\r\n"]) + line + dice.choice([b"\n", b"\r\n"])
        for line in raw[:-1]
    )
    path = write(tmp_path / "mixed.jsonl", mixed[:-1])
    table = JsonlTable(path, index(path, Silent()))
    assert table.size == 600
    for wanted in (
        np.arange(600),
        np.arange(599, -1, -1),
        np.array([dice.randrange(600) for _ in range(999)]),
        np.arange(0, 600, 7),
        np.array([5, 5, 6, 6, 7]),
        np.array([], np.int64),
    ):
        assert table.read(wanted) == [rows[n] for n in wanted]
    lines = mixed.split(b"\n")
    for n in range(600):
        line = int(table.where(n).split()[-1])
        assert f'"n": {n},'.encode() in lines[line - 1]


_MEASURE = """
import sys, json
from pathlib import Path
from studio.data import open_data, peek
from studio.settings import Settings
from studio.spec import DataSection

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024

settings = Settings(home=Path(sys.argv[1]), workspace=Path(sys.argv[1]))
section = DataSection(path=sys.argv[2])
before = peak()
peek(section, settings, 50)
data = open_data(section, settings)
data.parts(1)
for start in range(0, data.total, data.total // 50):
    data.raw(start, 100)
print(json.dumps([data.total, peak() - before, "pyarrow" in sys.modules]))
"""


def test_a_large_file_is_never_in_memory(settings: Settings, tmp_path: Path) -> None:
    import json

    line = json.dumps({"question": "q" * 500, "answer": "a" * 500}) + "\n"
    path = tmp_path / "large.jsonl"
    with path.open("w", encoding="ascii") as file:
        for _ in range(250):
            file.write(line * 1000)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(settings.home), str(path)],
        cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    total, grown, arrow = json.loads(done.stdout)
    assert total == 250_000 and grown < 50 and not arrow
