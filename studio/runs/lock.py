"""Locks that the kernel gives back when their holder dies, however it dies."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def try_lock(path: Path, wait_s: float = 0.0) -> Iterator[IO[str] | None]:
    """Yields the lock file at `path` if the lock is ours now; ours until the block ends, and until
    a child that inherits the file ends. Where another holds it, waits up to `wait_s` for it, and
    yields None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    yield None
                    return
                time.sleep(0.05)
            else:
                yield file
                return


def is_held(path: Path) -> bool:
    """Whether some process holds the lock. Writes nothing: a home that is only read has locks."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
