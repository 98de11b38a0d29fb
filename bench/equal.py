"""Does the fast path compute what the plain one computes? Writes docs/equality.md.

Of each family a tiny model with random weights, in float32 on the CPU: the fast path's loss and
adapter gradients beside transformers' and PEFT's own, for each ingredient. And the embedded model
trained on the persona recipe with exact and with float8 weights: float8's products are computed
from the same rounded numbers as on a GPU, but summed in float32, so this tells what the rounding
does to a run, not how fast it is.

    python bench/equal.py [--steps 60] [--out docs/equality.md]
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from train_speed import link_model

from studio import spec as specs
from studio.runs import RunStore, events
from studio.settings import PROJECT, Settings
from studio.spec import with_values

ROOT = Path(__file__).resolve().parent.parent
_TENTH = 10
_CHILD = (
    "import sys\n"
    "sys.path.insert(0, {root!r})\n"
    "from studio.engine.fast import apply\n"
    "from studio.plan import possible\n"
    "sys.modules['studio.engine.fast.apply'].machine_reasons = lambda *_: []\n"
    "possible._engine = lambda *_: iter(())\n"
    "from studio import worker\n"
    "sys.exit(worker.main(['train', {run!r}]))\n"
)


def equalities() -> Iterator[tuple[str, str, float, float]]:
    """Family, ingredient, and the relative distances of loss and gradients."""
    import torch

    from studio.engine.fast import Plan
    from studio.engine.fast.batch import Flat
    from tests.engine import test_fast_model as tiny

    ingredients: dict[str, tuple[Plan, int | None, dict[str, Any]]] = {
        "documents in one row": (Plan(), None, {}),
        "filled up with padding": (Plan(), 100, {}),
        "two layers replayed": (Plan(replay=2), None, {}),
        "loss in chunks of 16 tokens": (Plan(chunk=16), None, {}),
        "rank-stabilized": (Plan(), None, {"use_rslora": True, "r": 9}),
    }
    for family, config in tiny.FAMILIES.items():
        for words, (plan, tokens, changes) in ingredients.items():
            model = tiny.lora(config(), **changes)
            expected = tiny.plain_loss(model, tiny.COUNT)
            expected.backward()
            wanted = tiny.gradients(model)
            fast = tiny.applied(model, plan)
            batch = Flat(0, longest=30, tokens=tokens)(tiny.examples())
            loss, _ = fast.step(batch, torch.tensor(tiny.COUNT))
            found = tiny.gradients(model)
            above = sum(float((found[n] - wanted[n]).double().norm() ** 2) for n in wanted)
            below = sum(float(w.double().norm() ** 2) for w in wanted.values())
            yield (
                family,
                words,
                float(abs(loss.detach() / expected.detach() - 1)),
                (above / below) ** 0.5,
            )


def curve(home: Path, steps: int, *, float8: bool) -> dict[str, list[float]]:
    """Losses of training and of the held-out rows."""
    import subprocess

    spec = with_values(
        specs.load(PROJECT / "presets" / "persona.yaml"),
        {
            "train.engine": "fast",
            "train.max_steps": steps,
            "train.logging_steps": 1,
            "train.save_strategy": "no",
            "eval.eval_steps": max(1, steps // 3),
            "fast.float8": float8,
        },
    )
    run = RunStore(home / "runs").create(spec, "float8" if float8 else "exact")
    env = {**os.environ, "STUDIO_HOME": str(home), "STUDIO_WORKSPACE": str(home)}
    code = _CHILD.format(root=str(ROOT), run=str(run.path))
    with run.log.open("w") as log:
        done = subprocess.run([sys.executable, "-c", code], env=env, stdout=log, stderr=log)
    told = list(events.read(run.events))
    if done.returncode:
        sys.exit(f"{told[-1:]}\n{run.read_log()[-2000:]}")
    engine = next(e["engine"] for e in told if e["type"] == "start")
    notes = [e["text"] for e in told if e["type"] == "note"]
    assert engine.startswith("fast") and not any("as they were loaded" in n for n in notes), notes
    return {
        "train": [e["loss"] for e in told if e["type"] == "log"],
        "eval": [e["eval_loss"] for e in told if e["type"] == "eval"],
    }


def by_tenths(losses: list[float]) -> list[float]:
    size = max(1, len(losses) // _TENTH)
    return [mean(losses[at : at + size]) for at in range(0, size * _TENTH, size)]


def page(rows: list[tuple[str, str, float, float]], curves: dict[str, Any], steps: int) -> str:
    """docs/equality.md."""
    libraries = ", ".join(f"{n} {version(n)}" for n in ("torch", "transformers", "trl", "peft"))
    worst = max(gradients for *_, gradients in rows)
    table = "".join(f"| {f} | {w} | {a:.1e} | {b:.1e} |\n" for f, w, a, b in rows)
    exact, float8 = curves["exact"], curves["float8"]
    pairs = zip(by_tenths(exact["train"]), by_tenths(float8["train"]), strict=True)
    training = "".join(
        f"| {n} of {_TENTH} | {a:.4f} | {b:.4f} | {b / a - 1:+.2%} |\n"
        for n, (a, b) in enumerate(pairs, 1)
    )
    held = zip(exact["eval"], float8["eval"], strict=True)
    evaluated = "".join(
        f"| evaluation {n} | {a:.4f} | {b:.4f} | {b / a - 1:+.2%} |\n"
        for n, (a, b) in enumerate(held)
    )
    return (
        "# The fast path, held against the plain one\n\n"
        f"Written by `bench/equal.py`, on a CPU in float32, with {libraries}.\n\n"
        "## Loss and gradients\n\n"
        "Tiny models with random weights and LoRA on all linear layers; four documents in three "
        "rows, some tokens not scored. The plain path computes each document by itself. Distances "
        "are relative: of the loss, and of all adapter gradients together. float32 itself leaves "
        f"some 1e-6; the worst below is {worst:.1e}. The tests hold every one of these, compiled "
        "layers, 4-bit weights (decoded bit for bit as bitsandbytes does) and dropout (the same "
        "drawn) as well; those under `pytest -m gpu` hold bfloat16 to 1.3 times plain PEFT's own "
        "distance from float32.\n\n"
        "| family | what | loss | gradients |\n| --- | --- | --- | --- |\n"
        f"{table}\n"
        "## What float8 does to a run\n\n"
        f"The embedded model on the persona recipe, {steps} steps, the same seed and rows, with "
        "exact weights and with weights and inputs rounded to float8 (sums in float32). Training "
        "loss by tenths of the run, and the loss of the held-back rows.\n\n"
        "| when | exact | float8 | difference |\n| --- | --- | --- | --- |\n"
        f"{training}{evaluated}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="The fast path beside the plain one.")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "equality.md")
    parser.add_argument("--curves", type=Path, help="raw curves of an earlier call")
    options = parser.parse_args()
    if options.curves:
        curves = json.loads(options.curves.read_text(encoding="utf-8"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            link_model("SmolLM2-135M-Instruct", Settings.from_env().models, Path(folder))
            ways = {"exact": False, "float8": True}
            curves = {n: curve(Path(folder), options.steps, float8=w) for n, w in ways.items()}
        print(json.dumps(curves))
    options.out.write_text(page(list(equalities()), curves, options.steps), encoding="utf-8")
    print(f"{options.out} is written.")


if __name__ == "__main__":
    main()
