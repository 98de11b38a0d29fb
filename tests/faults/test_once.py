"""Once and only once: a run that is started by many, by two workers, by a conductor that was killed
in the middle of it; and a queue that goes on whoever is killed."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from studio import jobs
from studio.errors import StudioError
from studio.jobs import bench, conduct
from studio.jobs.spare import Spare
from studio.runs import ENDED, Run, RunStore, events, queue
from studio.runs.files import write_process
from studio.runs.lock import is_held, try_lock
from studio.settings import PROJECT, Settings
from studio.spec import DEFAULTS, RunSpec
from studio.ui.serve import claim
from tests.faults.helpers import TALLY, Studio, check_checkpoints, env_of, rng, until

SHORT = {"max_steps": 3, "save_steps": 2}


def hopeless(store: RunStore, name: str) -> Run:
    """A run that fails as soon as its worker looks at it, before any library is loaded."""
    run = store.create(DEFAULTS, name)
    (run.path / "spec.yaml").write_text("train: {seed: none}\n", encoding="utf-8")
    return run


def join(store: RunStore, *runs: Run) -> None:
    with queue.changing(store.root) as waiting:
        waiting.extend(run.id for run in runs)


def ends(run: Run) -> int:
    return sum(event["type"] == "end" for event in events.read(run.events))


def starts(run: Run) -> int:
    return sum(event["type"] in ("attempt", "start") for event in events.read(run.events))


def test_a_run_that_many_start_at_once_starts_once(
    studio: Studio, spec_with: Callable[..., RunSpec]
) -> None:
    """Eight processes' worth of presses of one button: one run, one worker, seven refusals."""
    spec, settings = spec_with(train=SHORT), studio.settings

    def press(_: int) -> str:
        try:
            return jobs.start(RunStore(settings.runs), settings, spec, "pressed").id
        except StudioError:
            return ""

    with ThreadPoolExecutor(8) as pool:
        made = [run for run in pool.map(press, range(8)) if run]
    (run,) = studio.store.list()
    assert made == [run.id]
    most = 0
    while studio.state(run) not in ENDED:
        most = max(most, len(studio.processes("train")))
        time.sleep(0.05)
    assert most == 1 and studio.state(run) == "finished", run.read_log()
    assert (starts(run), ends(run)) == (1, 1)
    TALLY.other["runs started once by many"] += 1


def test_a_run_that_was_resumed_twice_goes_on_once(
    studio: Studio, spec_with: Callable[..., RunSpec]
) -> None:
    store, settings = studio.store, studio.settings
    run = store.create(spec_with(train=SHORT), "twice")
    run.pid.write_text("{}", encoding="utf-8")
    assert studio.state(run) == "interrupted"

    def press(_: int) -> bool:
        try:
            jobs.resume(RunStore(settings.runs), settings, run)
        except StudioError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(press, range(8))) == 1
    until(lambda: studio.state(run) in ENDED, 90)
    until(lambda: not studio.processes("train"), 30)
    assert (studio.state(run), starts(run), ends(run)) == ("finished", 1, 1)


