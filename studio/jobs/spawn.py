"""Starting a worker that outlives us."""

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.settings import PROJECT, Settings

_STEPS_BACK = 15
_starter: ThreadPoolExecutor | None = None


def spawn(
    args: list[str], log: Path, settings: Settings, lent: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    """Starts `python -m studio.worker ARGS` as a session of its own.

    Its output goes to the file `log`, never to a pipe that somebody would have to drain; the open
    files `lent` become its own, under their numbers.
    """
    compiled = settings.home / "compiled"
    env = {
        **os.environ,
        "STUDIO_HOME": str(settings.home),
        "STUDIO_WORKSPACE": str(settings.workspace),
        "STUDIO_BENCH_IDLE": str(int(settings.bench_idle_s)),
        "STUDIO_SPARE": str(int(settings.spare)),
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(PROJECT)])),
        "PYTHONUNBUFFERED": "1",
        # What was compiled for one run is there for the next, after a restart of the machine, too.
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", f"{compiled}"),
        "TRITON_CACHE_DIR": os.environ.get("TRITON_CACHE_DIR", f"{compiled / 'triton'}"),
    }
    with log.open("ab") as out:
        process = _started(
            [sys.executable, "-m", "studio.worker", *args],
            cwd=PROJECT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=lent,
        )
    # Somebody must collect the exit code, or the ended worker stays in the table as a zombie.
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def _started(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, text=False, **options)

    return start() if _starter is None else _starter.submit(start).result()


def give_way() -> None:
    """Has this thread and those that it starts leave the cores to what `spawn` starts: where both
    want them, that gets nearly all. A run's threads wait for each other, so that one that is held
    up for a request holds up all of them."""
    global _starter
    if _starter is None and hasattr(os, "nice"):
        _starter = ThreadPoolExecutor(1, "spawn")
        # The thread is there before we step back, so that what it starts does not.
        _starter.submit(lambda: None).result()
        os.nice(_STEPS_BACK)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Makes the folder, and turns a full or read-only disk into words."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StudioError(
            f"{folder} can't be written: {error.strerror}.",
            "Free some disk, or set STUDIO_HOME to a folder that is yours.",
        ) from None


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Lets one process at a time through, by a lock that the kernel takes back."""
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
