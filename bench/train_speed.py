"""Does training through the studio cost time? The same steps through it and through plain TRL.

One process at a time, in turn, with the same threads: studio, plain, studio, plain ... Both train
on all rows of the recipe's data without evaluation or checkpoints, so that a step is a step.
Counted is the training loop, from the third logged step to the last.

    python bench/train_speed.py [--pairs 3] [--steps 20]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studio import spec as specs
from studio.data import locate
from studio.runs import RunStore, events
from studio.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "presets" / "persona.yaml"
SKIP = 3
TARGET = 0.97


def same_settings(steps: int) -> list[str]:
    """What both leave out, and what the plain script has no option for."""
    return [
        f"train.max_steps={steps}",
        "train.logging_steps=1",
        f"train.save_steps={steps + 1000}",
        "data.validation=0",
        "eval.eval_on_start=false",
    ]


def environment() -> dict[str, str]:
    """The same threads for both, and nothing from outside."""
    threads = str(len(os.sched_getaffinity(0)))
    return {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        # As the studio's worker sets them: the trainers are compared, not the threads.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "5000",
        "THP_MEM_ALLOC_ENABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def last_json(command: Sequence[str]) -> dict[str, Any]:
    """Runs the command; its last line, read as JSON. Shows what it said if it failed."""
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def studio(home: Path, overrides: Sequence[str]) -> dict[str, float]:
    # The plain script takes the rows as they come.
    alike = [*overrides, "train.train_sampling_strategy=random"]
    sets = [part for text in alike for part in ("--set", text)]
    command = [sys.executable, "-m", "studio", "run", str(RECIPE), *sets]
    said = last_json([*command, "--json", "--home", str(home)])
    run = RunStore(home / "runs").get(said["run"])
    logged = [e for e in events.tail(run.events)[0] if e["type"] == "log" and "loss" in e]
    first, last = logged[SKIP - 1], logged[-1]
    seconds = last["time"] - first["time"]
    tokens = last.get("num_tokens", 0) - first.get("num_tokens", 0)
    return {
        "steps_per_second": (last["step"] - first["step"]) / seconds,
        "tokens_per_second": tokens / seconds,
        "tokens": tokens,
        "last_loss": last["loss"],
    }


def plain(model: Path, data: Path, spec: specs.RunSpec, steps: int) -> dict[str, float]:
    train, adapter = spec.train, spec.adapter
    options = {
        "--model": model,
        "--data": data,
        "--steps": steps,
        "--r": adapter.r,
        "--lora-alpha": adapter.lora_alpha,
        "--lora-dropout": adapter.lora_dropout,
        "--learning-rate": train.learning_rate,
        "--batch-size": train.per_device_train_batch_size,
        "--accumulation": train.gradient_accumulation_steps,
        "--max-length": train.max_length,
        "--optim": train.optim,
        "--scheduler": train.lr_scheduler_type,
        "--warmup-steps": train.warmup_steps,
        "--weight-decay": train.weight_decay,
        "--max-grad-norm": train.max_grad_norm,
        "--seed": train.seed,
    }
    command = [sys.executable, str(ROOT / "bench" / "plain_trl.py")]
    for name, value in options.items():
        command += [name, str(value)]
    if train.activation_checkpointing:
        command.append("--activation-checkpointing")
    return last_json(command)


def link_model(name: str, source: Path, home: Path) -> Path:
    """The model in the new home, as hard links: 269 MB that need not be copied."""
    if not (source / name).is_dir():
        sys.exit(f"There is no {source / name}. Prepare it with: python -m studio.worker setup")
    target = home / "models" / name
    try:
        shutil.copytree(source / name, target, copy_function=os.link)
    except shutil.Error:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source / name, target)
    return target


def show(results: dict[str, list[dict[str, float]]]) -> None:
    print(f"{'':8}{'steps/s':>10}{'tokens/s':>10}{'tokens':>8}{'last loss':>11}")
    for name, rows in results.items():
        for row in rows:
            print(
                f"{name:8}{row['steps_per_second']:>10.4f}{row['tokens_per_second']:>10.1f}"
                f"{row['tokens']:>8.0f}{row['last_loss']:>11.4f}"
            )
    rates = {n: [r["steps_per_second"] for r in rows] for n, rows in results.items()}
    median = {name: statistics.median(values) for name, values in rates.items()}
    ratio = median["studio"] / median["plain"]
    pairs = [s / p for s, p in zip(rates["studio"], rates["plain"], strict=True)]
    print(f"pairs: {', '.join(f'{p:.3f}' for p in pairs)}")
    met = "yes" if ratio >= TARGET else "NO"
    print(f"ratio of the medians: {ratio:.3f} (at least {TARGET}: {met})")


def main() -> None:
    parser = argparse.ArgumentParser(description="The studio's speed beside plain TRL's.")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    overrides = same_settings(options.steps)
    settings = Settings.from_env()
    spec = specs.load(RECIPE, overrides)
    data = locate(spec.data.path, settings)
    if data is None:
        sys.exit(f"{RECIPE.name} takes its data from the Hub; this compares local data.")
    results: dict[str, list[dict[str, float]]] = {"studio": [], "plain": []}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        model = link_model(spec.model.name_or_path, settings.models, home)
        for pair in range(1, options.pairs + 1):
            print(f"pair {pair} of {options.pairs}", file=sys.stderr)
            results["studio"].append(studio(home, overrides))
            results["plain"].append(plain(model, data, spec, options.steps))
    show(results)


if __name__ == "__main__":
    main()
