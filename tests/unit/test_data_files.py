"""Reading files: every kind, packed or not, at any place, and a sentence for what is wrong."""

import gzip
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from studio.data import SUFFIXES, Broken, is_ready, open_data, peek
from studio.errors import StudioError
from studio.settings import Settings
from tests.unit.data_files import (
    ROWS,
    TEXTUAL,
    as_bytes,
    as_text,
    jsonl,
    opened,
    rows_of,
    section,
    write,
)

ANY = section("x", layout="text", columns={"text": "a"})


def wrong(settings: Settings, path: Path, **fields: Any) -> StudioError:
    """The error that opening the file ends in; it names the file and says what to do."""
    with pytest.raises(StudioError) as caught:
        opened(settings, path, **fields)
    error = caught.value
    assert path.name in error.message and error.hint
    assert "None" not in error.message and "\n" not in str(error)
    return error


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", [*TEXTUAL, "parquet", "arrow", "stream"])
def test_a_file_of_any_kind_gives_its_rows(
    settings: Settings, tmp_path: Path, kind: str, packed: str
) -> None:
    suffix = kind.replace("stream", "arrow")
    path = write(tmp_path / f"rows.{suffix.upper()}{packed}", as_bytes(kind, tmp_path))
    data = opened(settings, path)
    assert data.raw(0, 10) == ROWS and data.total == 3
    assert data.raw(1, 1) == ROWS[1:2] and data.row(2) == ROWS[2]
    seen = peek(section(path), settings, 2)
    assert seen.rows == ROWS[:2] and seen.where[0].startswith(f"{path.name}, ")
    assert kind in TEXTUAL or seen.where == [f"{path.name}, row 1", f"{path.name}, row 2"]
    assert data.notes == () and f".{suffix}{packed}" in SUFFIXES


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", TEXTUAL)
def test_the_first_bytes_say_the_encoding(
    settings: Settings, tmp_path: Path, kind: str, encoding: str
) -> None:
    path = write(tmp_path / f"rows.{kind}", as_text(kind).encode(encoding))
    assert rows_of(settings, path) == ROWS
    assert peek(section(path), settings, 3).rows == ROWS


@pytest.mark.parametrize("kind", TEXTUAL)
def test_an_encoding_that_is_named_is_used(settings: Settings, tmp_path: Path, kind: str) -> None:
    rows = [{"question": "Où?", "answer": "Là, à côté."}] * 2
    path = write(tmp_path / f"rows.{kind}", as_text(kind, rows).encode("windows-1252"))
    assert rows_of(settings, path, encoding="windows-1252") == rows


@pytest.mark.parametrize("kind", ["json", "csv", "tsv", "txt"])
def test_an_unknown_encoding_is_told_with_the_byte_the_line_and_a_guess(
    settings: Settings, tmp_path: Path, kind: str
) -> None:
    rows = [{"question": "Où est-ce?", "answer": "Là-bas, à côté."}] * 200
    rows[:0] = [{"question": "one", "answer": "two"}] * 40_000
    text = as_text("csv" if kind == "txt" else kind, rows).encode("windows-1252")
    text = text if kind != "json" else json.dumps(rows, indent=0, ensure_ascii=False).encode("l1")
    error = wrong(settings, write(tmp_path / f"rows.{kind}", text))
    offset = text.index("ù".encode("windows-1252"))
    line = text[:offset].count(b"\n") + 1
    assert f"line {line}: byte 0xf9 at offset {offset} is no UTF-8" in error.message
    assert "data.encoding" in error.hint and "125" in error.hint


def test_a_line_of_another_encoding_leaves_the_other_lines(
    settings: Settings, tmp_path: Path
) -> None:
    bad = '{"question": "Où?", "answer": "Là"}\n'.encode("windows-1252")
    good = b'{"question": "q", "answer": "a"}\n'
    data = opened(settings, write(tmp_path / "rows.jsonl", good + bad + good))
    broken = data.raw(1, 1)[0]
    assert isinstance(broken, Broken) and "0xf9" in broken.reason
    assert "data.encoding" in broken.hint
    assert data.where(1) == "rows.jsonl, line 2" and data.row(2) == {"question": "q", "answer": "a"}


