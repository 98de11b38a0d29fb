"""The spare worker: a process that has loaded its libraries before there is a run for it, which is
most of what the start of a run takes. The conductor keeps one while a page is looked at, and hands
it the next run."""

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from subprocess import Popen

import psutil

from studio.jobs.spawn import spawn
from studio.plan.machine import machine
from studio.runs import files
from studio.settings import Settings

# For how long after the last look at a page somebody may be about to start a run.
_EXPECTED_S = 60.0
_TELL_EVERY_S = 15.0
# Bytes of memory that must be free to begin one, about six times what it takes, and to keep it.
_TO_BEGIN, _TO_KEEP = 4e9, 1e9
# It begins when the cores were idle for so long, by more than this share of them.
_IDLE_S, _IDLE = 3.0, 0.5
_MOST_FAILED = 2


def expect(settings: Settings) -> bool:
    """Notes that somebody looks at a page of this process's, so that a run may come; whether that
    was news. Raises nothing: without it, a start takes longer, and that is all."""
    wish = _wish(settings)
    if not settings.spare or settings.looks_only:
        return False
    with suppress(OSError, psutil.Error):
        if abs(time.time() - wish.stat().st_mtime) < _TELL_EVERY_S:
            return False
    with suppress(OSError, psutil.Error):
        files.write_process(wish, os.getpid())
        return True
    return False


def expected(settings: Settings) -> bool:
    """Whether a run may come soon: a page is looked at, and its server lives."""
    wish = _wish(settings)
    try:
        # A clock that was set back makes nothing fresh.
        fresh = abs(time.time() - wish.stat().st_mtime) < _EXPECTED_S
    except OSError:
        return False
    return settings.spare and fresh and files.read_process(wish) is not None


def _wish(settings: Settings) -> Path:
    return settings.home / "expected"


class Spare:
    """The conductor's spare worker, if there is one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._failed = 0
        self._looked, self._busy_until = 0.0, 0.0

    def keep(self) -> None:
        """Sees to it that there is one, where this machine has room for it and nothing to do."""
        now = time.monotonic()
        if now - self._looked < _IDLE_S:
            return
        # Since the last call; the very first one only begins to count.
        idle, first = 1 - psutil.cpu_percent() / 100, self._looked == 0.0
        self._looked, free = now, machine().available
        if self._process is not None:
            if self._process.poll() is not None:
                self._failed += 1
                self.drop()
            elif free < _TO_KEEP:
                self.drop()
        elif free > _TO_BEGIN and idle > _IDLE and not first and self._failed < _MOST_FAILED:
            self._begin()

    def _begin(self) -> None:
        ours, its = socket.socketpair()
        with its, suppress(OSError):
            arguments = ["spare", "--line", str(its.fileno())]
            log = self._settings.home / "spare.log"
            self._process = spawn(arguments, log, self._settings, lent=[its.fileno()])
            self._line = ours
            return
        ours.close()

    def take(self, run: Path, log: Path, lock: int) -> "Popen[bytes] | None":
        """Has the spare train the run, with the open file `lock` as its own and its output in
        `log`; None where there is no spare. From here on it is a worker as any other, whatever it
        was doing."""
        process, line = self._process, self._line
        self._process = self._line = None
        if process is None or line is None:
            return None
        with line, suppress(OSError):
            with log.open("ab") as out:
                socket.send_fds(line, [json.dumps(str(run)).encode()], [out.fileno(), lock])
            if process.poll() is None:
                return process
        # It holds the lock no more once it is gone.
        process.kill()
        process.wait()
        return None

    def drop(self) -> None:
        """Ends it, also while it is still loading: it has no run that could be lost."""
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self._process.kill()
        self._process = self._line = None