def test_of_two_workers_on_one_folder_one_trains(
    studio: Studio, spec_with: Callable[..., RunSpec]
) -> None:
    run = studio.store.create(spec_with(train=SHORT), "two")
    # Half a second is enough here to see whether the other has ended and is about to go.
    script = "import sys\nfrom studio import worker\nworker._GONE_S = 0.5\nsys.exit(worker.main())"
    command = [sys.executable, "-c", script, "train", str(run.path)]
    env = {**os.environ, **env_of(studio.settings)}
    both = [
        subprocess.Popen(command, cwd=PROJECT, env=env, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [worker.communicate(timeout=120)[1] for worker in both]
    assert sorted(worker.returncode for worker in both) == [0, 1], said
    assert sum("Another worker has this run." in text for text in said) == 1
    assert (studio.state(run), starts(run), ends(run)) == ("finished", 1, 1)
    check_checkpoints(run)


def test_a_conductor_that_was_killed_before_the_run_left_the_queue_starts_it_once(
    studio: Studio,
) -> None:
    """As it stands right after a worker was started: the run still waits, its worker is at work."""
    store = studio.store
    run = hopeless(store, "a")
    join(store, run)
    command = [sys.executable, "-m", "studio.worker", "train", str(run.path)]
    env = {**os.environ, **env_of(studio.settings)}
    subprocess.run(command, cwd=PROJECT, env=env, check=False, capture_output=True)
    assert queue.waiting(store.root) == [] and studio.state(run) == "failed"
    until(lambda: not studio.processes("conduct"), 30)
    assert ends(run) == 1


def test_a_worker_has_its_run_before_it_can_say_so(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conductor is killed when it has started a worker and nothing of it is on the disk."""
    store, settings = studio.store, studio.settings
    run = hopeless(store, "a")
    join(store, run)

    class Killed(BaseException):
        """Stands for the kill: nothing after it is done."""

    def die(*_: object) -> None:
        raise Killed

    started: list[subprocess.Popen[bytes]] = []
    real = conduct.spawn

    def spawn(*arguments: object, **more: object) -> "subprocess.Popen[bytes]":
        process = real(*arguments, **more)  # type: ignore[arg-type]
        started.append(process)
        os.kill(process.pid, 19)  # SIGSTOP: it has not come to its first line
        return process

    monkeypatch.setattr(conduct, "spawn", spawn)
    monkeypatch.setattr("studio.runs.files.write_process", die)
    with pytest.raises(Killed):
        conduct._start_next(store, settings, Spare(settings))
    monkeypatch.undo()
    assert studio.state(run) == "queued" and is_held(run.path / "lock")
    # The next conductor leaves it alone.
    assert conduct._start_next(RunStore(settings.runs), settings, Spare(settings)) is None
    os.kill(started[0].pid, 18)
    until(lambda: studio.state(run) == "failed", 30)
    assert ends(run) == 1 and queue.waiting(store.root) == []


def test_nobody_who_joins_is_forgotten_by_a_conductor_that_is_about_to_go(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run joins after the conductor's last look, and finds a conductor at work."""
    store, settings = studio.store, studio.settings
    first, late = hopeless(store, "first"), hopeless(store, "late")
    join(store, first)
    look, looks = conduct._until_none_waits, []

    def until_none_waits(settings: Settings) -> None:
        look(settings)
        # That very moment: nobody waits any more, and the conductor still has its lock.
        looks.append(studio.state(first))
        join(store, late)
        conduct.ensure(settings)
        assert len(studio.processes("conduct")) == 0

    monkeypatch.setattr(conduct, "_until_none_waits", until_none_waits)
    monkeypatch.setenv("STUDIO_HOME", str(settings.home))
    conduct.conduct(settings)
    monkeypatch.undo()
    assert looks == ["failed"]
    until(lambda: studio.state(late) == "failed", 30)


@pytest.mark.timeout(600)
def test_a_queue_of_five_ends_though_its_server_is_killed(
    studio: Studio, spec_with: Callable[..., RunSpec]
) -> None:
    """The server dies after the second has started, a conductor later; no page is open."""
    store, settings, chance = studio.store, studio.settings, rng("queue")
    studio.serve()
    runs = [jobs.enqueue(store, settings, spec_with(train=SHORT), f"r{n}") for n in range(5)]
    until(lambda: studio.state(runs[1]) == "starting", 120)
    time.sleep(chance.uniform(0, 3))
    assert studio.kill("server")
    until(lambda: studio.state(runs[2]) == "starting", 120)
    time.sleep(chance.uniform(0, 3))
    assert studio.kill("conductor")
    TALLY.kills["server"] += 1
    TALLY.kills["conductor"] += 1
    TALLY.phases["queue"] += 2
    until(lambda: all(studio.state(run) in ENDED for run in runs), 240, 0.2)
    assert [studio.state(run) for run in runs] == ["finished"] * 5
    assert [(starts(run), ends(run)) for run in runs] == [(1, 1)] * 5
    began = [next(iter(events.read(run.events)))["time"] for run in runs]
    assert began == sorted(began)
    TALLY.other["runs of a queue that ended"] += 5


def test_a_queue_goes_on_after_runs_that_fail_or_are_killed(
    studio: Studio, spec_with: Callable[..., RunSpec]
) -> None:
    store, settings = studio.store, studio.settings
    failing, killed = hopeless(store, "failing"), store.create(spec_with(), "killed")
    last = store.create(spec_with(train=SHORT), "last")
    join(store, failing, killed, last)
    jobs.ensure(settings)
    until(lambda: studio.state(killed) == "running", 90)
    assert studio.kill("worker")
    until(lambda: studio.state(last) in ENDED, 90)
    assert [studio.state(run) for run in (failing, killed, last)] == [
        "failed", "interrupted", "finished",
    ]  # fmt: skip
    problem = store.state(killed).problem or {}
    assert "signal 9" in problem["message"] or "memory" in problem["message"]


def test_a_run_whose_folder_cannot_be_used_lets_the_others_pass(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conduct, "_RETRY_S", 0.1)
    stuck, other = hopeless(studio.store, "stuck"), hopeless(studio.store, "other")
    (stuck.path / "lock").unlink(missing_ok=True)
    (stuck.path / "lock").mkdir()
    join(studio.store, stuck, other)
    conducting = threading.Thread(target=conduct.conduct, args=(studio.settings,), daemon=True)
    conducting.start()
    until(lambda: studio.state(other) == "failed", 60)
    assert queue.waiting(studio.store.root) == [stuck.id]
    # Nothing is lost: once it can be started, it is.
    (stuck.path / "lock").rmdir()
    until(lambda: studio.state(stuck) == "failed", 60)
    conducting.join(30)
    assert not conducting.is_alive()


def test_a_bench_that_hangs_holds_nobody_up(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run needs the memory of the model that people chat with; that one answers no more."""
    store, settings = studio.store, studio.settings
    folder = settings.home / "bench"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = "import time; time.sleep(600)"
        # Who connects is let in by the kernel, and never greeted.
        hung = subprocess.Popen(
            [sys.executable, "-c", script], pass_fds=[server.fileno()], stdin=subprocess.DEVNULL
        )
        address = {"port": server.getsockname()[1], "key": "00" * 16}
    (folder / "address.json").write_text(json.dumps(address))
    write_process(folder / "pid", hung.pid)
    monkeypatch.setattr(bench, "_QUIT_S", 0.5)
    began = time.monotonic()
    bench.Bench(settings).quit()
    assert time.monotonic() - began < 5 and hung.poll() is not None
    run = hopeless(store, "a")
    join(store, run)
    conduct.ensure(settings)
    until(lambda: studio.state(run) == "failed", 30)


def test_only_one_holds_a_lock_and_a_kill_gives_it_back(settings: Settings) -> None:
    path = settings.home / "some.lock"
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom studio.runs.lock import try_lock\n"
        "with try_lock(Path(sys.argv[1])) as ours:\n"
        "    print(bool(ours), flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    holder = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "True\n"
    with try_lock(path) as ours:
        assert ours is None
    taken = threading.Event()

    def wait() -> None:
        with try_lock(path, 30) as ours:
            if ours:
                taken.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert taken.wait(10)
    waiter.join()


def test_of_two_servers_on_one_home_the_second_only_looks(
    studio: Studio, spec_with: Callable[..., RunSpec]
) -> None:
    """It says so, and when the first is killed the next one has the home."""
    studio.serve()
    log = studio.settings.home / "server.log"
    second = Studio(studio.settings)
    try:
        second.serve()
        # It answers a moment before it says where.
        until(lambda: "Another studio has this home already" in log.read_text(), 10)
        looks = claim(studio.settings)
        assert looks.looks_only and studio.url.rstrip("/") in looks.looks_only
        for act in (jobs.start, jobs.enqueue):
            with pytest.raises(StudioError, match="Another studio has this home"):
                act(studio.store, looks, spec_with(), "never")
        assert studio.store.list() == []
        assert studio.kill("server")
        log.write_text("")
        studio.serve()
        until(lambda: "Atelier is open" in log.read_text(), 10)
        assert "Another studio" not in log.read_text()
    finally:
        second.close()
