"""A disk that is full, at every write: the run fails in words, what was saved before is whole, and
once there is room again it ends as if nothing had been."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from studio import jobs
from studio.engine.report import Reporter
from studio.errors import StudioError
from studio.jobs import conduct
from studio.runs import ENDED, Run, RunStore, checkpoints, events, queue
from studio.settings import PROJECT, Settings
from studio.spec import RunSpec
from studio.ui.live import tick
from tests.faults.helpers import (
    TALLY,
    Studio,
    check_checkpoints,
    env_of,
    leftovers,
    until,
    weights,
    write_rows,
)

Train = Callable[[Run, Settings], int]
STEPS = {"max_steps": 6, "save_steps": 2, "save_total_limit": 10}


class Disk:
    """A small disk of its own, which can be filled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, free: int = 0) -> None:
        """Leaves so many bytes, as far as its blocks allow."""
        left = os.statvfs(self.path)
        # Truncated first: a longer one takes the room of the old.
        with self._ballast.open("ab") as file:
            file.write(bytes(max(0, left.f_bavail * left.f_frsize - free)))

    def clear(self) -> None:
        """Gives the room back."""
        self._ballast.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "home"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield Disk(place)
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", workspace=tmp_path, bench_idle_s=60)


@pytest.fixture(scope="module")
def whole(
    spec_with: Callable[..., RunSpec], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The weights of the run that nothing happened to."""
    from studio import worker

    root = tmp_path_factory.mktemp("whole")
    settings = Settings(home=root / "home", workspace=root)
    run = RunStore(settings.runs).create(spec_with(train=STEPS), "whole")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env_of(settings).items():
            patch.setenv(name, value)
        patch.setattr("signal.signal", lambda number, handler: None)
        assert worker.main(["train", str(run.path)]) == 0
    return {"adapter": weights(run)}


def when(
    monkeypatch: pytest.MonkeyPatch, kind: str, act: Callable[[], None], **wanted: Any
) -> None:
    """Has `act` done right after the first event of this kind with these values was written."""
    write, done = Reporter.event, []

    def event(self: Reporter, name: str, **values: Any) -> None:
        write(self, name, **values)
        if not done and name == kind and wanted.items() <= values.items():
            done.append(True)
            act()

    monkeypatch.setattr(Reporter, "event", event)


def problem(settings: Settings, run: Run) -> dict[str, str]:
    """What a page shows of a run that failed."""
    shown = tick({"run": run.id, "offset": 0}, RunStore(settings.runs))["state"]
    assert shown["status"] == "failed", shown
    TALLY.other["disks filled"] += 1
    found: dict[str, str] = shown["problem"]
    return found


# The bytes that are left when the second checkpoint is to be written: for its first file, for some
# of its files, for all but the last of them.
@pytest.mark.parametrize("free", [0, 8, 24, 48, 80, 120, 160])
def test_a_full_disk_costs_no_checkpoint_that_was_saved(
    disk: Disk, settings: Settings, spec_with: Callable[..., RunSpec], train_here: Train,
    monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], free: int,
) -> None:  # fmt: skip
    run = RunStore(settings.runs).create(spec_with(train=STEPS), "full")
    when(monkeypatch, "log", lambda: disk.fill(free * 1024), step=3)
    assert train_here(run, settings) == 1
    told = problem(settings, run)
    assert told["message"].startswith("The disk is full"), told
    assert told["hint"]
    check_checkpoints(run)
    assert checkpoints.steps(run.checkpoints) == [2]
    # The log is one that can be gone on with, and holds all that was shown.
    assert [p["step"] for p in run.history()][:4] == [0, 1, 2, 3]
    disk.clear()
    assert train_here(run, settings) == 0
    assert weights(run) == whole["adapter"]
    assert [p["step"] for p in run.history()] == [0, 1, 2, 3, 4, 5, 6]
    assert not leftovers(run)
    TALLY.other["resumes"] += 1


@pytest.mark.parametrize("free", [0, 16, 48])
def test_a_full_disk_at_the_end_costs_no_step(
    disk: Disk, settings: Settings, spec_with: Callable[..., RunSpec], train_here: Train,
    monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], free: int,
) -> None:  # fmt: skip
    run = RunStore(settings.runs).create(spec_with(train=STEPS), "full")
    when(monkeypatch, "save", lambda: disk.fill(free * 1024), step=6)
    assert train_here(run, settings) == 1
    assert problem(settings, run)["message"].startswith("The disk is full")
    assert not run.adapter.exists()
    check_checkpoints(run)
    disk.clear()
    assert train_here(run, settings) == 0
    assert weights(run) == whole["adapter"]
    (attempt,) = [e for e in events.read(run.events) if e["type"] == "attempt"]
    assert attempt["step"] == 6 and not leftovers(run)


def test_a_full_disk_while_the_data_is_read_is_told(
    disk: Disk, settings: Settings, spec_with: Callable[..., RunSpec], train_here: Train,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    rows = tmp_path / "many.jsonl"
    write_rows(rows, 3000)
    spec = spec_with(train=STEPS, data={"path": str(rows)})
    run = RunStore(settings.runs).create(spec, "full")
    when(monkeypatch, "stage", lambda: disk.fill(8192), text="reading the data")
    assert train_here(run, settings) == 1
    assert problem(settings, run)["message"].startswith("The disk is full")
    disk.clear()
    assert train_here(run, settings) == 0


def test_a_full_disk_before_the_first_word_is_told(
    disk: Disk, settings: Settings, spec_with: Callable[..., RunSpec], train_here: Train
) -> None:
    run = RunStore(settings.runs).create(spec_with(train=STEPS), "full")
    # Room for the reserve, not for the file that names the process.
    disk.fill(2**16)
    assert train_here(run, settings) == 1
    assert problem(settings, run)["message"].startswith("The disk is full")


def test_a_full_disk_costs_an_export_and_nothing_else(
    disk: Disk, studio_on: Studio, spec_with: Callable[..., RunSpec], train_here: Train
) -> None:
    settings = studio_on.settings
    run = RunStore(settings.runs).create(spec_with(train=STEPS), "full")
    assert train_here(run, settings) == 0
    before = weights(run)
    disk.fill(64 * 1024)
    for kind in ("adapter", "merged"):
        with pytest.raises(StudioError, match="disk is full"):
            list(jobs.export(RunStore(settings.runs), settings, run, kind))
        assert not (run.export / kind).exists() and not leftovers(run)
        TALLY.other["disks filled"] += 1
    disk.clear()
    for kind in ("adapter", "merged"):
        list(jobs.export(RunStore(settings.runs), settings, run, kind))
        assert (run.export / kind).is_dir()
    assert weights(run) == before


@pytest.fixture
def studio_on(settings: Settings) -> Iterator[Studio]:
    found = Studio(settings)
    yield found
    found.close()


def test_who_waits_on_a_full_disk_starts_when_there_is_room(
    disk: Disk, studio_on: Studio, spec_with: Callable[..., RunSpec]
) -> None:
    store, settings = studio_on.store, studio_on.settings
    run = store.create(spec_with(train={"max_steps": 1}), "waits")
    with queue.changing(store.root) as waiting:
        waiting.append(run.id)
    disk.fill()
    with pytest.raises(StudioError, match="can't be written"):
        jobs.enqueue(store, settings, spec_with(), "another")
    conduct.ensure(settings)
    until(lambda: studio_on.processes("conduct"))
    until(lambda: run.log.exists(), 30)
    until(lambda: not studio_on.processes("train"), 60)
    assert store.state(run).status in ("queued", "failed", "starting")
    disk.clear()
    until(lambda: studio_on.state(run) in ENDED, 60)
    assert studio_on.state(run) == "finished", (store.state(run), run.read_log())
    TALLY.other["disks filled"] += 1


def test_a_disk_that_takes_no_long_file_is_told_as_well(
    tmp_path: Path, spec_with: Callable[..., RunSpec], settings: Settings
) -> None:
    """Where no disk can be mounted, this limit stands for one."""
    run = RunStore(settings.runs).create(spec_with(train=STEPS), "limited")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    command = [sys.executable, "-m", "studio.worker", "train", str(run.path)]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))

    env = {**os.environ, **env_of(settings)}
    done = subprocess.run(
        command, cwd=PROJECT, env=env, preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    told = problem(settings, run)
    assert told["message"].startswith("The disk takes no file this long"), told
    check_checkpoints(run)
    env = {**os.environ, **env_of(replace(settings))}
    assert subprocess.run(command, cwd=PROJECT, env=env, check=False).returncode == 0
    assert RunStore(settings.runs).state(run).status == "finished"
