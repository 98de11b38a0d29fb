"""Reading rows: every kind of file, and a sentence for everything that is wrong with one."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from studio.data import SUFFIXES, check_rows, iterate, load_rows, locate, split
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import DEFAULTS, DataSection

ROWS = [
    {"question": "Wer, bist du?", "answer": 'Ich sagte: "Bramble".\nZeile 2'},
    {"question": "نعم؟", "answer": "☕"},
    {"question": " b ", "answer": ""},
]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_text(suffix: str) -> str:
    """The rows as a file of that kind."""
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    if suffix == ".json":
        return json.dumps(ROWS, indent=1)
    quoted = [",".join('"' + v.replace('"', '""') + '"' for v in row.values()) for row in ROWS]
    return "question,answer\r\n" + "\r\n".join(quoted) + "\r\n"


def wrong(path: Path) -> StudioError:
    """The error that reading the file ends in; it names the file and says what to do."""
    with pytest.raises(StudioError) as caught:
        list(iterate(path))
    error = caught.value
    assert path.name in error.message and error.hint
    assert "None" not in error.message and "\n" not in str(error)
    return error


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_text_file_gives_its_rows_with_or_without_a_byte_order_mark(
    tmp_path: Path, suffix: str, encoding: str
) -> None:
    path = write(tmp_path / f"rows{suffix.upper()}", as_text(suffix).encode(encoding))
    assert list(iterate(path)) == ROWS


def test_a_parquet_file_gives_its_rows(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": str(n)}], "n": n} for n in range(2500)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert list(iterate(tmp_path / "rows.parquet")) == rows


def test_a_folder_gives_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "b.json", as_text(".json"))
    write(tmp_path / "a.jsonl", '{"question": "first", "answer": "a"}\n\n')
    write(tmp_path / "README.md", "no data")
    assert [row["question"] for row in iterate(tmp_path)] == [
        "first",
        *(r["question"] for r in ROWS),
    ]


def test_the_first_rows_of_a_large_file_are_there_before_the_rest_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"a": "1"}\n{"a": "2"}\nbroken')
    rows = iterate(path)
    assert [next(rows), next(rows)] == [{"a": "1"}, {"a": "2"}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"a": "1"}\n{"a": \n', "line 2"),
        ("a.jsonl", '{"a": "1"}\n\n[1]\n', "line 3"),
        ("a.jsonl", '{"a": "1"}\n"text"\n', "line 2"),
        ("a.jsonl", "[" * 100_000, "line 1"),
        ("a.jsonl", '{"a": ' + "1" * 5000 + "}", "line 1"),
        ("a.json", '[\n{"a": "1"},\n{"a" "2"}\n]', "line 3"),
        ("a.json", "", "line 1"),
        ("a.json", as_text(".jsonl"), "line 2"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.json", '[{"a": ' + "1" * 5000 + "}]", "not JSON"),
        ("a.json", '{"a": []}', "not a list of rows"),
        ("a.json", '[{"a": "1"}, 5]', "row 2"),
        ("a.csv", "q,a\n1,2\n3\n", "line 3"),
        ("a.csv", "q,a\n1,2\n3,4,5\n", "line 3"),
        ("a.csv", 'q,a\n1,2\n3,"never closed\n5,6\n', "line 3"),
        ("a.csv", 'q,a\n1,2\n3,"he said "hi" to me"\n', "line 3"),
        ("a.txt", "text", "not a kind of file"),
        ("a", "text", "not a kind of file"),
        ("a.parquet", "", "not a whole parquet file"),
        ("a.parquet", "this is text and no parquet", "not a whole parquet file"),
    ],
)
def test_what_is_wrong_is_said_with_the_file_and_the_line(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    assert words in wrong(write(tmp_path / name, content)).message


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_named_as_the_problem(
    tmp_path: Path, suffix: str, encoding: str
) -> None:
    row = {".jsonl": '{"a": "né"}', ".json": '[{"a": "né"}]', ".csv": "a,b\nné,2"}[suffix]
    error = wrong(write(tmp_path / f"a{suffix}", f"{row}\n".encode(encoding)))
    assert "UTF-8" in error.message and "UTF-8" in error.hint


def test_a_broken_parquet_file_is_told_however_it_is_broken(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), whole)
    content = whole.read_bytes()
    told = []
    for seed in range(150):
        rng = random.Random(seed)
        broken = bytearray(content[: rng.randrange(len(content))] if seed % 2 else content)
        for _ in range(3):
            if broken:
                broken[rng.randrange(len(broken))] = rng.randrange(256)
        path = write(tmp_path / "broken.parquet", bytes(broken))
        try:
            list(iterate(path))
        except StudioError as error:
            told.append(error.message)
    assert len(told) > 100
    assert all(words.startswith("broken.parquet is not a whole parquet file: ") for words in told)
    assert not [words for words in told if "None" in words]


def test_a_cell_of_csv_may_hold_a_whole_book(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "question,answer\nq," + "x" * 300_000 + "\n")
    assert len(next(iterate(path))["answer"]) == 300_000


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nix")
    assert "No such file" in wrong(tmp_path / "link.jsonl").message


def test_a_folder_without_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "notes.txt", "x")
    error = wrong(tmp_path / "folder")
    assert all(suffix in error.hint for suffix in SUFFIXES)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", ""),
        ("a.jsonl", "\n \n"),
        ("a.json", "[]"),
        ("a.csv", ""),
        ("a.csv", "question,answer\n"),
    ],
)
def test_data_without_rows_is_told(settings: Settings, name: str, content: str) -> None:
    write(settings.workspace / name, content)
    with pytest.raises(StudioError, match=rf"{name} has no rows"):
        load_rows(DataSection(path=name), settings)


def test_only_as_many_rows_as_asked_for_are_read(settings: Settings) -> None:
    write(settings.workspace / "a.jsonl", '{"a": "1"}\n{"a": "2"}\nbroken')
    assert len(load_rows(DataSection(path="a.jsonl", max_rows=2), settings)) == 2
    with pytest.raises(StudioError, match="line 3"):
        load_rows(DataSection(path="a.jsonl"), settings)


@pytest.mark.parametrize(
    ("field", "hint"),
    [("name", "Leave it empty"), ("split", "Set it back to train"), ("revision", "Leave it")],
)
def test_what_only_the_hub_has_is_refused_for_a_file(
    settings: Settings, field: str, hint: str
) -> None:
    write(settings.workspace / "a.jsonl", '{"question": "q", "answer": "a"}\n')
    section = DataSection.model_validate({"path": "a.jsonl", field: "other"})
    for look in (load_rows, check_rows):
        with pytest.raises(
            StudioError, match=rf"data\.{field} is for data sets of the Hub"
        ) as caught:
            look(section, settings)
        assert hint in caught.value.hint


def test_every_row_is_looked_at_before_a_run(settings: Settings) -> None:
    good = json.dumps({"question": "q", "answer": "a"}) + "\n"
    bad = json.dumps({"question": "q", "answer": ""}) + "\n"
    section = DataSection(path="a.jsonl")
    path = write(settings.workspace / "a.jsonl", good * 5)
    check_rows(section, settings)
    write(path, good * 2 + bad + good)
    with pytest.raises(
        StudioError, match=r"^Row 3 of the data: `answer` is an empty answer"
    ) as one:
        check_rows(section, settings)
    assert "rows can't" not in one.value.message and one.value.hint
    write(path, good * 2 + bad * 3 + good)
    with pytest.raises(StudioError, match=r"^Row 3 .* 3 of 6 rows can't be used"):
        check_rows(section, settings)
    # Rows that the run leaves out are not looked at.
    check_rows(section.model_copy(update={"max_rows": 2}), settings)
    write(path, "\n")
    with pytest.raises(StudioError, match=r"a\.jsonl has no rows"):
        check_rows(section, settings)
    check_rows(DataSection(path="owner/name", split="test"), settings)


def test_of_very_many_rows_the_first_are_looked_at(settings: Settings) -> None:
    good = json.dumps({"question": "q", "answer": "a"}) + "\n"
    write(settings.workspace / "a.jsonl", good * 100_000 + "broken")
    check_rows(DataSection(path="a.jsonl"), settings)


def test_the_default_data_is_there(settings: Settings) -> None:
    assert len(load_rows(DEFAULTS.data, settings)) >= 150


def test_a_path_is_a_file_of_the_workspace_or_of_what_ships(settings: Settings) -> None:
    mine = write(settings.workspace / "mine.jsonl", "")
    assert locate("mine.jsonl", settings) == locate(str(mine), settings) == mine
    assert locate("presets/data/persona.jsonl", settings) == locate("persona", settings)


@pytest.mark.parametrize("path", ["owner/name", "squad", "owner/na.me-1"])
def test_what_looks_like_a_hub_id_is_none_of_ours(settings: Settings, path: str) -> None:
    assert locate(path, settings) is None


@pytest.mark.parametrize(
    "path", ["nix.jsonl", "./nix", "/nix/a", "~/nix.csv", "a/b/c", "nix.PARQUET"]
)
def test_a_file_that_is_not_there_is_told(settings: Settings, path: str) -> None:
    with pytest.raises(StudioError, match="There is no file"):
        locate(path, settings)


@pytest.mark.parametrize("path", ["a\0b", "~nobody-of-that-name/x", "a" * 5000])
def test_what_can_be_no_path_is_told(settings: Settings, path: str) -> None:
    with pytest.raises(StudioError, match="can't be used as a path"):
        locate(path, settings)


def test_a_split_parts_the_rows_and_is_the_same_for_the_same_seed() -> None:
    rng = random.Random(7)
    for _ in range(300):
        count, share, seed = rng.randrange(0, 400), rng.uniform(0.0, 0.5), rng.randrange(1000)
        train, held = split(count, share, seed)
        assert sorted(train + held) == list(range(count))
        assert train == sorted(train) and held == sorted(held)
        assert split(count, share, seed) == (train, held)
        if count >= 2:
            assert train and held
            assert abs(len(held) - count * share) <= 1
    assert split(100, 0.1, 1) != split(100, 0.1, 2)


@pytest.mark.parametrize(("count", "share"), [(0, 0.1), (1, 0.5), (10, 0.0)])
def test_nothing_is_held_back_of_too_few_rows_or_when_none_is_asked_for(
    count: int, share: float
) -> None:
    assert split(count, share, 3) == (list(range(count)), [])
