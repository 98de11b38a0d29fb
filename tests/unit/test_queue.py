"""The queue: ordered, durable, and started by a process that needs neither page nor server."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from studio import cli, worker
from studio.engine.report import Reporter, Stopped
from studio.errors import StudioError
from studio.jobs import conduct, waiting
from studio.jobs.probe import probe
from studio.jobs.spare import Spare
from studio.plan import device
from studio.plan.machine import Gpu
from studio.runs import ENDED, Run, RunStore, queue
from studio.runs.events import append
from studio.runs.files import write_process
from studio.runs.lock import is_held, try_lock
from studio.settings import PROJECT, Settings
from studio.spec import DEFAULTS
from studio.ui.live import tick


@pytest.fixture
def store(settings: Settings) -> RunStore:
    return RunStore(settings.runs)


@pytest.fixture(autouse=True)
def nobody_left(settings: Settings) -> Iterator[None]:
    yield
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("STUDIO_HOME") == str(settings.home):
            process.kill()


def hopeless(store: RunStore, name: str) -> Run:
    """A run that fails as soon as its worker looks at it, before any library is loaded."""
    run = store.create(DEFAULTS, name)
    (run.path / "spec.yaml").write_text("train: {seed: none}\n", encoding="utf-8")
    return run


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def names(store: RunStore) -> list[str]:
    return [Run(store.root / run).name for run in queue.waiting(store.root)]


def fill(store: RunStore, *wanted: str) -> list[Run]:
    runs = [store.create(DEFAULTS, name) for name in wanted]
    with queue.changing(store.root) as ids:
        ids.extend(run.id for run in runs)
    return runs


def test_a_run_that_waits_is_queued_and_not_active(store: RunStore) -> None:
    first, second = fill(store, "a", "b")
    assert [store.state(run).status for run in (first, second)] == ["queued", "queued"]
    assert store.active() is None
    waiting.remove(store, first)
    assert names(store) == ["b"] and store.list() == [second, first]


def test_waiting_runs_are_moved(store: RunStore) -> None:
    a, b, c = fill(store, "a", "b", "c")
    waiting.move(store, c, 1)
    assert names(store) == ["c", "a", "b"]
    waiting.move(store, c, 3)
    assert names(store) == ["a", "b", "c"]
    for place in (0, 4):
        with pytest.raises(StudioError, match=f"no place {place}"):
            waiting.move(store, a, place)
    waiting.remove(store, b)
    for refused in (lambda: waiting.move(store, b, 1), lambda: waiting.remove(store, b)):
        with pytest.raises(StudioError, match="does not wait"):
            refused()


@pytest.mark.parametrize("held", ["", "{", "[]", '{"runs": 3}', '{"runs": [1, null, "nix"]}'])
def test_a_queue_that_cannot_be_read_is_empty_and_usable(store: RunStore, held: str) -> None:
    store.root.mkdir(parents=True)
    (store.root / "queue.json").write_text(held, encoding="utf-8")
    assert queue.waiting(store.root) == []
    fill(store, "a")
    assert names(store) == ["a"]


def test_a_run_stands_in_the_queue_once(store: RunStore) -> None:
    (run,) = fill(store, "a")
    with queue.changing(store.root) as ids:
        ids.append(run.id)
    assert names(store) == ["a"]


def test_a_change_that_fails_changes_nothing(store: RunStore) -> None:
    fill(store, "a")

    def fail() -> None:
        with queue.changing(store.root) as ids:
            ids.clear()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(store) == ["a"]


def test_many_who_join_at_once_all_stand_in_it(store: RunStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: fill(store, f"r{n}"), range(24)))
    assert sorted(names(store)) == sorted(f"r{n}" for n in range(24))


def test_all_that_wait_are_started_one_by_one_though_each_fails(
    store: RunStore, settings: Settings
) -> None:
    runs = [hopeless(store, f"r{n}") for n in range(3)]
    with queue.changing(store.root) as ids:
        ids.extend(run.id for run in runs)
    conduct.ensure(settings)
    until(lambda: all(store.state(run).status == "failed" for run in runs))
    starts = [json.loads(run.events.read_text().splitlines()[0])["time"] for run in runs]
    assert starts == sorted(starts)
    until(lambda: not is_held(settings.home / "conductor.lock"))
    assert json.loads(runs[0].exit.read_text())["code"] == 1
    assert "seed" in (store.state(runs[0]).problem or {})["message"]


def test_a_folder_that_nobody_understands_stops_no_conductor(
    store: RunStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, waits = store.create(DEFAULTS, "bad"), hopeless(store, "b")
    bad.events.mkdir()
    monkeypatch.setattr(conduct, "_RETRY_S", 0.01)
    # Something goes wrong with the first look at it.
    real, looks = conduct._start, iter([TypeError("what is this?")])

    def start(*given: Any) -> Any:
        for error in looks:
            raise error
        return real(*given)

    monkeypatch.setattr(conduct, "_start", start)
    with queue.changing(store.root) as ids:
        ids.append(waits.id)
    conduct.conduct(settings)
    assert store.state(waits).status == "failed"


def test_a_killed_conductor_is_replaced_and_nothing_is_started_twice(
    store: RunStore, settings: Settings
) -> None:
    first = fill(store, "a")[0]
    busy = subprocess.Popen(["sleep", "60"])
    write_process(first.pid, busy.pid)
    waiting.remove(store, first)
    second = hopeless(store, "b")
    with queue.changing(store.root) as ids:
        ids.append(second.id)
    conduct.ensure(settings)
    until(lambda: is_held(settings.home / "conductor.lock"))
    conductors = [
        p
        for p in psutil.process_iter(["cmdline", "environ"])
        if "conduct" in (p.info["cmdline"] or [])
        and (p.info["environ"] or {}).get("STUDIO_HOME") == str(settings.home)
    ]
    assert len(conductors) == 1
    conductors[0].kill()
    until(lambda: not is_held(settings.home / "conductor.lock"))
    for _ in range(3):
        conduct.ensure(settings)
    assert store.state(second).status == "queued"
    busy.kill()
    busy.wait()
    until(lambda: store.state(second).status == "failed")
    assert len([e for e in second.events.read_text().splitlines() if '"end"' in e]) == 1


def test_of_two_workers_of_one_run_the_second_leaves_it_alone(
    store: RunStore,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = hopeless(store, "a")
    # For that long it waits for one that is about to go.
    monkeypatch.setattr(worker, "_GONE_S", 0.3)
    with try_lock(run.path / "lock"):
        assert worker._train(run, settings, None) == 1
    assert "Another worker" in capsys.readouterr().err
    assert not run.events.exists() and not run.pid.exists()


@pytest.mark.parametrize(("wish", "told"), [(None, True), ("pause", True), ("now", False)])
def test_settings_that_fit_are_sought_unless_somebody_ended_it(
    store: RunStore,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    wish: str | None,
    told: bool,
) -> None:
    run = store.create(DEFAULTS, "a")
    if wish is not None:
        run.stop.write_text(wish, encoding="utf-8")
    monkeypatch.setattr(conduct, "smaller", lambda *_: {"train.max_length": 512})
    with subprocess.Popen(["sleep", "60"]) as process:
        process.kill()
        process.wait()
        conduct._attend(run, process, 0, settings, Spare(settings))
    assert ("changes" in json.loads(run.exit.read_text())) == told


def test_one_that_has_said_its_end_and_stays_holds_nobody_up(
    store: RunStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stays(args: list[str], log: Path, settings: Settings, lent: Any) -> Any:
        run = Run(Path(args[1]))
        # A child, as those that load data, of the same group.
        process = subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True)
        append(run.events, {"type": "end", "status": "finished", "step": 3})
        return process

    first, second = fill(store, "a", "b")
    # What an earlier attempt said is no end of this one.
    append(first.events, {"type": "end", "status": "stopped", "step": 1})
    monkeypatch.setattr(conduct, "spawn", stays)
    monkeypatch.setattr(conduct, "_GONE_S", 0.5)
    began = time.monotonic()
    conduct.conduct(settings)
    assert 1.0 < time.monotonic() - began < 20
    for run in (first, second):
        assert store.state(run).status == "finished" and run.process() is None
        assert "changes" not in json.loads(run.exit.read_text())


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lock of a GPU that this machine has for the test."""
    gpus = (Gpu("H100", 80 * 2**30, 0, 9.0),)
    monkeypatch.setattr(device, "machine", lambda: SimpleNamespace(gpus=gpus))
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    lock = device.gpu_lock()
    assert lock and lock.name == "gpu-1.lock"
    return lock


