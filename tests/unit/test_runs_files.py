"""Files that are whole or absent, and processes that are who they were."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from studio.runs.files import (
    read_process,
    said_before,
    sweep,
    whole_folder,
    write_process,
    write_text,
)
from studio.settings import PROJECT


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that would sleep for long."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_text_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "eins\n")
    write_text(path, "zwölf\n")
    assert path.read_bytes() == "zwölf\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_text_whole_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "x" * 100_000 + "\ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_text_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    script = (
        "import resource, signal, sys\nfrom pathlib import Path\n"
        "from studio.runs.files import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_text(Path(sys.argv[1]), 'new' * 10_000)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "File too large" in done.stderr
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    with pytest.raises(FileNotFoundError), whole_folder(path):
        pass
    assert not path.parent.exists()
    path.parent.mkdir()
    with whole_folder(path) as aside:
        (aside / "a").write_text("1", encoding="utf-8")
        assert aside != path and not path.exists()
    assert [p.name for p in path.iterdir()] == ["a"]
    assert [p.name for p in path.parent.iterdir()] == ["folder"]
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_fails_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(OSError, match="No such file"), whole_folder(path) as aside:
        (aside / "a").joinpath("b").write_text("1", encoding="utf-8")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("1", encoding="utf-8")
    with pytest.raises(RuntimeError, match="half way"), whole_folder(path):
        raise RuntimeError("half way")
    assert [p.name for p in path.iterdir()] == ["old"]
    with whole_folder(path) as aside:
        (aside / "new").write_text("2", encoding="utf-8")
    assert [p.name for p in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_cut_off_folder_left_is_swept_and_the_old_one_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    half, old = tmp_path / ".adapter.making-x1", tmp_path / ".adapter.making-x1.old"
    for folder in (half, old):
        folder.mkdir()
        (folder / "a").write_text(folder.name, encoding="utf-8")
    (tmp_path / ".other.x").mkdir()
    sweep(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.x", "adapter"]
    assert (path / "a").read_text(encoding="utf-8") == ".adapter.making-x1.old"


def test_a_living_process_is_found_again(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    write_process(tmp_path / "pid", sleeper.pid)
    found = read_process(tmp_path / "pid")
    assert found is not None and found.pid == sleeper.pid


def test_a_process_that_ended_is_gone_even_as_a_zombie(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    write_process(tmp_path / "pid", sleeper.pid)
    sleeper.kill()
    while psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert read_process(tmp_path / "pid") is None
    sleeper.wait()
    assert read_process(tmp_path / "pid") is None


def test_a_pid_that_was_used_again_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    write_process(path, os.getpid(), 7)
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert read_process(path) is not None and said_before(path) == 7
    boot, _, ticks = stored["birth"].partition(" ")
    # Another process had this pid before, or the folder comes from another machine.
    for birth in (f"{boot} {int(ticks) - 1}", f"{boot[::-1]} {ticks}", None, 3):
        path.write_text(json.dumps({**stored, "birth": birth}), encoding="utf-8")
        assert read_process(path) is None


def test_a_clock_that_is_set_anew_changes_no_birth(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    write_process(tmp_path / "pid", sleeper.pid)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 0.0)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert read_process(tmp_path / "pid") is not None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "{}", '{"pid": "x", "birth": "1"}', '{"pid": null}', '{"pid": -1}'],
)
def test_a_broken_pid_file_means_no_process(tmp_path: Path, text: str) -> None:
    (tmp_path / "pid").write_text(text, encoding="utf-8")
    assert read_process(tmp_path / "pid") is None