BAD_LINES = [
    ('{"a": ', "It is not JSON"),
    ("[1]", "It is not an object"),
    ('"text"', "It is not an object"),
    ("[" * 100_000, "It is not JSON"),
    ('{"a": ' + "1" * 5000 + "}", "It is not JSON"),
    ('["broken", "x"]', "It is not an object"),
]


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_broken_line_is_a_broken_row_and_no_more(
    settings: Settings, tmp_path: Path, line: str, reason: str, packed: str
) -> None:
    path = write(tmp_path / f"a.jsonl{packed}", f'{{"a": "1"}}\n\n{line}\n{{"a": "2"}}')
    data = opened(settings, path, layout="text", columns={"text": "a"})
    first, broken, last = data.raw(0, 5)
    assert (first, last) == ({"a": "1"}, {"a": "2"})
    assert isinstance(broken, Broken) and broken.reason.startswith(reason) and broken.hint
    assert [data.where(n) for n in range(3)] == [f"{path.name}, line {n}" for n in (1, 3, 4)]
    with pytest.raises(StudioError, match=rf"{path.name}, line 3: {reason}"):
        data.example_at(1)


def test_what_json_does_not_allow_but_python_reads_is_read(
    settings: Settings, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": "\\ud83d", "b": NaN}\n{"a": "c"}\n')
    row = opened(settings, path, layout="text", columns={"text": "a"}).row(0)
    assert row["a"] == "\ud83d" and row["b"] != row["b"]
    rows = [{"text": "\ud83d", "n": 10**30}, {"text": "a", "n": 1}]
    assert rows_of(settings, write(tmp_path / "a.json", json.dumps(rows))) == rows


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", '[\n{"a": "1"},\n{"a" "2"}\n]', "line 3"),
        ("a.json", '[\n{"a": "1"},\n{"a": "2"},\n]', "line 4"),
        ("a.json", '[\n{"a": "1"}\n{"a": "2"}\n]', "line 3"),
        ("a.json", '[{"a": "1"}]\n[{"a": "2"}]', "line 2"),
        ("a.json", '[{"a": "1"}', "line 1"),
        ("a.json", '[{"a": "never closed', "line 1"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.json", '[{"a": ' + "1" * 5000 + "}]", "not JSON"),
        ("a.json", '{"x": [{"a": "1"}], "y": [{"a": "1"}]}', "more than one list, `y` and `x`"),
        ("a.json", '{"a": ["1"], "b": ["1", "2"]}', "a 1, b 2"),
        ("a.json", "[]", "no rows"),
        ("a.json", '{"a": []}', "no rows"),
        ("a.json", "{}", "no rows"),
        ("a.json", "", "empty"),
        ("a.jsonl", " \n\n ", "empty"),
        ("a.csv", "\ufeff", "empty"),
        ("a.csv.gz", "", "empty"),
        ("a.csv", "a,b\n", "no rows"),
        ("a.csv", 'a,b\n1,2\n3,"never closed\n5,6\n', "line 3: a quote is opened"),
        ("a.csv", "a,a\n1,2\n", "twice or not at all: a"),
        ("a.csv", '\n"a" b,c\n1,2\n', "line 2, which names the columns, is not CSV"),
        ("a.csv", "a,\n1,2\n", "not at all: (no name)"),
        ("a.json", "a,b\n1,2\n", "no JSON; it begins with 'a,b'"),
        ("a.jsonl", "a,b\n1,2\n", "no JSON; it begins with 'a,b'"),
        ("a.parquet", "this is text", "no parquet file"),
        ("a.arrow", "this is text", "no arrow file"),
        ("a.md", "text", "not a kind of file"),
        ("a", "text", "not a kind of file"),
        ("a.jsonl", b"PK\x03\x04....", "zip archive"),
        ("a.csv", b"\x28\xb5\x2f\xfd....", "zstd"),
        ("a.json", b"BZh91AY", "bzip2"),
        ("a.parquet", b"PAR1 and no more", "not a whole file"),
        ("a.arrow", b"ARROW1\0\0 and no more", "not a whole file"),
        ("a.arrow", b"\xff\xff\xff\xff\x00\x10\x00\x00 and no more", "not a whole file"),
        ("a.jsonl", gzip.compress(gzip.compress(b'{"a": "1"}\n')), "packed twice"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_the_file_and_the_line(
    settings: Settings, tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    error = wrong(settings, write(tmp_path / name, content))
    assert words in error.message
    # Nothing is left of what was begun; that there are no rows is known for the next time.
    left = [p for p in settings.home.rglob("*") if p.is_file() and ".lock" not in p.name]
    assert not left or "no rows" in words


@pytest.mark.parametrize("end", [100, 40, 21])
def test_a_packed_file_that_is_cut_off_is_told(
    settings: Settings, tmp_path: Path, end: int
) -> None:
    whole = gzip.compress(as_text("csv").encode())
    error = wrong(settings, write(tmp_path / "a.csv", whole[:end]))
    assert "can't be unpacked" in error.message


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_a_broken_table_is_told_however_it_is_broken(
    settings: Settings, tmp_path: Path, kind: str
) -> None:
    content = as_bytes(kind, tmp_path)
    path = tmp_path / f"broken.{kind.replace('stream', 'arrow')}"
    told = list[str]()
    for seed in range(60):
        rng = random.Random(seed)
        broken = bytearray(content[: rng.randrange(9, len(content))] if seed % 2 else content)
        for _ in range(3):
            broken[rng.randrange(9, len(broken))] = rng.randrange(256)
        try:
            rows_of(settings, write(path, bytes(broken)))
        except StudioError as error:
            told.append(str(error))
    assert len(told) > 30
    assert not [words for words in told if "None" in words or "\n" in words]


LIES = [
    ("rows.jsonl", "parquet", "parquet"),
    ("rows.csv", "arrow", "arrow"),
    ("rows.json", "stream", "arrow"),
    ("rows.jsonl", "json", "json"),
    ("rows.json", "jsonl", "jsonl"),
    ("rows.csv", "jsonl", "jsonl"),
    ("rows.txt", "jsonl", "jsonl"),
    ("rows.parquet", "json", "json"),
    ("rows.md", "jsonl", None),
]


@pytest.mark.parametrize(("name", "kind", "said"), LIES)
def test_a_suffix_that_lies_is_seen_through_and_said(
    settings: Settings, tmp_path: Path, name: str, kind: str, said: str | None
) -> None:
    path = write(tmp_path / name, as_bytes(kind, tmp_path))
    data = opened(settings, path)
    assert data.raw(0, 5) == ROWS
    expected = (f"{name} is read as {said}, which it is in spite of its name.",) if said else ()
    assert data.notes == expected


def test_only_what_is_certain_is_seen_through(settings: Settings, tmp_path: Path) -> None:
    text = '{"a": "1"}\nis an object, and this is text\nto the end\n'
    assert len(rows_of(settings, write(tmp_path / "a.txt", text))) == 3
    assert len(rows_of(settings, write(tmp_path / "b.txt", '[{"a": "1"}]\n[{"a": "2"}]'))) == 2
    listed = write(tmp_path / "c.jsonl", '[{"text": "a"}, {"text": "b"}]')
    assert rows_of(settings, listed) == [{"text": "a"}, {"text": "b"}]
    with pytest.raises(
        StudioError, match=r"d\.jsonl: None of the first rows can be read: It is not"
    ):
        opened(settings, write(tmp_path / "d.jsonl", "[1, 2]"))


def test_packed_or_not_is_seen_in_spite_of_the_name(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(as_text("jsonl").encode()))
    (tmp_path / "b.jsonl.gz").write_text(as_text("jsonl"), encoding="utf-8")
    packed, plain = (opened(settings, tmp_path / n) for n in ("a.jsonl", "b.jsonl.gz"))
    assert packed.raw(0, 5) == plain.raw(0, 5) == ROWS
    assert "packed with gzip" in packed.notes[0] and "not packed" in plain.notes[0]


def test_a_line_of_two_gigabytes_is_a_broken_row_and_is_not_kept(
    settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "a"}\n{"text": "')
        file.seek(2 * 2**30)
        file.write(b'"}\n\n{"text": "b"}\n')
    began = time.monotonic()
    first = peek(section(path), settings, 5)
    assert time.monotonic() - began < 3
    assert [type(row) for row in first.rows] == [dict, Broken]
    assert first.where == ["long.jsonl, line 1", "long.jsonl, line 2"]
    before = _peak()
    data = opened(settings, path)
    assert data.total == 3 and data.row(0) == {"text": "a"} and data.row(2) == {"text": "b"}
    (long,) = data.raw(1, 1)
    assert isinstance(long, Broken) and "longer than 64 MiB" in long.reason
    assert [data.where(n)[-1] for n in range(3)] == ["1", "2", "4"]
    assert data.raw(0, 3)[1] == long
    assert _peak() - before < 200


def _peak() -> int:
    """The most memory this process has had so far, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


@pytest.mark.parametrize("kind", ["json", "csv", "txt"])
def test_a_line_or_a_row_without_an_end_is_told(
    settings: Settings, tmp_path: Path, kind: str
) -> None:
    begin = {"json": b'[{"a": "', "csv": b'a,b\n1,"', "txt": b"a"}[kind]
    path = tmp_path / f"long.{kind}"
    with path.open("wb") as file:
        file.write(begin)
        for _ in range(65):
            file.write(b"x" * 2**20)
    assert "is longer than 64 MiB" in wrong(settings, path).message


def test_a_cell_of_csv_may_hold_a_book_but_no_library(settings: Settings, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "question,answer\nq," + "x" * 300_000 + "\n")
    assert len(rows_of(settings, path)[0]["answer"]) == 300_000
    with path.open("wb") as file:
        file.write(b'question,answer\nq,"')
        for _ in range(70):
            file.write(b"x" * 2**20 + b"\n")
    assert "line 2: a quote is opened and never closed" in wrong(settings, path).message


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.csv.gz"])
def test_a_bomb_is_not_unpacked(settings: Settings, tmp_path: Path, name: str) -> None:
    line = b'{"a": "' + b"x" * 1000 + b'"}\n' if "jsonl" in name else b"1," + b"x" * 1000 + b"\n"
    # Packed parts one after another are a packed file.
    part = gzip.compress(line * 10_000)
    (tmp_path / name).write_bytes(gzip.compress(b"" if "jsonl" in name else b"a,b\n") + part * 40)
    error = wrong(settings, tmp_path / name, layout="text", columns={"text": "a"})
    assert "unpacks to more than 200 times its size" in error.message
    assert sum(p.stat().st_size for p in settings.home.rglob("*") if p.is_file()) == 0
    # Those who want the first rows alone get them.
    shown = peek(section(tmp_path / name, layout="text", columns={"text": "a"}), settings, 3)
    assert len(shown.rows) == 3


def test_a_full_disk_is_told_before_it_is_full(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + ("x" * 1000 + ",y\n") * 70_000, encoding="ascii")
    monkeypatch.setattr("studio.data.cache._RESERVE", 2**60)
    error = wrong(settings, path, layout="text", columns={"text": "a"})
    assert "takes more disk than there is" in error.message


def test_a_file_that_may_not_be_read_is_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StudioError, match=r"There is no file gone\.jsonl"):
        opened(settings, "gone.jsonl")
    with pytest.raises(StudioError, match=r"Paths|path"):
        opened(settings, "x" * 5000 + ".jsonl")


def test_quotes_in_csv_that_go_wrong_break_a_row_alone(settings: Settings, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'a,b\n1,2\n3\n4,5,6\n"he said "hi" to me",x\n7,8\n')
    data = opened(settings, path, layout="text", columns={"text": "a"})
    kinds = [type(row) for row in data.raw(0, 9)]
    assert kinds == [dict, Broken, Broken, Broken, dict]
    assert data.where(2) == "a.csv, line 4" and "3 cells" in str(data.raw(2, 1)[0])


def test_cells_are_parted_by_what_the_header_says(settings: Settings, tmp_path: Path) -> None:
    write(tmp_path / "a.csv", 'question;answer\n"x;y";1,5\n')
    write(tmp_path / "b.tsv", 'question\tanswer\nthe "one\ttwo"\n')
    write(tmp_path / "c.tsv", 'question\tanswer\n"a\tb"\t"c ""d"""\n')
    semicolons, letters, quoted = (
        opened(settings, tmp_path / n) for n in ("a.csv", "b.tsv", "c.tsv")
    )
    assert semicolons.row(0) == {"question": "x;y", "answer": "1,5"}
    assert "semicolons" in semicolons.notes[0]
    assert letters.row(0) == {"question": 'the "one', "answer": 'two"'}
    assert "letters" in letters.notes[0]
    assert quoted.row(0) == {"question": "a\tb", "answer": 'c "d"'} and not quoted.notes


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_text_is_paragraphs_where_blank_lines_part_it_and_lines_else(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    parts = opened(settings, write(tmp_path / name, "\n\none\ntwo\n\n \nthree\n"))
    assert parts.raw(0, 9) == [{"text": "one\ntwo"}, {"text": "three"}]
    assert "paragraph" in parts.notes[0] and parts.where(1) == f"{name}, line 7"
    lines = opened(settings, write(tmp_path / name, "\none\r\ntwo\n"))
    assert lines.raw(0, 9) == [{"text": "one"}, {"text": "two"}]
    assert "each line" in lines.notes[0] and lines.where(0) == f"{name}, line 2"


NESTED: list[tuple[str, list[dict[str, Any]]]] = [
    ('{"version": "1", "data": [{"a": "1"}, {"a": "2"}], "n": 2}', [{"a": "1"}, {"a": "2"}]),
    ('{"a": ["1", "2"], "b": [true, null]}', [{"a": "1", "b": True}, {"a": "2", "b": None}]),
    ('{"a": {"0": "1", "1": "2"}}', [{"a": "1"}, {"a": "2"}]),
    ('{"a": "1", "b": ["x"]}', [{"a": "1", "b": ["x"]}]),
    ('\n [ {"a": "1"}\n\n,{"a":"2"}]\n ', [{"a": "1"}, {"a": "2"}]),
]


@pytest.mark.parametrize(("text", "rows"), NESTED)
def test_a_document_gives_the_rows_in_it(
    settings: Settings, tmp_path: Path, text: str, rows: list[dict[str, Any]]
) -> None:
    path = write(tmp_path / "a.json", text)
    assert rows_of(settings, path, layout="text", columns={"text": "a"}) == rows


def test_a_conversation_alone_is_one_row(settings: Settings, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert rows_of(settings, write(tmp_path / "a.json", json.dumps(row))) == [row]


def test_a_document_of_many_megabytes_is_read_piece_by_piece(
    settings: Settings, tmp_path: Path
) -> None:
    rows = [{"text": f"{n} " + "ü" * (n % 997), "n": [n] * (n % 7)} for n in range(9_000)]
    rows[77]["text"] = "x" * 3_000_000
    path = write(tmp_path / "a.json", json.dumps({"data": rows}, indent=2, ensure_ascii=False))
    data = opened(settings, path)
    assert data.raw(0, data.size) == rows
    line = path.read_text(encoding="utf-8").split('"text": "8000 ')[0].count("\n")
    assert data.where(8000) == f"a.json, row 8001 (line {line})"
    before = _peak()
    assert peek(section(path), settings, 5).rows == rows[:5] and _peak() - before < 60


def test_each_question_of_squad_is_a_row_and_says_whether_it_has_an_answer(
    settings: Settings, tmp_path: Path
) -> None:
    asked = [
        {"id": 1, "question": "Who?", "answers": [{"text": "I"}, {"text": "me"}]},
        {"id": 2, "question": "Why?", "answers": [], "is_impossible": True},
    ]
    articles = {"data": [{"title": "T", "paragraphs": [{"context": "C", "qas": asked}]}]}
    data = opened(settings, write(tmp_path / "a.json", json.dumps(articles, indent=1)))
    assert data.raw(0, 9) == [
        {"title": "T", "context": "C", "question": "Who?", "answer": "I",
         "is_impossible": False, "id": 1},
        {"title": "T", "context": "C", "question": "Why?", "answer": "",
         "is_impossible": True, "id": 2},
    ]  # fmt: skip
    lines = json.dumps(articles, indent=1).split("\n")
    line = 1 + next(n for n, text in enumerate(lines) if "Why?" in text)
    assert data.where(1) == f"a.json, row 2 (line {line})"
    with pytest.raises(StudioError, match="can't be answered") as caught:
        data.example(data.row(1))
    assert getattr(caught.value, "fault", "") == "empty_answer"


def test_a_table_keeps_its_values_in_the_types_of_json(settings: Settings, tmp_path: Path) -> None:
    import datetime
    import decimal

    rows = [{"text": "a", "n": 1, "b": b"caf\xc3\xa9", "raw": b"\xff\xfe", "m": [{"x": None}],
             "d": datetime.date(2024, 1, 2), "c": decimal.Decimal("1.50")}] * 2  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (row, _) = rows_of(settings, tmp_path / "a.parquet")
    assert row == {"text": "a", "n": 1, "b": "café", "raw": "(2 bytes)", "m": [{"x": None}],
                   "d": "2024-01-02", "c": "1.50"}  # fmt: skip
    json.dumps(row)


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_tables_of_many_batches_are_read_at_any_place(
    settings: Settings, tmp_path: Path, compression: str | None
) -> None:
    rows = [{"text": f"row {n}"} for n in range(5000)]
    table = pyarrow.Table.from_pylist(rows)
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.ipc.new_file(str(tmp_path / "a.arrow"), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=700)
    data = opened(settings, tmp_path / "a.arrow")
    assert data.raw(0, 5000) == rows and data.raw(695, 10) == rows[695:705]
    assert data.where(4999) == "a.arrow, row 5000"
    copied = list(settings.home.rglob("rows.arrow"))
    assert bool(copied) == (compression is not None)


def test_a_folder_gives_its_files_in_the_order_of_their_names(
    settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "b.json", as_text("json"))
    jsonl(folder / "a.jsonl.gz", [{"question": "first", "answer": "a"}])
    write(folder / "c.parquet", as_bytes("parquet", tmp_path))
    write(folder / "d.csv", "")
    write(folder / "README.md", "no data")
    data = opened(settings, folder)
    assert data.raw(0, 99) == [{"question": "first", "answer": "a"}, *ROWS, *ROWS]
    assert data.where(0) == "a.jsonl.gz, line 1" and data.where(6) == "c.parquet, row 3"
    assert [len(data.raw(n, 2)) for n in range(7)] == [2] * 6 + [1]
    assert data.notes == ("d.csv is empty and left out.",)


def test_a_folder_without_data_says_so(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "no data files" in wrong(settings, tmp_path / "folder").message


def test_a_saved_data_set_is_read_where_it_lies(settings: Settings, tmp_path: Path) -> None:
    import datasets

    rows = [{"question": f"q{n}", "answer": "a"} for n in range(30)]
    saved = datasets.Dataset.from_list(rows)
    saved.select(range(5, 30)).save_to_disk(tmp_path / "one", num_shards=3)
    data = opened(settings, tmp_path / "one")
    assert data.raw(0, 99) == rows[5:] and not list(settings.home.rglob("rows.arrow"))
    both = datasets.DatasetDict({"train": saved, "test": saved.select(range(3))})
    both.save_to_disk(tmp_path / "two")
    assert opened(settings, tmp_path / "two").total == 30
    assert opened(settings, tmp_path / "two", split="test").total == 3
    held = opened(settings, tmp_path / "two", validation="test")
    assert held.total == 30 and held.parts(1).validation.tolist() == [30, 31, 32]
    with pytest.raises(StudioError, match=r"no split dev") as caught:
        opened(settings, tmp_path / "two", split="dev")
    assert "train, test" in caught.value.hint


def test_a_table_without_rows_says_so(settings: Settings, tmp_path: Path) -> None:
    none = pyarrow.table({"question": pyarrow.array([], "str"), "answer": pyarrow.array([], "str")})
    parquet.write_table(none, tmp_path / "none.parquet")
    with pyarrow.ipc.new_file(str(tmp_path / "none.arrow"), none.schema):
        pass
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with pyarrow.ipc.new_stream(str(tmp_path / "packed.arrow"), none.schema, options=options) as to:
        to.write_table(none)
    for name in ("none.parquet", "none.arrow", "packed.arrow"):
        assert "has no rows" in wrong(settings, tmp_path / name).message


def test_what_is_for_the_hub_is_refused_for_a_file(settings: Settings, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    for field, value in (("name", "en"), ("split", "test"), ("revision", "main")):
        with pytest.raises(StudioError, match=rf"data\.{field} is for data sets of the Hub"):
            opened(settings, path, **{field: value})


def test_what_was_read_is_kept_and_made_anew_when_the_file_changes(
    settings: Settings, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.csv", as_text("csv"))
    opened(settings, path)
    kept = list(settings.home.rglob("rows.jsonl"))
    stamp = kept[0].stat()
    assert opened(settings, path).total == 3 and kept[0].stat() == stamp
    write(path, as_text("csv") + "new,row\r\n")
    assert rows_of(settings, path)[3] == {"question": "new", "answer": "row"}
    assert len(list(settings.home.rglob("rows.jsonl"))) == 1


def test_a_file_that_changes_while_it_is_open_is_told(settings: Settings, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    data = opened(settings, path)
    with path.open("a", encoding="utf-8") as file:
        file.write("{}\n")
    with pytest.raises(StudioError, match=r"a\.jsonl was changed"):
        data.raw(0, 1)


def test_many_small_files_are_a_large_one(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for n in range(4):
        jsonl(tmp_path / "many" / f"{n}.jsonl", [{"text": "x" * 1000}] * 600)
    whole = section(tmp_path / "many")
    assert not is_ready(whole, settings)
    assert open_data(whole, settings).total == 2400 and is_ready(whole, settings)


def test_what_nobody_has_used_for_long_is_forgotten(settings: Settings, tmp_path: Path) -> None:
    paths = [write(tmp_path / name, as_text("csv")) for name in ("a.csv", "b.csv", "c.csv")]
    shelf = settings.home / "cache" / "data" / "files"
    kept = []
    for path in paths[:2]:
        opened(settings, path)
        kept += [folder for folder in shelf.glob("[!.]*") if folder not in kept]
    for folder in kept:
        os.utime(folder, (1, 1))
    # Using it counts.
    opened(settings, paths[0])
    opened(settings, paths[2])
    assert [folder.exists() for folder in kept] == [True, False]


def test_large_files_are_ready_only_when_they_were_read(settings: Settings, tmp_path: Path) -> None:
    small = jsonl(tmp_path / "small.jsonl", ROWS)
    large = jsonl(tmp_path / "large.jsonl", [{"text": "x" * 1000}] * 3000)
    assert is_ready(section(small), settings) and not is_ready(section(large), settings)
    open_data(section(large), settings)
    assert is_ready(section(large), settings)
