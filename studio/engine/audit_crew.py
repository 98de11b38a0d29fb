"""Work that several processes do together: each takes the next piece until none is left.

The processes are forks, so that they have at once what was loaded here, and share its memory.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from studio.engine.explain import explain
from studio.errors import StudioError
from studio.plan.machine import machine

_LOOK_S = 0.1
# More are seldom faster: the disk, and the one that compares in the end, are what is waited for.
_MOST = 32

Work = Callable[[int], None]


def processes() -> int:
    """How many processes can work at once on the cores that we may use."""
    # Elsewhere, libraries do not bear to be forked.
    return min(_MOST, machine().cores) if sys.platform == "linux" else 1


def share(work: Work, pieces: int, crew: int, told: Callable[[int], None]) -> None:
    """Does `work(piece)` for every piece, with `crew` processes; `told(done)` is called again and
    again and may raise to end it. Raises StudioError where a process fails or dies."""
    crew = min(crew, pieces)
    if crew < 2:
        for piece in range(pieces):
            told(piece)
            work(piece)
        told(pieces)
        return
    context = multiprocessing.get_context("fork")
    # The next piece, and how many are done.
    counts = context.Array("q", 2)
    ends = []
    members = []
    for _ in range(crew):
        ours, theirs = context.Pipe(duplex=False)
        members.append(context.Process(target=_work, args=(work, pieces, counts, theirs)))
        members[-1].start()
        # Held by the member alone: at its death, its end is the end of the pipe.
        theirs.close()
        ends.append(ours)
    try:
        _attend(ends, lambda: told(int(counts[1])))
    finally:
        for member in members:
            member.kill()
            member.join()
        for end in ends:
            end.close()


def _attend(ends: list[Connection], tell: Callable[[], None]) -> None:
    """Waits until every member has said that it is done."""
    left = list(ends)
    while left:
        for end in wait(left, _LOOK_S):
            assert isinstance(end, Connection)
            try:
                problem = end.recv()
            except EOFError:
                raise StudioError(
                    "A process that looks at the rows was killed.",
                    "It may have run out of memory: close other programs, and start again.",
                ) from None
            if problem is not None:
                raise StudioError(*problem)
            left.remove(end)
        tell()


def _work(work: Work, pieces: int, counts: Any, end: Connection) -> None:
    # What the parent does at a TERM is not for us.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = os.getppid()
    try:
        while True:
            with counts.get_lock():
                piece = counts[0]
                counts[0] += 1
            # Whoever was killed would leave us working for nobody.
            if piece >= pieces or os.getppid() != parent:
                break
            work(piece)
            with counts.get_lock():
                counts[1] += 1
        end.send(None)
    # It has to be told where somebody waits for it.
    except BaseException as error:  # noqa: BLE001
        if not isinstance(error, StudioError):
            traceback.print_exc()
        end.send(explain(error, "checking rows"))
