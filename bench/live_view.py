"""Does the live view get slower as a run gets longer? One tick after one new step, at step 100
and at step 100,000: the bytes it sends and the server's time for it.

    python bench/live_view.py [--ticks 400]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studio.runs import Run, RunStore, events, files
from studio.spec import DEFAULTS
from studio.ui.live import tick

LENGTHS = (100, 100_000)
Tick = Callable[[Any, RunStore], dict[str, Any]]


def log_event(step: int) -> dict[str, Any]:
    """A step as the worker writes it, 0.4 s after the one before."""
    return {
        "time": round(1_800_000_000 + 0.4 * step, 3),
        "type": "log",
        "step": step,
        "epoch": round(step / 500, 4),
        "loss": round(0.8 + 2.5 / (1 + step / 40), 4),
        "learning_rate": round(2e-4 * (1 - step / 200_000), 9),
        "grad_norm": round(0.7 + step % 97 / 100, 4),
        "num_tokens": 4096 * step,
        "tokens_per_second": round(10_000 + step % 89 * 1.1, 1),
    }


def build(store: RunStore, length: int) -> Run:
    """A run in progress that has logged `length` steps; its worker is this process."""
    run = store.create(DEFAULTS, f"length-{length}")
    files.write_process(run.pid, os.getpid())
    start = {"type": "start", "time": 1_800_000_000.0, "max_steps": 200_000, "train_rows": 150}
    with run.events.open("w", encoding="utf-8") as file:
        for event in (start, *(log_event(step) for step in range(1, length + 1))):
            file.write(json.dumps(event) + "\n")
    return run


class Viewer:
    """A page that follows one run: caught up at first, then one tick for each new step."""

    def __init__(self, store: RunStore, run: Run, length: int) -> None:
        self.store, self.run, self.step = store, run, length
        self.request: dict[str, Any] = {"run": run.id, "offset": 0}
        self.sizes: list[int] = []
        self.times: list[float] = []
        self.ask()

    def ask(self) -> tuple[int, float, dict[str, Any]]:
        """(bytes both ways, seconds, answer) of a tick; the next one asks from where it ended."""
        began = time.perf_counter()
        answer = tick(self.request, self.store)
        text = json.dumps(answer)
        seconds = time.perf_counter() - began
        size = len(text.encode()) + len(json.dumps(self.request))
        self.request["offset"] = answer["offset"]
        return size, seconds, answer

    def follow(self) -> None:
        """One more step, and the tick that brings it."""
        self.step += 1
        events.append(self.run.events, log_event(self.step))
        size, seconds, answer = self.ask()
        assert len(answer["points"]) == 1, answer
        self.sizes.append(size)
        self.times.append(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a tick of the live view.")
    parser.add_argument("--ticks", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(Path(folder))
        viewers = [Viewer(store, build(store, length), length) for length in LENGTHS]
        for _ in range(options.ticks):
            for viewer in viewers:  # in turn, so that a busy moment hits both
                viewer.follow()
    print(f"{'at step':>10}{'bytes a tick':>15}{'server ms':>12}")
    rows = []
    for length, viewer in zip(LENGTHS, viewers, strict=True):
        rows.append((statistics.median(viewer.sizes), statistics.median(viewer.times)))
        print(f"{length:>10,}{rows[-1][0]:>15.0f}{rows[-1][1] * 1000:>12.3f}")
    ratios = [late / early for early, late in zip(*rows, strict=True)]
    within = all(abs(ratio - 1) <= 0.1 for ratio in ratios)
    print(f"{'ratio':>10}{ratios[0]:>15.3f}{ratios[1]:>12.3f}")
    print(f"within 10 %: {'yes' if within else 'NO'}")


if __name__ == "__main__":
    main()
