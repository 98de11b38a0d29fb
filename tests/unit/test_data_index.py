"""Indexing in a process of its own: watched, stopped, failed, begun again."""

import time
from pathlib import Path

import pytest

from studio import jobs
from studio.data import is_ready, open_data
from studio.errors import StudioError
from studio.jobs.index import _folder
from studio.runs import files
from studio.settings import Settings
from tests.unit.data_files import jsonl, section, write


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file that is too large to be read while a page waits."""
    return jsonl(tmp_path / "large.jsonl", [{"text": f"{n} " + "x" * 1000} for n in range(4000)])


def test_data_is_made_ready_by_a_worker(settings: Settings, large: Path) -> None:
    wanted = section(large)
    states = list(jobs.index(settings, wanted))
    assert states[-1].status == "finished" and any("indexing" in s.stage for s in states)
    assert is_ready(wanted, settings) and open_data(wanted, settings).total == 4000
    assert list(jobs.index(settings, wanted)) == []


def test_what_is_wrong_with_the_data_is_told_and_can_be_mended(
    settings: Settings, tmp_path: Path
) -> None:
    path = write(tmp_path / "large.csv", "text,b\n" + "x,y\n" * 1_000_000 + '"z,y\n')
    for _ in range(2):
        with pytest.raises(StudioError, match=r"large\.csv, line 1000002: a quote is opened"):
            list(jobs.index(settings, section(path)))
    write(path, "text,b\n" + "x,y\n" * 1_000_000)
    assert list(jobs.index(settings, section(path)))[-1].status == "finished"


def test_it_goes_on_where_nobody_watches_and_is_stopped_when_asked(
    settings: Settings, tmp_path: Path
) -> None:
    path = write(tmp_path / "large.csv", "text,b\n" + "x,y\n" * 3_000_000)
    watched = jobs.index(settings, section(path))
    next(watched)
    watched.close()
    folder = _folder(settings, section(path))
    worker = files.read_process(folder / "pid")
    assert worker is not None
    # The second only watches.
    again = jobs.index(settings, section(path))
    next(again)
    assert files.read_process(folder / "pid") == worker
    jobs.stop_index(settings, section(path))
    with pytest.raises(StudioError, match="was stopped"):
        list(again)
    deadline = time.monotonic() + 20
    while files.read_process(folder / "pid") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(settings.home.rglob("rows.jsonl")), "half a cache was left"
    assert not is_ready(section(path), settings)


def test_a_worker_that_is_killed_is_told_and_leaves_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    path = write(tmp_path / "large.csv", "text,b\n" + "x,y\n" * 3_000_000)
    watched = jobs.index(settings, section(path))
    for state in watched:
        if "reading" in state.stage:
            break
    worker = files.read_process(_folder(settings, section(path)) / "pid")
    assert worker is not None
    worker.kill()
    with pytest.raises(StudioError, match="ended without a word"):
        list(watched)
    left = list(settings.home.rglob("rows.jsonl"))
    assert left and not is_ready(section(path), settings)
    write(path, "text,b\n" + "x,y\n" * 1_000_000)
    list(jobs.index(settings, section(path)))
    assert open_data(section(path), settings).total == 1_000_000


def test_two_processes_that_need_the_same_make_it_once(settings: Settings, large: Path) -> None:
    first, second = jobs.index(settings, section(large)), None
    next(first)
    # Another section over the same file: a worker of its own, and the index is made once.
    second = jobs.index(settings, section(large, validation="5%"))
    for states in (first, second):
        for state in states:
            assert state.status != "failed"
    assert len(list(settings.home.rglob("marks.npy"))) == 1
