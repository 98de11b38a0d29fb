"""Work that outlives the page: what is refused, how it is stopped, and the bench's client."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import psutil
import pytest

from studio import jobs
from studio.errors import StudioError
from studio.jobs.spawn import spawn
from studio.runs import Run, RunState, RunStore, queue
from studio.runs.events import append
from studio.runs.files import write_process
from studio.runs.lock import is_held
from studio.settings import Settings
from studio.spec import DEFAULTS, parse

ASKED = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture
def store(settings: Settings) -> RunStore:
    return RunStore(settings.runs)


@pytest.fixture
def run(store: RunStore) -> Run:
    return store.create(DEFAULTS, "persona")


@pytest.fixture
def worker(run: Run) -> Iterator["subprocess.Popen[bytes]"]:
    """A process with a child, in a session of its own, that stands for the run's worker."""
    script = (
        "import subprocess as s; p = s.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    )
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout
    process.stdout.readline()
    write_process(run.pid, process.pid)
    append(run.events, {"type": "start", "max_steps": 9})
    yield process
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def refused(work: Callable[[], Any], words: str) -> None:
    with pytest.raises(StudioError, match=words) as caught:
        work()
    assert caught.value.hint


def test_a_second_run_is_refused_while_one_is_going(
    store: RunStore, settings: Settings, run: Run, worker: "subprocess.Popen[bytes]"
) -> None:
    refused(lambda: jobs.start(store, settings, DEFAULTS, "b"), f"{run.id} is still going")
    assert store.list() == [run]


def test_of_two_starts_at_once_one_wins(store: RunStore, settings: Settings) -> None:
    with ThreadPoolExecutor(2) as pool:
        starts = [pool.submit(jobs.start, store, settings, DEFAULTS, name) for name in "ab"]
        refusals = [start.exception() for start in starts]
    (run,) = store.list()
    until(lambda: run.process() is not None)
    jobs.stop(run, now=True)
    told = [str(refusal) for refusal in refusals if refusal]
    assert len(told) == 1 and ("is still going" in told[0] or "waits to be started" in told[0])


def test_the_chat_waits_for_a_run(
    store: RunStore, settings: Settings, run: Run, worker: "subprocess.Popen[bytes]"
) -> None:
    chat = jobs.chat(store, settings, run, DEFAULTS, {"base": ASKED}, DEFAULTS.generate)
    refused(lambda: list(chat), "needs this machine's memory")


def test_a_tuned_model_is_asked_for_only_where_there_is_a_run(
    store: RunStore, settings: Settings
) -> None:
    for sides in ({"tuned": ASKED}, {"base": ASKED, "merged": ASKED}, {}):
        chat = jobs.chat(store, settings, None, DEFAULTS, sides, DEFAULTS.generate)
        refused(lambda chat=chat: list(chat), "no tuned model")  # type: ignore[misc]


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings(home=tmp_path / "file" / "home", workspace=tmp_path)
    start = lambda: jobs.start(RunStore(settings.runs), settings, DEFAULTS, "a")  # noqa: E731
    refused(start, "can't be written: Not a directory")


def test_stop_asks_a_worker_that_lives(run: Run, worker: "subprocess.Popen[bytes]") -> None:
    jobs.stop(run)
    assert run.stop.exists() and worker.poll() is None


def test_stop_now_ends_the_worker_and_its_children(
    store: RunStore, run: Run, worker: "subprocess.Popen[bytes]"
) -> None:
    (child,) = psutil.Process(worker.pid).children()
    jobs.stop(run, now=True)
    psutil.wait_procs([child], timeout=5)
    assert not psutil.pid_exists(worker.pid) and not child.is_running()
    assert store.state(run).status == "stopped" and run.wish() == "now"


def test_stop_of_a_run_that_is_not_going_is_refused(run: Run) -> None:
    refused(lambda: jobs.stop(run), "is not going")
    assert not run.stop.exists()


def test_following_a_run_ends_with_its_end(
    store: RunStore, run: Run, worker: "subprocess.Popen[bytes]"
) -> None:
    states = jobs.follow(store, run, every_s=0.01)
    assert next(states).status == "running"
    append(run.events, {"type": "log", "step": 2, "loss": 1.5})
    assert next(states).step == 2
    append(run.events, {"type": "end", "status": "finished", "train_loss": 1.5})
    assert [s.status for s in states] == ["finished"]


def test_an_export_needs_an_adapter_and_an_empty_folder(
    settings: Settings, run: Run, tmp_path: Path
) -> None:
    refused(
        lambda: list(jobs.export(store, settings, run, "adapter")),
        "has no adapter",
    )
    run.adapter.mkdir()
    (run.adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("years", encoding="utf-8")
    for out in (full, full / "thesis.txt"):
        refused(
            lambda out=out: list(jobs.export(store, settings, run, "adapter", out)),
            "is not empty",
        )  # type: ignore[misc]
    below = full / "thesis.txt" / "out"
    refused(
        lambda: list(jobs.export(store, settings, run, "adapter", below)),
        "can't be written",
    )
    assert (full / "thesis.txt").read_text(encoding="utf-8") == "years"


@pytest.mark.parametrize(
    ("method", "kind", "says"),
    [
        ("prompt_tuning", "merged", "can't be merged: it is a learned text"),
        ("none", "adapter", "there is no adapter"),
    ],
)
def test_what_a_method_does_not_make_is_told_before_anything_is_started(
    store: RunStore, settings: Settings, method: str, kind: str, says: str
) -> None:
    run = store.create(parse({"adapter": {"method": method}}), "one")
    run.adapter.mkdir()
    name = "config.json" if method == "none" else "adapter_config.json"
    (run.adapter / name).write_text("{}", encoding="utf-8")
    assert run.tuned
    refused(lambda: list(jobs.export(store, settings, run, kind)), says)
    assert not run.export.exists()


@pytest.fixture
def merging(run: Run, store: RunStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Merges do nothing; for each that was started, whether a run could have begun meanwhile."""
    run.adapter.mkdir()
    (run.adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    started, processes = [], []

    def sleeps(*_: Any) -> "subprocess.Popen[bytes]":
        started.append(not is_held(store.root / ".queue.lock"))
        processes.append(subprocess.Popen(["sleep", "60"]))
        return processes[-1]

    monkeypatch.setattr(import_module("studio.jobs.export"), "spawn", sleeps)
    yield started
    for process in processes:
        process.kill()
        process.wait()


def test_a_merge_and_a_run_never_begin_together(
    store: RunStore, settings: Settings, run: Run, merging: list[bool]
) -> None:
    waits = store.create(DEFAULTS, "waits")
    merge = lambda: next(iter(jobs.export(store, settings, run, "merged")))  # noqa: E731
    with queue.changing(store.root) as ids:
        ids.append(waits.id)
    refused(merge, f"{waits.id} waits to be started")
    with queue.changing(store.root) as ids:
        ids.clear()
    write_process(waits.pid, os.getpid())
    append(waits.events, {"type": "start", "max_steps": 9})
    refused(merge, f"{waits.id} needs this machine's memory")
    waits.pid.unlink()
    merge()
    assert merging == [False]
    refused(lambda: jobs.start(store, settings, DEFAULTS, "b"), "is being merged")
    # Who comes now only watches, whatever waits.
    with queue.changing(store.root) as ids:
        ids.append(waits.id)
    merge()
    assert merging == [False]


def test_an_export_that_is_there_is_not_made_again(
    store: RunStore, settings: Settings, run: Run
) -> None:
    run.adapter.mkdir()
    (run.adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    (run.export / "merged").mkdir(parents=True)
    assert list(jobs.export(store, settings, run, "merged")) == []
    assert not run.log.exists()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (RunState(), "created"),
        (RunState(stage="loading the model"), "loading the model"),
        (RunState(stage="tokenizing", done=30, total=120), "tokenizing (25 %)"),
        (RunState(stage="tokenizing 30 of 120", done=30, total=120), "tokenizing 30 of 120"),
        (RunState(stage="merging", done=0, total=0), "merging"),
    ],
)
def test_a_stage_is_said_with_its_count(state: RunState, words: str) -> None:
    assert jobs.words(state) == words


def test_a_worker_is_a_session_of_its_own_that_writes_to_its_log(
    settings: Settings, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    log.write_text("before\n", encoding="utf-8")
    process = spawn(["dance"], log, settings)
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    assert process.wait(30) == 2
    words = log.read_text(encoding="utf-8")
    assert words.startswith("before\n") and "invalid choice: 'dance'" in words


# The bench's client, against a server of the same protocol in a thread.


class Server:
    """Answers one request as it is told to; `heard` is what came, `gone` that the client left."""

    def __init__(self, settings: Settings, answer: Callable[[Connection], None]) -> None:
        self.heard: list[Any] = []
        self.gone = threading.Event()
        self._answer = answer
        self._listener = Listener(("127.0.0.1", 0), authkey=b"key")
        folder = settings.home / "bench"
        folder.mkdir(parents=True)
        write_process(folder / "pid", os.getpid())
        address = {"port": self._listener.address[1], "key": b"key".hex()}
        (folder / "address.json").write_text(json.dumps(address), encoding="utf-8")
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with self._listener, self._listener.accept() as connection:
            self.heard.append(json.loads(connection.recv_bytes()))
            self._answer(connection)
            try:
                connection.recv_bytes()
            except (EOFError, OSError):
                self.gone.set()


def say(connection: Connection, **reply: Any) -> None:
    connection.send_bytes(json.dumps(reply).encode())


def test_replies_come_one_by_one_until_the_last(settings: Settings) -> None:
    def answer(connection: Connection) -> None:
        say(connection, stage="loading")
        say(connection, delta={"base": "Hi"})
        say(connection, done=True, text={"base": "Hi"})

    server = Server(settings, answer)
    replies = list(jobs.Bench(settings).ask({"op": "chat"}))
    assert [next(iter(r)) for r in replies] == ["stage", "delta", "done"]
    assert server.heard == [{"op": "chat"}]
    assert server.gone.wait(5)


def test_leaving_in_the_middle_tells_the_bench(settings: Settings) -> None:
    server = Server(settings, lambda connection: say(connection, delta={"base": "Hi"}))
    replies = jobs.Bench(settings).ask({"op": "chat"})
    assert next(replies) == {"delta": {"base": "Hi"}}
    assert isinstance(replies, Generator)
    replies.close()
    assert server.gone.wait(5)


def test_a_stage_that_lasts_is_told_again_so_that_it_can_be_left(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.jobs.bench._AGAIN_S", 0.05)
    server = Server(settings, lambda connection: say(connection, stage="downloading"))
    replies = jobs.Bench(settings).ask({"op": "preview"})
    assert [next(replies) for _ in range(3)] == [{"stage": "downloading"}] * 3
    assert isinstance(replies, Generator)
    replies.close()
    assert server.gone.wait(5)


def test_an_error_of_the_bench_is_told(settings: Settings) -> None:
    Server(settings, lambda connection: say(connection, error="Too long.", hint="Cut it."))
    with pytest.raises(StudioError, match="Too long") as caught:
        list(jobs.Bench(settings).ask({"op": "chat"}))
    assert caught.value.hint == "Cut it."


def test_a_bench_that_dies_in_the_middle_is_told(settings: Settings) -> None:
    def answer(connection: Connection) -> None:
        say(connection, delta={"base": "Hi"})
        connection.close()

    Server(settings, answer)
    replies = jobs.Bench(settings).ask({"op": "chat"})
    next(replies)
    refused(lambda: next(replies), "ended in the middle")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "[]",
        "{}",
        '{"port": 1, "key": 5}',
        '{"port": "x", "key": "00"}',
        '{"port": 1, "key": "00"}',
    ],
)
def test_an_address_that_leads_nowhere_means_no_bench(settings: Settings, address: str) -> None:
    folder = settings.home / "bench"
    folder.mkdir(parents=True)
    write_process(folder / "pid", os.getpid())
    (folder / "address.json").write_text(address, encoding="utf-8")
    assert jobs.Bench(settings)._connect() is None


def test_another_ones_bench_is_not_taken_for_ours(settings: Settings) -> None:
    with Listener(("127.0.0.1", 0), authkey=b"other") as listener:
        folder = settings.home / "bench"
        folder.mkdir(parents=True)
        write_process(folder / "pid", os.getpid())
        address = {"port": listener.address[1], "key": b"ours".hex()}
        (folder / "address.json").write_text(json.dumps(address), encoding="utf-8")

        def serve() -> None:
            try:
                listener.accept()
            except Exception as error:  # noqa: BLE001
                refusals.append(error)

        refusals: list[Exception] = []
        thread = threading.Thread(target=serve)
        thread.start()
        assert jobs.Bench(settings)._connect() is None
        thread.join(5)
        assert refusals


def test_a_bench_is_known_from_the_moment_it_is_started(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, started = jobs.Bench(settings), list[Any]()

    def sleeps(*_: Any) -> "subprocess.Popen[bytes]":
        assert is_held(settings.runs / ".queue.lock"), "a run could begin"
        started.append(subprocess.Popen(["sleep", "60"]))
        return started[-1]  # type: ignore[no-any-return]

    def refuse() -> None:
        raise StudioError("A run is going.", "Wait.")

    monkeypatch.setattr("studio.jobs.bench.spawn", sleeps)
    refused(lambda: bench._spawn(refuse), "A run is going")
    assert bench._spawn(lambda: None) and not bench._spawn(lambda: None)
    assert bench.process() and len(started) == 1
    # A run that begins has not to wait until it has loaded its model.
    began = time.monotonic()
    bench.quit()
    assert bench.process() is None and time.monotonic() - began < 5
    started[0].wait()


def test_quitting_where_no_bench_is_does_nothing(settings: Settings) -> None:
    jobs.Bench(replace(settings, home=settings.home / "nix")).quit()
    assert not (settings.home / "nix").exists()


def test_the_server_gives_way_to_what_it_starts() -> None:
    code = (
        "import os, subprocess, sys, threading\n"
        "from importlib import import_module\n"
        "spawn = import_module('studio.jobs.spawn')\n"
        "spawn.give_way()\n"
        "spawn.give_way()\n"
        "nice = [sys.executable, '-c', 'import os; print(os.nice(0))']\n"
        "child = spawn._started(nice, stdout=subprocess.PIPE)\n"
        "print(os.nice(0), int(child.communicate()[0]))\n"
        "late = []\n"
        "thread = threading.Thread(target=lambda: late.append(os.nice(0)))\n"
        "thread.start(), thread.join()\n"
        "print(late[0])\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before = os.nice(0)
    ours, child, thread = map(int, told.stdout.split())
    assert child == before and ours == thread == min(19, before + 15)
