"""How long work says what it is doing, and how it learns that it should stop."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from studio.runs import events

# Readers look a few times a second: more often than this a count only fills the disk.
_COUNT_EVERY_S = 0.1
_SYNC_EVERY_S = 1.0
_LASTING = ("attempt", "save", "change", "end")
# An end, and the traceback in the log.
_RESERVE = 2**16


class Stopped(BaseException):
    """Somebody asked for the work to end.

    No `Exception`, so that no library's `except Exception` takes a stop for an error of its own.
    """


class Report(Protocol):
    """Where progress goes. `stage` may raise `Stopped`."""

    def stage(self, text: str, done: int | None = None, total: int | None = None) -> None:
        """What is being done now, in words, with a count where there is one."""

    def note(self, text: str) -> None:
        """Something the person should know."""


class Throttle:
    """Lets every new stage through; of a count the last, and one value in a tenth of a second."""

    def __init__(self) -> None:
        self._kind = ""
        self._last = 0.0

    def passes(self, text: str, done: int | None, total: int | None) -> bool:
        """Whether this stage is worth telling."""
        # "tokenizing 120 of 150" and "tokenizing 121 of 150" are one kind of stage.
        kind = "".join(c for c in text if not c.isdigit())
        now = time.monotonic()
        if (
            kind == self._kind
            and done is not None
            and done != total
            and now - self._last < _COUNT_EVERY_S
        ):
            return False
        self._kind, self._last = kind, now
        return True


class Reporter:
    """Writes a run's (or an export's) events. `stop` is the file whose presence asks to stop.

    Times go on as the seconds do, whatever is done to the clock. Beside the log lies a reserve of
    some room, so that a worker can say that the disk is full.
    """

    def __init__(self, path: Path, stop: Path | None = None) -> None:
        self._path = path
        self._stop = stop
        self._throttle = Throttle()
        self._reserve = path.with_name(f".{path.name}.reserve")
        self._clock = time.time() - time.monotonic()
        self._synced = 0.0
        self.current = "starting"

    def keep_reserve(self) -> None:
        """Takes the room; where there is none, whoever writes next says so."""
        with suppress(OSError):
            self._reserve.write_bytes(bytes(_RESERVE))

    def drop_reserve(self) -> None:
        """Gives the room back."""
        with suppress(OSError):
            self._reserve.unlink(missing_ok=True)

    def should_stop(self) -> bool:
        """Whether the stop file is there; costs a microsecond or two."""
        return self._stop is not None and os.path.exists(self._stop)  # noqa: PTH110 - half of Path's cost, at every step

    def stage(self, text: str, done: int | None = None, total: int | None = None) -> None:
        """Writes a stage, at most ten counts a second. Raises Stopped where a stop is asked for."""
        if self.should_stop():
            raise Stopped
        self.tell(text, done, total)

    def tell(self, text: str, done: int | None = None, total: int | None = None) -> None:
        """Like `stage`, for where a stop has to wait."""
        self.current = text
        if self._throttle.passes(text, done, total):
            counts = {} if done is None else {"done": done, "total": total}
            self.event("stage", text=text, **counts)

    def note(self, text: str) -> None:
        """Writes a note."""
        self.event("note", text=text)

    def end(self, status: str, **values: Any) -> None:
        """Writes the last event: finished, stopped or failed."""
        self.drop_reserve()
        self.event("end", status=status, **values)

    def event(self, kind: str, **values: Any) -> None:
        """Writes one event of `studio.runs.events`. Raises ValueError for NaN and infinity.

        What was reported a second ago outlives a machine that loses power; an end, and what a
        resume counts on, at once.
        """
        now = time.monotonic()
        due = kind in _LASTING or now - self._synced >= _SYNC_EVERY_S
        if due:
            self._synced = now
        event = {"type": kind, "time": round(self._clock + now, 3), **values}
        events.append(self._path, event, sync=due)
