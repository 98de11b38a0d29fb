"""Is what auto chooses on a CPU faster than a widely read tutorial's settings?

The tutorial (seed 001): nf4 without double quantization, r = 8, four padded rows a step,
activation checkpointing, AdamW in 32 bits; in its bfloat16 and in float32. auto: what the planner
chooses for the same recipe, with the same rows a step. All train the embedded model through the
studio, in turn, one process at a time; counted are real tokens (no padding) from the third step
to the last.

    python bench/cpu_auto.py [--rounds 3] [--steps 14]
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from train_speed import SKIP, last_json, link_model

from studio import spec as specs
from studio.data import open_data
from studio.data.measure import characters
from studio.plan.auto import Choice, choose
from studio.plan.lengths import Rows
from studio.plan.machine import machine
from studio.plan.model import summarize
from studio.runs import RunStore, events
from studio.settings import Settings
from studio.spec import RunSpec, with_values

TARGET = 1.5
_TUTORIAL: dict[str, Any] = {
    "model.quantization": "nf4",
    "model.bnb_4bit_use_double_quant": False,
    "adapter.r": 8,
    "adapter.lora_alpha": 16,
    "train.per_device_train_batch_size": 4,
    "train.activation_checkpointing": True,
    # paged_adamw_32bit needs a GPU; this is the same without the paging.
    "train.optim": "adamw_torch",
    "train.learning_rate": 2e-4,
    "train.weight_decay": 0.001,
    "train.engine": "plain",
    "train.logging_steps": 1,
    "train.save_steps": 100_000,
    "data.validation": "0",
    "eval.eval_strategy": "no",
    "eval.eval_on_start": False,
}


def tutorial(steps: int, dtype: str) -> RunSpec:
    """The tutorial's settings on the bundled rows and the embedded model."""
    own = {"train.max_steps": steps, "model.dtype": dtype}
    return with_values(specs.DEFAULTS, _TUTORIAL | own)


def chosen(settings: Settings, spec: RunSpec) -> Choice:
    """What auto makes of it; the plain engine was only said to keep the tutorial's own way."""
    spec = with_values(spec, {"train.engine": "auto"})
    data = open_data(spec.data, settings)
    rows = Rows.of_characters(data.total, 0, characters(data, 200))
    summary = summarize(spec.model.name_or_path, settings)
    choice = choose(spec, summary, machine(), rows)
    assert choice is not None
    return choice


def trained(home: Path, spec: RunSpec) -> dict[str, float]:
    """Real tokens a second, and the run's last loss."""
    recipe = home / "recipe.yaml"
    recipe.write_text(specs.dump(spec), encoding="utf-8")
    command = [sys.executable, "-m", "studio", "run", str(recipe), "--json", "--home", str(home)]
    said = last_json(command)
    run = RunStore(home / "runs").get(said["run"])
    told = list(events.read(run.events))
    points = [e for e in told if e["type"] == "log"]
    first, last = points[SKIP - 1], points[-1]
    seconds = last["time"] - first["time"]
    taken = next(e for e in told if e["type"] == "measured")
    return {
        "tokens_per_second": (last["num_tokens"] - first["num_tokens"]) / seconds,
        "loss": last["loss"],
        "peak": taken["memory"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="auto on a CPU beside a tutorial's settings.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=14)
    options = parser.parse_args()
    settings = Settings.from_env()
    lanes = {f"tutorial, {d}": tutorial(options.steps, d) for d in ("bfloat16", "float32")}
    choice = chosen(settings, lanes["tutorial, float32"])
    lanes["auto"] = choice.spec
    for reason in choice.reasons:
        print(f"auto: {reason.field} = {specs.show(reason.value)}: {reason.why}")
    results: dict[str, list[dict[str, float]]] = {name: [] for name in lanes}
    with tempfile.TemporaryDirectory() as folder:
        link_model("SmolLM2-135M-Instruct", settings.models, Path(folder))
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}", file=sys.stderr)
            for name, spec in lanes.items():
                results[name].append(trained(Path(folder), spec))
    return show(results)


def show(results: dict[str, list[dict[str, float]]]) -> int:
    """Prints the table; 0 where the target is met against both."""
    print(f"{os.cpu_count()} cores; {'real tokens/s':>28}{'loss':>9}{'peak GB':>9}")
    medians = {}
    for name, rows in results.items():
        for row in rows:
            numbers = f"{row['tokens_per_second']:>18.1f}{row['loss']:>9.3f}"
            print(f"{name:<22}{numbers}{row['peak'] / 1e9:>9.2f}")
        medians[name] = statistics.median(row["tokens_per_second"] for row in rows)
    met = True
    for name, median in medians.items():
        if name != "auto":
            ratio = medians["auto"] / median
            met = met and ratio >= TARGET
            print(f"auto against {name}: {ratio:.2f} times (at least {TARGET})")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
