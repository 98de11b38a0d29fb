"""Keeping runs: words about them, deleting with a way back, archives."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from studio.errors import StudioError
from studio.runs import Run, RunStore, queue
from studio.runs.events import append
from studio.runs.files import write_process
from studio.runs.keep import (
    Meta,
    delete,
    deleted,
    describe,
    meta,
    pack,
    purge,
    restore,
    unpack,
    usage,
)
from studio.spec import DEFAULTS, with_overrides


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def run(store: RunStore) -> Run:
    run = store.create(with_overrides(DEFAULTS, ["train.seed=7"]), "persona")
    append(run.events, {"type": "log", "step": 1, "loss": 2.0})
    append(run.events, {"type": "end", "status": "finished"})
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"x" * 1000)
    (run.checkpoints / "checkpoint-1").mkdir(parents=True)
    (run.checkpoints / "checkpoint-1" / "optimizer.pt").write_bytes(b"y" * 3000)
    return run


def test_words_about_a_run_are_kept_and_changed_one_by_one(run: Run) -> None:
    assert meta(run) == Meta()
    describe(run, title="The good one", tags=["a b", "a b", "", "c"])
    describe(run, star=True)
    assert meta(run) == Meta(title="The good one", tags=("a-b", "c"), star=True)
    assert describe(run, notes="Zeile 1\nZeile 2").notes == "Zeile 1\nZeile 2"


@pytest.mark.parametrize("held", ["", "{", "[]", '{"tags": 3}', '{"title": null, "star": "yes"}'])
def test_words_that_cannot_be_read_are_none(run: Run, held: str) -> None:
    (run.path / "meta.json").write_text(held, encoding="utf-8")
    assert meta(run) == Meta()
    assert describe(run, title="x").title == "x"


def test_half_a_character_is_none(run: Run) -> None:
    held = r'{"title": "a\ud83d", "tags": ["\udc00b"], "notes": "\ud83c\udf31 \udfff"}'
    (run.path / "meta.json").write_text(held, encoding="utf-8")
    wanted = Meta(title="a\ufffd", tags=("\ufffdb",), notes="🌱 \ufffd")
    assert meta(run) == wanted
    assert describe(run, title="\ud83d!").title == "\ufffd!" == meta(run).title


def test_the_disk_is_told_by_part_and_a_linked_file_counts_once(run: Run) -> None:
    os.link(run.checkpoints / "checkpoint-1" / "optimizer.pt", run.checkpoints / "again")
    told = usage(run)
    assert (told["checkpoints"], told["adapter"], told["export"]) == (3000, 1000, 0)
    assert told["total"] > 4000


def test_a_deleted_run_comes_back_whole(store: RunStore, run: Run) -> None:
    before = sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*"))
    delete(store, run)
    assert store.list() == [] and [r.id for r in deleted(store)] == [run.id]
    assert restore(store, run.id) == run and store.list() == [run]
    assert sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*")) == before
    assert store.state(run).status == "finished"


def test_a_deleted_run_waits_no_longer(store: RunStore, run: Run) -> None:
    with queue.changing(store.root) as waiting:
        waiting.append(run.id)
    delete(store, run)
    assert queue.waiting(store.root) == []


def test_a_run_that_goes_is_not_deleted(store: RunStore, run: Run) -> None:
    worker = subprocess.Popen(["sleep", "60"])
    write_process(run.pid, worker.pid)
    with pytest.raises(StudioError, match="still going"):
        delete(store, run)
    worker.kill()
    worker.wait()
    assert store.list() == [run]


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_a_run_of_which_files_are_made_is_not_deleted(store: RunStore, run: Run, kind: str) -> None:
    worker = subprocess.Popen(["sleep", "60"])
    run.export.mkdir()
    write_process(run.export_pid(kind), worker.pid)
    with pytest.raises(StudioError, match="being made"):
        delete(store, run)
    assert store.list() == [run]
    worker.kill()
    worker.wait()
    delete(store, run)
    assert store.list() == []


def test_after_a_week_it_is_gone(store: RunStore, run: Run) -> None:
    delete(store, run)
    purge(store)
    assert deleted(store)
    purge(store, now=time.time() + 8 * 24 * 3600)
    assert not deleted(store)
    with pytest.raises(StudioError, match="not among"):
        restore(store, run.id)


def test_what_was_to_become_a_run_goes_when_nobody_makes_it_any_more(
    store: RunStore, run: Run
) -> None:
    left = store.root / ".new.abc"
    (left / "part").mkdir(parents=True)
    purge(store)
    assert left.is_dir()
    purge(store, now=time.time() + 25 * 3600)
    assert not left.exists() and store.list() == [run]


@pytest.mark.parametrize("name", ["", "..", ".", "../runs", "a/b", ".trash"])
def test_nothing_but_a_deleted_run_is_brought_back(store: RunStore, run: Run, name: str) -> None:
    delete(store, run)
    with pytest.raises(StudioError):
        restore(store, name)


def test_a_run_travels_as_one_file(store: RunStore, run: Run, tmp_path: Path) -> None:
    describe(run, title="Mine")
    pack(run, tmp_path / "run.tar")
    other = RunStore(tmp_path / "elsewhere")
    taken = unpack(other, tmp_path / "run.tar")
    assert taken.id == run.id and taken.spec() == run.spec() and meta(taken).title == "Mine"
    assert taken.history() == run.history() and other.state(taken).status == "finished"
    assert (taken.adapter / "adapter_model.safetensors").read_bytes() == b"x" * 1000
    assert not taken.checkpoints.exists()
    # Where a run of that name is, it gets one of its own.
    again = unpack(other, tmp_path / "run.tar")
    assert again.id != run.id and again.history() == run.history()
    assert not list(other.root.glob(".new*"))


def archive(path: Path, **files: str) -> Path:
    with tarfile.open(path, "w") as held:
        for name, text in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(text)
            held.addfile(member, io.BytesIO(text.encode()))
    return path


def test_a_file_that_is_no_run_is_refused(store: RunStore, run: Run, tmp_path: Path) -> None:
    for file in (
        archive(tmp_path / "a.tar", a__b="x"),
        archive(tmp_path / "b.tar", x__spec_yaml="x"),
        archive(tmp_path / "c.tar", **{"../../evil": "x"}),
        Path(__file__),
    ):
        with pytest.raises(StudioError) as caught:
            unpack(store, file)
        assert caught.value.hint
    assert store.list() == [run] and not (tmp_path / "evil").exists()
    assert not list(store.root.glob(".new*"))


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


def damaged(run: Run, path: Path) -> dict[str, Path]:
    """Archives of a run, each with something wrong."""
    # What can't be made smaller, so that the damage is in it.
    (run.adapter / "adapter_model.safetensors").write_bytes(os.urandom(200_000))
    pack(run, path / "good.tar")
    good, files = (path / "good.tar").read_bytes(), dict[str, Path]()
    for coding, module in (("gz", gzip), ("xz", lzma), ("bz2", bz2)):
        whole = module.compress(good)
        at = len(whole) // 2
        for how, data in (("half", whole[:at]), ("zeros", whole[:at] + bytes(at))):
            files[f"{how}.{coding}"] = path / f"{how}.{coding}"
            files[f"{how}.{coding}"].write_bytes(data)
    for name in ("adapter/" + "a" * 300, "adapter/" + "b/" * 3000 + "b", "spec.yaml/x"):
        files[name[:20]] = path / f"{len(files)}.tar"
        with tarfile.open(files[name[:20]], "w") as held:
            for part in ("spec.yaml", "events.jsonl"):
                held.add(run.path / part, f"{run.id}/{part}")
            held.addfile(member(f"{run.id}/{name}"), io.BytesIO())
    return {**files, "nowhere": path / "nowhere.tar", "a folder": path}


def test_whatever_is_wrong_with_an_archive_is_told(
    store: RunStore, run: Run, tmp_path: Path
) -> None:
    for name, file in damaged(run, tmp_path).items():
        with pytest.raises(StudioError) as caught:
            unpack(store, file)
        assert caught.value.hint and file.name in caught.value.message, name
    assert store.list() == [run] and not list(store.root.glob(".new*"))


def test_of_an_archive_nothing_is_taken_but_what_is_packed(
    store: RunStore, run: Run, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "more.tar", "w") as held:
        for part in ("spec.yaml", "events.jsonl", "adapter", "checkpoints"):
            held.add(run.path / part, f"{run.id}/{part}")
        for name in ("stop", "pid", "control/save", "checkpoints/checkpoint-9/x", "export/a", "x"):
            held.addfile(member(f"{run.id}/{name}"), io.BytesIO())
        held.addfile(member(f"{run.id}/adapter/link", tarfile.SYMTYPE, "/etc/passwd"))
        held.addfile(member(f"{run.id}/adapter/hard", tarfile.LNKTYPE, f"{run.id}/nowhere"))
        held.addfile(member("other/adapter/x"), io.BytesIO())
    taken = unpack(RunStore(tmp_path / "elsewhere"), tmp_path / "more.tar")
    assert {p.name for p in taken.path.iterdir()} == {"spec.yaml", "events.jsonl", "adapter"}
    assert [p.name for p in taken.adapter.iterdir()] == ["adapter_model.safetensors"]


def test_what_several_change_at_once_is_all_kept(store: RunStore) -> None:
    run = store.create(DEFAULTS, "many")
    changes: list[dict[str, Any]] = [
        {"title": "Three"}, {"notes": "Too short."}, {"star": True}, {"tags": ["short"]},
    ]  # fmt: skip
    for _ in range(20):
        (run.path / "meta.json").unlink(missing_ok=True)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda change: describe(run, **change), changes))
        assert meta(run) == Meta("Three", ("short",), "Too short.", True)
