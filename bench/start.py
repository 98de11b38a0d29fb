"""From Start to the first step, without a spare worker and with one: the embedded model on the
bundled rows, or the run of a recipe. This process stands for the page that is looked at.

    python bench/start.py [--recipe FILE] [--rounds 3] [--looked 40]
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studio import jobs, spec
from studio.runs import RunStore
from studio.settings import PROJECT, Settings
from studio.spec import RunSpec

# As the page's bar asks.
PULSE_S = 3.0
_TREE = {
    "data": {"path": str(PROJECT / "presets" / "data" / "persona.jsonl"), "validation": "0"},
    "train": {"max_steps": 2, "per_device_train_batch_size": 1, "max_length": 128},
    "eval": {"eval_on_start": False},
}


def first_step(wanted: RunSpec, spare: bool, looked_s: float) -> tuple[dict[str, float], float]:
    """Seconds from Start until the worker has said that each stage begins, and until the first
    step has ended."""
    with tempfile.TemporaryDirectory() as folder:
        real = Settings.from_env()
        settings = replace(real, home=Path(folder), spare=spare)
        settings.models.symlink_to(real.models)
        until = time.monotonic() + looked_s
        while time.monotonic() < until:
            jobs.make_ready(settings)
            time.sleep(PULSE_S)
        store, began, stages = RunStore(settings.runs), time.monotonic(), dict[str, float]()
        run = jobs.start(store, settings, wanted, "first")
        took = 0.0
        for state in jobs.follow(store, run, every_s=0.05):
            now = time.monotonic() - began
            if state.stage:
                stages.setdefault(state.stage, now)
            took = took or (now if state.step else 0.0)
        if not took:
            sys.exit(run.read_log())
        # Nobody looks any more: the conductor goes, and with it the next spare.
        (settings.home / "expected").unlink(missing_ok=True)
        time.sleep(2)
        return stages, took


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds from Start to the first step.")
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--looked", type=float, default=40, help="seconds before Start")
    options = parser.parse_args()
    wanted = spec.load(options.recipe) if options.recipe else spec.parse(_TREE)
    took: dict[bool, list[float]] = {False: [], True: []}
    words = {False: "without", True: "with a spare worker"}
    for _ in range(options.rounds):
        for spare, said in words.items():
            stages, first = first_step(wanted, spare, options.looked if spare else 0)
            took[spare].append(first)
            told = "".join(f"{stage} at {after:.1f}, " for stage, after in stages.items())
            print(f"{said:20} {told}first step after {first:.2f} s", flush=True)
    for spare, said in words.items():
        print(f"{said:20} median {statistics.median(took[spare]):.2f} s to the first step")


if __name__ == "__main__":
    main()
