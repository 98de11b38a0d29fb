"""Starting a worker that outlives us."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from studio.settings import PROJECT, Settings


def spawn(args: list[str], log: Path, settings: Settings) -> "subprocess.Popen[bytes]":
    """Starts `python -m studio.worker ARGS` as a session of its own.

    Its output goes to the file `log`, never to a pipe that somebody would have to drain.
    """
    env = {
        **os.environ,
        "STUDIO_HOME": str(settings.home),
        "STUDIO_WORKSPACE": str(settings.workspace),
        "STUDIO_BENCH_IDLE": str(int(settings.bench_idle_s)),
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(PROJECT)])),
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "studio.worker", *args],
            cwd=PROJECT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # Somebody must collect the exit code, or the ended worker stays in the table as a zombie.
    threading.Thread(target=process.wait, daemon=True).start()
    return process
