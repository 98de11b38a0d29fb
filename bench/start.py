"""From Start to the first step, with a spare worker and without: the embedded model on the bundled
rows, each beside a server whose page is looked at.

    python bench/start.py [--rounds 3]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from web_start import ROOT, answers, free_port, started

from studio import jobs
from studio.runs import RunStore
from studio.settings import Settings
from studio.spec import parse

# A page that is looked at asks this; and for how long it is, before somebody presses Start.
PULSE = '/poll?[["pulse",{}]]'
LOOKED_S = 40.0
_TREE = {
    "data": {"path": str(ROOT / "presets" / "data" / "persona.jsonl"), "validation": "0"},
    "train": {"max_steps": 2, "per_device_train_batch_size": 1, "max_length": 128},
    "eval": {"eval_on_start": False},
}


def first_step(spare: bool) -> tuple[float, float]:
    """Seconds from Start until a worker says what it does, and until the first step's end."""
    with tempfile.TemporaryDirectory() as folder:
        home, port = Path(folder), free_port()
        (home / "models").symlink_to(Settings.from_env().models)
        settings = replace(Settings.from_env({"STUDIO_HOME": folder}), workspace=ROOT, spare=spare)
        os.environ["STUDIO_SPARE"] = str(int(spare))
        page = f"http://127.0.0.1:{port}"
        with started(ROOT / "app.py", port, home):
            while not answers(page):
                time.sleep(0.2)
            until = time.monotonic() + LOOKED_S
            while time.monotonic() < until:
                urllib.request.urlopen(page + urllib.request.quote(PULSE, "/?")).close()  # type: ignore[attr-defined]
                time.sleep(3)
            store, began = RunStore(settings.runs), time.monotonic()
            run = jobs.start(store, settings, parse(_TREE), "first")
            said = 0.0
            for state in jobs.follow(store, run, every_s=0.05):
                said = said or (state.stage and time.monotonic() - began) or 0.0
                if state.step:
                    took = time.monotonic() - began
                    break
            else:
                sys.exit(run.read_log())
            for _ in jobs.follow(store, run):
                pass
            return said, took


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds from Start to the first step.")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    took: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(options.rounds):
        for spare in (False, True):
            said, first = first_step(spare)
            took[spare].append(first)
            words = "with a spare worker" if spare else "without"
            print(f"{words:20} begins after {said:.2f} s, first step {first:.2f} s", flush=True)
    for spare, words in ((False, "without"), (True, "with a spare worker")):
        print(f"{words:20} median {statistics.median(took[spare]):.2f} s to the first step")


if __name__ == "__main__":
    main()
