"""Data sets of the Hub: real `datasets`, and a Hub of our own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from studio.data.cache import key
from studio.data.hub import HubSet
from studio.data.progress import Silent
from studio.errors import StudioError
from studio.settings import PROJECT, Settings
from tests.unit.data_files import jsonl, write
from tests.unit.data_hub import hub

# In a process of its own: the Hub's address is read when the library is imported.
_ASK = """
import json, sys, time
from pathlib import Path
from studio import jobs
from studio.data import Silent, is_ready, open_data, peek
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import DataSection

class Noting(Silent):
    notes = []
    def note(self, text):
        self.notes.append(text)

settings = Settings(home=Path(sys.argv[1]), workspace=Path(sys.argv[1]))
for fields in json.loads(sys.argv[2]):
    looked, old = fields.pop("peek", 0), fields.pop("old", False)
    watched = fields.pop("watch", False)
    section = DataSection(**{"validation": "0", **fields})
    if old:
        for memory in settings.home.glob("cache/data/hub/*.json"):
            found = json.loads(memory.read_text())
            memory.write_text(json.dumps({**found, "time": time.time() - 90_000}))
    try:
        if looked:
            seen = peek(section, settings, looked)
            told = {"rows": seen.rows, "where": seen.where, "layout": seen.layout.name}
        elif watched:
            list(jobs.index(settings, section))
            told = jobs.first_rows(settings, section).tree()
        else:
            data = open_data(section, settings, Noting())
            rows, parts = data.raw(0, data.size), data.parts(1)
            told = {
                "total": data.total, "first": rows[0], "last": rows[-1],
                "where": [data.where(0), data.where(data.size - 1)],
                "parts": [len(parts.train), len(parts.validation), len(parts.test)],
                "ready": is_ready(section, settings), "notes": Noting.notes,
                "copied": [str(p) for p in settings.home.rglob("rows.*")],
            }
    except StudioError as error:
        told = {"message": error.message, "hint": error.hint}
    print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """What the Hub has."""
    root = tmp_path_factory.mktemp("repos")
    for name in ("rows", "next", "langs/en", "langs/fa", "bad", "none"):
        (root / name).mkdir(parents=True)
    for split, count in (("train", 1000), ("validation", 50)):
        rows = [{"question": f"{split} {n}", "answer": "a"} for n in range(count)]
        jsonl(root / "rows" / f"{split}.jsonl", rows)
    jsonl(root / "next" / "train.jsonl", [{"question": "next", "answer": "a"}] * 3)
    write(root / "langs" / "en" / "train.csv", "question,answer\nhi,you\n")
    write(root / "langs" / "fa" / "train.csv", "question,answer\nسلام,x\nب,y\n")
    configs = "".join(f"- config_name: {c}\n  data_files: {c}/*.csv\n" for c in ("en", "fa"))
    write(root / "langs" / "README.md", f"---\nconfigs:\n{configs}---\n")
    write(root / "bad" / "train.jsonl", '{"a": 1}\n{"a": \n')
    write(root / "none" / "README.md", "nothing")
    return {
        "me/rows": {"main": root / "rows", "next": root / "next"},
        "me/langs": {"main": root / "langs"},
        "me/bad": {"main": root / "bad"},
        "me/none": {"main": root / "none"},
    }


@pytest.fixture
def address(repos: dict[str, dict[str, Path]]) -> Iterator[str]:
    """Where the Hub is."""
    with hub(repos) as (address, _):
        yield address


