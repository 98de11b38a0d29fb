"""Starting workers, and a report that remembers."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from studio.engine.report import Stopped
from studio.runs import Run, events
from studio.settings import PROJECT, Settings


def child_env(settings: Settings, **more: str) -> dict[str, str]:
    """A worker's environment: its own home, no network, one thread."""
    return {
        **os.environ,
        "STUDIO_HOME": str(settings.home),
        "STUDIO_WORKSPACE": str(settings.workspace),
        "STUDIO_BENCH_IDLE": str(int(settings.bench_idle_s)),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **more,
    }


def start_worker(settings: Settings, *arguments: str, **env: str) -> subprocess.Popen[str]:
    """`python -m studio.worker ARGUMENTS`, as a page would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "studio.worker", *arguments],
        cwd=PROJECT,
        env=child_env(settings, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(run: Run) -> dict[str, Any]:
    """The run's last event."""
    return events.tail(run.events)[0][-1]


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Returns once `true()` is; fails the test where that takes too long."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


class Recorder:
    """A report, or a channel, that remembers what it was told and stops when it is told to."""

    def __init__(self, stop_at: str | None = None) -> None:
        self.stages: list[str] = []
        self.counts: list[tuple[int | None, int | None]] = []
        self.notes: list[str] = []
        self.deltas: list[dict[str, str]] = []
        self.stop_after_deltas: int | None = None
        self._stop_at = stop_at

    def stage(self, text: str, done: int | None = None, total: int | None = None) -> None:
        if self._stop_at is not None and text.startswith(self._stop_at):
            raise Stopped
        self.stages.append(text)
        self.counts.append((done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def send(self, **reply: Any) -> None:
        self.deltas.append(reply["delta"])

    def stopped(self) -> bool:
        return self.stop_after_deltas is not None and len(self.deltas) >= self.stop_after_deltas

    def said(self, side: str) -> str:
        """All that was streamed for a side."""
        return "".join(delta.get(side, "") for delta in self.deltas)
