"""The conductor: the small process that starts the waiting runs, one after the other.

It lives while there is a run that waits or trains, and no page or server is needed for it; beside a
page that is looked at it stands by with a spare worker. It is the workers' parent, so it sees how
each of them ends, even one that could say nothing. Killed, it is started again by whoever looks
next, and takes over what it finds: all it knows is on disk.
"""

import errno
import json
import math
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import IO, Any

import psutil

from studio.errors import StudioError
from studio.jobs.bench import Bench
from studio.jobs.export import busy
from studio.jobs.spare import Spare, expect, expected
from studio.jobs.spawn import spawn, writing
from studio.plan.device import device_lock
from studio.plan.smaller import smaller
from studio.runs import Run, RunStore, events, files, queue
from studio.runs.lock import is_held, try_lock
from studio.runs.store import AT_ONCE
from studio.settings import Settings

_LOOK_S = 0.2
_RETRY_S = 5.0
# What no other run would fare better with.
_EVERYBODYS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# One that is about to end holds its lock for a moment longer than it looks for work.
_TAKE_OVER_S = 5.0
# How long a worker that has said its end may take to go.
_GONE_S = 30.0


def ensure(settings: Settings) -> None:
    """Sees to it that somebody starts what waits."""
    if queue.waiting(settings.runs) and not is_held(_lock(settings)):
        _spawn(settings)


def make_ready(settings: Settings) -> None:
    """Somebody looks at a page: sees to it that a run which they start begins soon."""
    if expect(settings) and not is_held(_lock(settings)):
        _spawn(settings)


def _spawn(settings: Settings) -> None:
    with writing(settings.home):
        spawn(["conduct"], settings.home / "conductor.log", settings)


def conduct(settings: Settings) -> None:
    """Starts the waiting runs one by one; returns when none waits, trains or is expected."""
    with try_lock(_lock(settings), wait_s=_TAKE_OVER_S) as ours:
        if ours:
            _until_none_waits(settings)
    # One that has joined since the last look found a conductor at work, and relied on it.
    ensure(settings)


def _until_none_waits(settings: Settings) -> None:
    store, spare = RunStore(settings.runs), Spare(settings)
    while True:
        try:
            started = _start_next(store, settings, spare)
            if started is not None:
                _attend(*started, settings, spare)
                continue
        # A full disk, say: who waits goes on waiting until somebody frees some of it.
        except Exception as error:  # noqa: BLE001
            print(f"The next run can't be started: {error!r}", flush=True)
            _let_others_pass(store, error)
            time.sleep(_RETRY_S)
            continue
        if store.active() is not None or queue.waiting(store.root):
            _make_ready(settings, spare)
            time.sleep(_LOOK_S)
        elif not _some_come(settings, spare):
            return


def _let_others_pass(store: RunStore, error: Exception) -> None:
    """Puts the first of those that wait last where it is its own folder that can't be used."""
    if not isinstance(error, OSError) or error.errno in _EVERYBODYS:
        return
    with suppress(OSError), queue.changing(store.root) as waiting:
        if waiting and Path(str(error.filename)).is_relative_to(store.root / waiting[0]):
            waiting.append(waiting.pop(0))


def _some_come(settings: Settings, spare: Spare) -> bool:
    """Stands by for as long as a run may come; whether one came."""
    while expected(settings):
        if queue.waiting(settings.runs):
            return True
        spare.keep()
        time.sleep(_LOOK_S)
    return False


def _make_ready(settings: Settings, spare: Spare) -> None:
    """Keeps a spare for a run that waits; beside one that goes, without another, its memory is the
    run's."""
    if settings.spare and queue.waiting(settings.runs):
        spare.keep()
    else:
        spare.drop()


def _lock(settings: Settings) -> Path:
    return settings.home / "conductor.lock"


def _start_next(
    store: RunStore, settings: Settings, spare: Spare
) -> "tuple[Run, Popen[bytes], int] | None":
    """Starts the first waiting run, if nothing trains or merges now, here or, on a GPU, in another
    home; returns also how many bytes of events it had before."""
    with queue.changing(store.root) as waiting:
        if not waiting or store.active() is not None or busy(store) is not None:
            return None
        if is_held(device_lock(settings)):
            return None
        # The bench's model takes the memory that the run needs.
        Bench(settings).quit()
        run = Run(store.root / waiting[0])
        with try_lock(run.path / "lock") as lock:
            if lock is None:
                # Its last worker is about to be gone; or a conductor that was killed has started
                # one, which will say so in a moment.
                return None
            said = events.size(run.events)
            process = _start(run, lock, said, settings, spare)
        # The worker does this as well, in case that we are killed before.
        waiting.pop(0)
    return run, process, said


def _start(run: Run, lock: IO[str], said: int, settings: Settings, spare: Spare) -> "Popen[bytes]":
    """Starts the run's worker, which has the run's lock from its first moment on."""
    for left in (run.stop, run.exit):
        left.unlink(missing_ok=True)
    process = spare.take(run.path, run.log, lock.fileno())
    if process is None:
        arguments = ["train", str(run.path), "--lock", str(lock.fileno())]
        process = spawn(arguments, run.log, settings, lent=[lock.fileno()])
    # It may have ended already, then its own events say why; and it writes this itself, too.
    with suppress(psutil.NoSuchProcess, OSError):
        files.write_process(run.pid, process.pid, said)
    return process


def _attend(run: Run, process: "Popen[bytes]", said: int, settings: Settings, spare: Spare) -> None:
    """Waits for the worker's end and notes what only its parent can see; one that has said its end
    after byte `said` of the events, and stays, is ended. Beside a run on a GPU, whose cores have
    little to do, the next one's worker is made ready."""
    peak, kills, ended = 0, _oom_kills(), math.inf
    while process.poll() is None:
        with suppress(psutil.Error):
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
        told, said = events.tail(run.events, said)
        if any(event["type"] == "end" for event in told):
            ended = time.monotonic()
        if time.monotonic() - ended > _GONE_S:
            # All that it had to save is saved, and the next one waits for its memory.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        _make_ready(settings, spare)
        time.sleep(_LOOK_S)
    seen: dict[str, Any] = {"code": process.returncode, "peak": peak, "oom": _oom_kills() > kills}
    killed = process.returncode == -signal.SIGKILL and ended == math.inf
    if killed and run.wish() not in AT_ONCE:
        with suppress(StudioError):
            seen["changes"] = smaller(run.spec(), settings)
    # The run's folder may have been deleted, or its disk be full: then the events have to do.
    with suppress(OSError):
        files.write_text(run.exit, json.dumps(seen))


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory in our group so far."""
    with suppress(OSError, ValueError):
        for line in Path("/sys/fs/cgroup/memory.events").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