def ask(settings: Settings, address: str, *asks: dict[str, Any], **env: str) -> list[Any]:
    """What a process is told that asks one after another."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK, str(settings.home), json.dumps(asks)],
        cwd=PROJECT,
        env={
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(settings.home / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            **env,
        },
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_rows_slices_parts_and_revisions_come_from_the_hub(
    settings: Settings, address: str
) -> None:
    whole, cut, both, newer, farsi = ask(
        settings, address,
        {"path": "me/rows"},
        {"path": "me/rows", "split": "train[100:800]", "validation": "train[800:1000]",
         "test": "validation[:10%]"},
        {"path": "me/rows", "split": "train[:5]+validation", "validation": "10%"},
        {"path": "me/rows", "revision": "next"},
        {"path": "me/langs", "name": "fa"},
    )  # fmt: skip
    assert whole["total"] == 1000 and whole["ready"] and not whole["copied"]
    assert whole["where"] == ["me/rows (train), row 1", "me/rows (train), row 1000"]
    assert cut["total"] == 700 and cut["parts"] == [700, 200, 5]
    assert cut["first"]["question"] == "train 100" and cut["last"]["question"] == "validation 4"
    assert cut["where"] == ["me/rows (train), row 101", "me/rows (validation), row 5"]
    assert both["total"] == 55 and both["last"]["question"] == "validation 49"
    assert newer["total"] == 3 and newer["first"]["question"] == "next"
    assert farsi["total"] == 2 and farsi["first"]["question"] == "سلام"


def test_the_first_rows_come_before_the_rest(settings: Settings, address: str) -> None:
    first, second, rest = ask(
        settings, address,
        {"path": "me/rows", "peek": 2},
        {"path": "me/rows", "peek": 9, "split": "train[997:]"},
        {"path": "me/rows", "peek": 1, "split": "train[50%:]"},
    )  # fmt: skip
    assert [row["question"] for row in first["rows"]] == ["train 0", "train 1"]
    assert first["layout"] == "question_answer" and first["where"][1] == "me/rows (train), row 2"
    assert [row["question"] for row in second["rows"]] == ["train 997", "train 998", "train 999"]
    assert second["where"][0] == "me/rows (train), row 998"
    assert rest["rows"][0]["question"] == "train 500"


def test_a_worker_that_downloads_tells_the_first_rows_before(
    settings: Settings, address: str
) -> None:
    (told,) = ask(settings, address, {"path": "me/rows", "split": "train[4:]", "watch": True})
    assert [row["question"] for row in told["rows"]][:2] == ["train 4", "train 5"]
    assert len(told["rows"]) == 50 and told["layout"]["name"] == "question_answer"
    (first,) = settings.home.glob("index/*/first.json")
    (all_of_them,) = settings.home.glob("cache/data/hub/*.json")
    assert first.stat().st_mtime_ns < all_of_them.stat().st_mtime_ns


def test_a_bare_name_is_a_split_of_the_hub_whatever_lies_here(
    settings: Settings, address: str
) -> None:
    (settings.home / "validation").mkdir()
    jsonl(settings.home / "held.jsonl", [{"question": "held", "answer": "a"}])
    split, file = ask(
        settings, address,
        {"path": "me/rows", "validation": "validation"},
        {"path": "me/rows", "validation": "held.jsonl"},
    )  # fmt: skip
    assert split["parts"] == [1000, 50, 0] and split["last"]["question"] == "validation 49"
    assert file["parts"] == [1000, 1, 0] and file["last"]["question"] == "held"


def test_no_page_waits_for_a_further_source(
    settings: Settings, repos: dict[str, dict[str, Path]]
) -> None:
    near = jsonl(settings.home / "near.jsonl", [{"question": "near", "answer": "a"}])
    both = {"path": str(near), "also": [{"path": "me/rows"}]}
    # A slice of a share can't be read from its beginning.
    part = {"path": str(near), "also": [{"path": "me/rows", "split": "train[50%:]"}]}
    with hub(repos) as (address, asked):
        first, second = ask(settings, address, {**both, "peek": 9}, {**part, "peek": 9})
        assert [row["question"] for row in first["rows"]] == ["near"] and first == second
        assert not asked
        _, known = ask(settings, address, both, {**both, "peek": 3})
        assert [row["question"] for row in known["rows"]] == ["near", "train 0", "train 1"]


WRONG = [
    ({"path": "gated/rows"}, "gated/rows is gated", "hf auth login"),
    ({"path": "no/rows"}, "The Hub has no data set no/rows", "spelling"),
    ({"path": "broken/rows"}, "The Hub does not answer for broken/rows", "later"),
    ({"path": "me/rows", "revision": "old"}, "me/rows has no revision old", "branch"),
    ({"path": "me/rows", "split": "tset"}, "no split tset; it has train, validation", "one of"),
    ({"path": "me/rows", "split": "train[5"}, "train[5 is no way to name a split", "train[0:800]"),
    ({"path": "me/rows", "split": "train[150%:]"}, "train[150%:] is no way to name a split", "10%"),
    ({"path": "me/rows", "split": "train[50:20]"}, "me/rows has no rows", "two rows"),
    ({"path": "me/rows", "validation": "dev"}, "no split dev; it has train, validation", "one of"),
    ({"path": "me/langs"}, "several configurations: en, fa", "data.name"),
    ({"path": "me/langs", "name": "xx"}, "no configuration xx; it has en, fa", "data.name"),
    ({"path": "me/bad"}, "The files of me/bad can't be read as rows: JSON parse error", "mend"),
    ({"path": "me/none"}, "me/none holds no files with rows", "page"),
    ({"path": "gated/rows", "peek": 1}, "gated/rows is gated", "hf auth login"),
    ({"path": "me/rows", "split": "tset", "peek": 1}, "no split tset", "one of"),
]


def test_what_the_hub_refuses_is_told_in_words(settings: Settings, address: str) -> None:
    told = ask(settings, address, *[fields for fields, *_ in WRONG])
    for (fields, words, hint), answer in zip(WRONG, told, strict=True):
        assert words in answer["message"] and hint in answer["hint"], (fields, answer)
        assert "\n" not in answer["message"] and "None" not in answer["message"]


def test_what_was_downloaded_is_used_without_a_network(
    settings: Settings, repos: dict[str, dict[str, Path]]
) -> None:
    with hub(repos) as (address, asked):
        ask(settings, address, {"path": "me/rows"})
        asked.clear()
        (again,) = ask(settings, address, {"path": "me/rows"})
        assert again["total"] == 1000 and not asked
        # A day later it is asked whether there is something new.
        (later,) = ask(settings, address, {"path": "me/rows", "old": True})
        assert later["total"] == 1000 and asked and not later["notes"]
    offline, old, other = ask(
        settings, address,
        {"path": "me/rows"}, {"path": "me/rows", "old": True}, {"path": "me/langs", "name": "en"},
        HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert offline["total"] == old["total"] == 1000
    assert "me/langs is not on this machine, and the Hub can't be reached" in other["message"]


def test_what_cannot_be_renewed_is_used_for_a_while(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every look at a row would wait for the network again."""

    def fails(self: HubSet, report: Any) -> Any:
        raise StudioError("The Hub does not answer.")

    monkeypatch.setattr(HubSet, "_downloaded", fails)
    found = HubSet("me/rows", None, "train", None, settings)
    table, file = pyarrow.table({"text": ["a", "b"]}), settings.home / "rows.arrow"
    with pyarrow.ipc.new_stream(str(file), table.schema) as writer:
        writer.write_table(table)
    part = {"split": "train", "files": [[str(file), file.stat().st_size]], "begin": 0, "end": 2}
    memory = (
        settings.home / "cache" / "data" / "hub" / f"{key('me/rows', None, 'train', None)}.json"
    )
    memory.parent.mkdir(parents=True)
    began = time.time()
    memory.write_text(json.dumps({"time": began - 90_000, "parts": [part]}))
    assert not found.is_ready()
    assert found.table(Silent()).size == 2 and found.is_ready()
    monkeypatch.setattr(time, "time", lambda: began + 700)
    assert not found.is_ready()