def test_a_run_waits_while_another_home_has_the_gpu(
    store: RunStore, settings: Settings, gpu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = hopeless(store, "a")
    with queue.changing(store.root) as ids:
        ids.append(run.id)
    with try_lock(gpu):
        assert conduct._start_next(store, settings, Spare(settings)) is None
        assert names(store) == ["a"] and store.state(run).status == "queued"
        told = tick({"run": run.id, "offset": 0}, store)["state"]["words"]
        assert told == "waits for the GPU, which a run of another home has"
        assert cli.main(["queue", "list", "--home", str(settings.home)]) == 0
        assert told in capsys.readouterr().out
        with pytest.raises(StudioError, match="at work on a run"):
            next(probe(store, settings, DEFAULTS))
    assert waiting.waits_for(store) == "waits for its turn"
    started = conduct._start_next(store, settings, Spare(settings))
    assert started and started[0] == run and started[1].wait(30) == 1


def test_a_worker_that_comes_second_to_the_gpu_waits_for_it_until_it_is_stopped(
    store: RunStore, settings: Settings, gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = hopeless(store, "a")
    monkeypatch.setattr(worker, "_GONE_S", 0.1)
    with try_lock(gpu), ThreadPoolExecutor(1) as pool:
        report = Reporter(run.events, stop=run.stop)
        ended = pool.submit(lambda: worker._device(settings, report).__enter__())
        until(lambda: "waiting for the GPU" in store.state(run).stage)
        run.stop.touch()
        assert isinstance(ended.exception(10), Stopped)
    with worker._device(settings, report) as ours:
        assert ours and is_held(gpu)


def test_a_worker_that_hangs_while_it_goes_is_ended(tmp_path: Path) -> None:
    code = (
        "import threading, time\nfrom studio import worker\nworker._GONE_S = 0.3\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\nworker._leave(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "Timeout" in done.stderr


def test_how_a_worker_was_killed_is_told(store: RunStore, settings: Settings) -> None:
    run = store.create(DEFAULTS, "a")
    run.pid.write_text("{}", encoding="utf-8")
    told = {
        '{"code": -9, "peak": 2500000000, "oom": true}': "want of memory; it held 2.5 GB",
        '{"code": -9, "peak": 2500000000, "oom": false}': "was killed",
        f'{{"code": -{int(signal.SIGSEGV)}}}': "ended by signal 11",
        '{"code": 3}': "without a word",
        "[": "without a word",
    }
    for seen, words in told.items():
        run.exit.write_text(seen, encoding="utf-8")
        state = RunStore(settings.runs).state(run)
        assert state.status == "interrupted" and state.status in ENDED
        assert words in (state.problem or {})["message"] and (state.problem or {})["hint"]
