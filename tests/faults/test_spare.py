"""The spare worker: a run that it is handed is a run as any other, and whoever is killed around it,
nobody is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import psutil
import pytest

from studio.jobs import enqueue, spare
from studio.runs import Run, RunStore
from studio.runs.lock import is_held
from studio.settings import PROJECT
from studio.spec import RunSpec
from tests.faults.helpers import TALLY, Studio, env_of, until, weights

SHORT = {"max_steps": 3, "save_steps": 100}
# A conductor to which every machine is idle.
_READY = "from studio.jobs import spare; spare._IDLE, spare._IDLE_S = -1.0, 0.1"
_CONDUCTOR = (
    f"{_READY}; from studio.jobs.conduct import conduct; "
    "from studio.settings import Settings; conduct(Settings.from_env())"
)


def conducting(studio: Studio) -> "subprocess.Popen[bytes]":
    env = {**os.environ, **env_of(studio.settings), "STUDIO_SPARE": "1"}
    return subprocess.Popen([sys.executable, "-c", _CONDUCTOR], cwd=PROJECT, env=env)


@pytest.fixture
def looked_at(studio: Studio) -> Iterator[Studio]:
    """A home whose page is looked at, with a conductor that keeps a spare."""
    studio.settings = replace(studio.settings, spare=True)
    assert spare.expect(studio.settings) and spare.expected(studio.settings)
    conductor = conducting(studio)
    try:
        yield studio
    finally:
        conductor.kill()
        conductor.wait()
        studio.kill("spare+worker")


def spare_of(studio: Studio) -> psutil.Process:
    until(lambda: studio.processes("spare"), 60)
    (process,) = studio.processes("spare")
    return process


def worker_of(run: Run) -> int:
    return int(json.loads(run.pid.read_text(encoding="utf-8"))["pid"])


def left_alone(studio: Studio) -> None:
    """Nobody looks at the page any more."""
    (studio.settings.home / "expected").unlink()


def test_the_run_is_the_one_that_a_new_worker_would_have_made(
    looked_at: Studio, spec_with: Callable[..., RunSpec]
) -> None:
    process, settings = spare_of(looked_at), looked_at.settings
    run = enqueue(RunStore(settings.runs), settings, spec_with(train=SHORT), "handed")
    until(lambda: looked_at.state(run) == "finished", 120)
    assert worker_of(run) == process.pid and not looked_at.processes("train")
    until(run.exit.exists, 30)
    assert json.loads(run.exit.read_text(encoding="utf-8"))["code"] == 0
    # Its output is where a worker's is, and its lock is free for the next.
    assert "spare" not in run.read_log() and run.log.exists()
    until(lambda: not is_held(run.path / "lock"), 10)
    # There is another one for the next run, until nobody looks; then both are gone.
    assert spare_of(looked_at).pid != process.pid
    left_alone(looked_at)
    until(lambda: not is_held(settings.home / "conductor.lock"), 30)
    until(lambda: not looked_at.processes("spare"), 60)
    cold = enqueue(RunStore(settings.runs), settings, spec_with(train=SHORT), "cold")
    until(lambda: looked_at.state(cold) == "finished", 120)
    assert worker_of(cold) != process.pid and weights(cold) == weights(run)
    TALLY.other["runs compared bit for bit"] += 1


def test_one_that_is_killed_before_it_has_a_run_is_replaced_and_the_run_starts(
    looked_at: Studio, spec_with: Callable[..., RunSpec]
) -> None:
    settings, killed = looked_at.settings, set[int]()
    for _ in range(2):
        process = spare_of(looked_at)
        assert process.pid not in killed
        process.kill()
        killed.add(process.pid)
        process.wait(10)
    # One that ends again and again is not begun again and again.
    time.sleep(2)
    assert not looked_at.processes("spare")
    run = enqueue(RunStore(settings.runs), settings, spec_with(train=SHORT), "after")
    until(lambda: looked_at.state(run) == "finished", 120)
    assert worker_of(run) not in killed


def test_one_that_is_killed_in_its_run_is_a_worker_that_was_killed(
    looked_at: Studio, spec_with: Callable[..., RunSpec]
) -> None:
    process, settings = spare_of(looked_at), looked_at.settings
    spec = spec_with(train={"max_steps": 500, "save_steps": 2})
    run = enqueue(RunStore(settings.runs), settings, spec, "killed")
    until(lambda: RunStore(settings.runs).state(run).step >= 3, 120)
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: looked_at.state(run) in ("failed", "interrupted"), 10)
    until(run.exit.exists, 10)
    assert json.loads(run.exit.read_text(encoding="utf-8"))["code"] == -signal.SIGKILL
    assert not is_held(run.path / "lock")


def test_without_its_conductor_a_spare_goes_and_a_run_goes_on(
    looked_at: Studio, spec_with: Callable[..., RunSpec]
) -> None:
    settings = looked_at.settings
    first = spare_of(looked_at)
    run = enqueue(RunStore(settings.runs), settings, spec_with(train={"max_steps": 30}), "on")
    until(lambda: RunStore(settings.runs).state(run).step >= 1, 120)
    psutil.Process(first.pid).parent().kill()  # type: ignore[union-attr]
    until(lambda: looked_at.state(run) == "finished", 120)
    assert worker_of(run) == first.pid
    # The next conductor's spare has no run when that one is killed.
    conductor = conducting(looked_at)
    second = spare_of(looked_at)
    conductor.kill()
    conductor.wait()
    until(lambda: not second.is_running() or second.status() == psutil.STATUS_ZOMBIE, 60)
