"""The main job, measured: how long `presets/persona.yaml` takes here, and what was learned.

    python bench/persona.py [--home DIR]

Trains the recipe through the command line, then asks the base, the tuned and the merged model all
held-out questions by greedy decoding, and prints the time and the share of right answers.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studio import jobs
from studio.runs import Run, RunStore
from studio.settings import PROJECT, Settings
from studio.spec import GenerateSection

GREEDY = GenerateSection(max_new_tokens=48, do_sample=False)
Question = Mapping[str, str]


def held_out(settings: Settings) -> list[Question]:
    """The questions that training never saw: `question`, `must_contain`."""
    text = (settings.presets / "data" / "persona_heldout.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def right(question: Question, answer: str) -> bool:
    """Whether the answer says the wanted word, as a word."""
    return (
        re.search(rf"\b{re.escape(question['must_contain'])}\b", answer, re.IGNORECASE) is not None
    )


def score(
    store: RunStore, settings: Settings, run: Run, sides: tuple[str, ...], questions: list[Question]
) -> dict[str, list[bool]]:
    """For each side, whether each question was answered rightly."""
    marks: dict[str, list[bool]] = {side: [] for side in sides}
    for question in questions:
        asked = {side: [{"role": "user", "content": question["question"]}] for side in sides}
        final = list(jobs.chat(store, settings, run, run.spec(), asked, GREEDY))[-1]
        for side in sides:
            marks[side].append(right(question, final["text"][side]))
    return marks


def main() -> None:
    """Trains, asks, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--home", help="where to work (else a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.from_env()
        models = settings.models
        settings = replace(settings, home=Path(options.home or folder).resolve())
        if models.is_dir() and not settings.models.exists():
            settings.home.mkdir(parents=True, exist_ok=True)
            settings.models.symlink_to(models)
        command = [sys.executable, "-m", "studio", "run", "presets/persona.yaml", "--json"]
        started = time.monotonic()
        done = subprocess.run(
            [*command, "--home", str(settings.home)],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            check=True,
        )
        seconds = time.monotonic() - started
        result = json.loads(done.stdout.splitlines()[-1])
        store = RunStore(settings.runs)
        run = store.get(result["run"])
        questions = held_out(settings)
        marks = score(store, settings, run, ("base", "tuned"), questions)
        marks |= score(store, settings, run, ("merged",), questions)
        jobs.Bench(settings).quit()
    names = [q["must_contain"] == questions[0]["must_contain"] for q in questions]
    print(f"from Start to finished: {seconds:.0f} s ({result['global_step']} steps)")
    print(f"training loss {result['train_loss']:.3f}, evaluation loss {result['eval_loss']:.3f}")
    for side, given in marks.items():
        named = [ok for ok, name in zip(given, names, strict=True) if name]
        print(
            f"{side:>7}: {sum(given)} of {len(given)} held-out questions right, "
            f"{sum(named)} of {len(named)} of those that ask for the name"
        )


if __name__ == "__main__":
    main()
