"""How good is the planner on this machine's GPU? Runs of the studio, planned and measured.

Three models' shapes with random weights, rows of alpaca: for each, nine ways to train, with and
without quantization, checkpointing, packing and the fast path; and runs that are far too large, of
which the plan must say so. Each is a run in a process of its own, as the page would start it. What
was planned before, what two probed steps make of the plan, and what was measured become
docs/planner-gpu.md; --read makes it from the raw figures of earlier calls.

    python bench/plan_gpu.py --tokenizer FOLDER --data alpaca.json --out plan.json
    python bench/plan_gpu.py --read plan.json --write
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studio import spec as specs
from studio.jobs.plan import TIMED, usual_step
from studio.plan.known import known_config
from studio.plan.machine import machine
from studio.runs import Run, RunStore, events
from studio.spec import with_values
from studio.worker import fill_environment

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "triton", "transformers", "trl", "peft", "bitsandbytes")
MODELS = ("meta-llama/Llama-3.2-1B", "mistralai/Mistral-7B-v0.3", "Qwen/Qwen3-4B")
_PACKED = {"train.packing": True}
_KEPT = {"train.activation_checkpointing": True}
_PLAIN = {"train.engine": "plain"}
_NF4 = {"model.quantization": "nf4", "model.bnb_4bit_use_double_quant": True}
_FAST = {"train.engine": "fast", **_PACKED}


@dataclass(frozen=True)
class Case:
    """A way to train: rows of a micro-batch, their tokens, and the fields that are set besides."""

    words: str
    batch: int
    length: int
    values: dict[str, Any] = field(default_factory=dict)
    steps: int = 7
    fits: bool = True


WAYS = (
    Case("nf4, packed, checkpointing", 4, 2048, {**_PLAIN, **_NF4, **_PACKED, **_KEPT}, 5),
    Case("bf16, padded", 4, 512, _PLAIN),
    Case("bf16, packed, checkpointing", 8, 1024, {**_PLAIN, **_PACKED, **_KEPT}, 5),
    Case("nf4, padded", 8, 512, {**_PLAIN, **_NF4}),
    Case("int8, padded, checkpointing", 4, 512, {**_PLAIN, **_KEPT, "model.quantization": "int8"}),
    Case("fast, float8, packed", 4, 2048, {**_FAST, "fast.float8": True}, 12),
    Case("fast, bf16, packed", 2, 2048, _FAST, 12),
    Case("fast, nf4, packed, replayed", 4, 1024, {**_FAST, **_NF4, "fast.replay": 99}, 12),
    Case("fast, nf4, rows of any length", 8, 512, {"train.engine": "fast", **_NF4}, 24),
)
TOO_LARGE = (
    Case("bf16, packed", 24, 2048, {**_PLAIN, **_PACKED}, 3, fits=False),
    Case("fast, bf16, packed", 24, 2048, _FAST, 3, fits=False),
)


def cases(model: str) -> tuple[Case, ...]:
    """The ways, and for the largest model those that don't fit."""
    return WAYS + (TOO_LARGE if "Mistral" in model else ())


def make_model(name: str, folder: Path, tokenizer: Path) -> None:
    """Writes random weights in bfloat16, in a process that then ends."""
    code = (
        "import json, sys, torch\n"
        "from transformers import AutoConfig, AutoModelForCausalLM\n"
        "told = json.loads(sys.argv[1])\n"
        "config = AutoConfig.for_model(told.pop('model_type'), **told, dtype='bfloat16')\n"
        "torch.set_default_dtype(torch.bfloat16)\n"
        "with torch.device('cuda'):\n"
        "    model = AutoModelForCausalLM.from_config(config)\n"
        "model.save_pretrained(sys.argv[2])\n"
    )
    told = {**(known_config(name) or {}), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    # The text's tokenizer has more tokens than Mistral's own.
    told["vocab_size"] = max(told["vocab_size"], 49_152)
    told["max_position_embeddings"] = min(told["max_position_embeddings"], 8192)
    subprocess.run([sys.executable, "-c", code, json.dumps(told), str(folder)], check=True)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)


def spec_of(case: Case, model: Path, data: Path) -> specs.RunSpec:
    return with_values(
        specs.DEFAULTS,
        {
            "model.name_or_path": str(model),
            "data.path": str(data),
            "data.validation": "0",
            "data.train_on": "everything",
            "data.accepted": ["duplicate", "near_duplicate", "cut"],
            "adapter.r": 16,
            "adapter.target_modules": "all-linear",
            "train.max_steps": case.steps,
            "train.max_length": case.length,
            "train.per_device_train_batch_size": case.batch,
            "train.gradient_accumulation_steps": 1,
            "train.lr_scheduler_type": "constant",
            "train.logging_steps": 1,
            "train.save_strategy": "no",
            "eval.eval_strategy": "no",
            "eval.eval_on_start": False,
            **case.values,
        },
    )


def waiting(home: Path) -> "subprocess.Popen[str]":
    """A process that has the large libraries and waits for its run. It leaves the GPU alone until
    then, whose memory is measured."""
    env = {**os.environ, "STUDIO_HOME": str(home), "STUDIO_WORKSPACE": str(home)}
    fill_environment(env)
    return subprocess.Popen(
        [sys.executable, __file__, "--child"], env=env, stdin=subprocess.PIPE, text=True
    )


def child() -> None:
    """Trains the run whose folder comes on stdin, and notes beside it what a probe would have
    seen after its steps."""
    import datasets  # noqa: F401
    import torch
    import transformers.trainer  # noqa: F401

    path, after = sys.stdin.readline().split("\t")
    from studio import worker
    from studio.engine import gauges, train

    class Watched(gauges.Gauges):
        plan: Any = None

        def measured(self) -> dict[str, Any]:
            allocated, context = torch.cuda.max_memory_allocated(), self._memory._context
            return {**super().measured(), "allocated": allocated, "context": context}

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_step_end(args, state, control, **kwargs)
            if state.global_step == int(after):
                told = self.plan.beside(self.measured())
                (Path(path) / "probed.json").write_text(json.dumps(told))

    def forecast(*given: Any) -> Any:
        Watched.plan = planned(*given)
        return Watched.plan

    planned = vars(train)["forecast"]
    for name, made in {"Gauges": Watched, "forecast": forecast}.items():
        setattr(train, name, made)
    log = os.open(Path(path) / "log.txt", os.O_WRONLY | os.O_CREAT)
    for number in (1, 2):
        os.dup2(log, number)
    sys.exit(worker.main(["train", path]))


def figures(run: Run, free: int) -> dict[str, Any]:
    """What the run planned and took; `free` was the GPU's memory before."""
    told = list(events.read(run.events))
    found: dict[str, Any] = {e["type"]: e for e in told if e["type"] in ("predicted", "measured")}
    points = [e for e in told if e["type"] == "log"]
    started = [e for e in told if e["type"] == "start"]
    found |= {
        "device": started[0]["device"] if started else "",
        "engine": started[0]["engine"] if started else "",
        "notes": [e["text"] for e in told if e["type"] == "note"],
        "end": next((e for e in reversed(told) if e["type"] == "end"), {}),
        "steps_s": [round(b["time"] - a["time"], 4) for a, b in pairwise(points)],
        "speeds": [p.get("tokens_per_second") for p in points],
        "tokens": [p["num_tokens"] for p in points],
        "losses": [round(p["loss"], 4) for p in points],
    }
    if started and told:
        found["to_training_s"] = round(started[0]["time"] - told[0]["time"], 1)
        found["to_first_step_s"] = round(points[0]["time"] - told[0]["time"], 1) if points else None
    found["said_fits"] = found.get("predicted", {}).get("raw_memory", 0) < free
    probed = run.path / "probed.json"
    if probed.exists():
        found["probed"] = json.loads(probed.read_text())
    return found


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every case of every model, written down as it comes."""
    home, found = options.work, []
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRITON_CACHE_DIR": str(home / "triton")}
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(home / "inductor")
    data = Path(shutil.copy(options.data, home))
    chosen = [m for m in MODELS if not options.only or options.only in m]
    free = machine().free
    later = waiting(home)
    for name in chosen:
        folder = home / name.rpartition("/")[2]
        make_model(name, folder, options.tokenizer)
        for case in cases(name):
            process, began = later, time.monotonic()
            spec = spec_of(case, folder, data)
            run = RunStore(home / "runs").create(spec, "plan")
            if (name, case) != (chosen[-1], cases(chosen[-1])[-1]):
                later = waiting(home)
            try:
                process.communicate(f"{run.path}\t{1 + TIMED['gpu']}\n", timeout=150)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            row = {"model": name, "case": asdict(case), **figures(run, free)}
            row["versions"] = {n: version(n) for n in LIBRARIES}
            row["wall_s"] = round(time.monotonic() - began, 1)
            if "measured" not in row:
                row["log"] = run.log.read_text(errors="replace")[-2500:] if run.log.exists() else ""
            found.append(row)
            options.out.write_text(json.dumps(found), encoding="utf-8")
            print(line_of(row), row["wall_s"], flush=True)
            if "measured" not in row and case.fits:
                print(row["end"], row["log"], file=sys.stderr, flush=True)
        shutil.rmtree(folder)
    return found


@dataclass(frozen=True)
class Errors:
    """Of a run: how far memory and time of a step were off, planned over measured less one; and
    after its probe."""

    memory: float
    probed_memory: float
    time: float
    probed_time: float


def usual_s(row: dict[str, Any]) -> float:
    """Seconds of a step once all is compiled and recorded."""
    return float(median(row["steps_s"]))


def errors(row: dict[str, Any]) -> Errors:
    planned, taken, probed = row["predicted"], row["measured"], row["probed"]
    steps = planned["raw_seconds"] / planned["steps"]
    usual = usual_s(row)
    factor = probed["memory"] / probed["raw_memory"]
    # As a probe that ends after its steps sees them.
    at = [0.0, *accumulate(row["steps_s"])]
    points = [{"time": t, "num_tokens": n} for t, n in zip(at, row["tokens"], strict=True)]
    tokens = row["tokens"][-1] / len(points)
    probed_s = usual_step(points[: 1 + TIMED["gpu"]], tokens)
    return Errors(
        planned["raw_memory"] / taken["memory"] - 1,
        planned["raw_memory"] * factor / taken["memory"] - 1,
        steps / usual - 1,
        probed_s / usual - 1,
    )


def line_of(row: dict[str, Any]) -> str:
    """A row of the table, in Markdown."""
    case = row["case"]
    batch = f"{case['batch']} x {case['length']}"
    head = f"| {row['model'].rpartition('/')[2]} | {batch} | {case['words']} |"
    gib = 2**30
    planned = row.get("predicted", {})
    if "measured" not in row or "probed" not in row:
        what = "out of memory" if "memory" in str(row["end"]).lower() else "failed"
        return f"{head} {planned.get('raw_memory', 0) / gib:.2f} | {what} | | | | | | |"
    taken, off = row["measured"], errors(row)
    return (
        f"{head} {planned['raw_memory'] / gib:.2f} | {taken['memory'] / gib:.2f} | "
        f"{off.memory:+.1%} | {off.probed_memory:+.1%} | "
        f"{planned['raw_seconds'] / planned['steps']:.3f} | {usual_s(row):.3f} | "
        f"{off.time:+.0%} | {off.probed_time:+.0%} |"
    )


HEAD = (
    "| model | micro-batch | settings | planned GiB | measured | error | after the probe | "
    "planned s/step | measured | error | after the probe |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def spread(found: list[float], most: float) -> str:
    inside = sum(abs(e) <= most for e in found)
    return (
        f"half of them within {median(map(abs, found)):.1%}, the worst "
        f"{max(found, key=abs):+.1%}; {inside} of {len(found)} within {most:.0%}"
    )


def page(found: list[dict[str, Any]], note: str) -> str:
    """docs/planner-gpu.md."""
    good = [row for row in found if "measured" in row and "probed" in row]
    large = [row for row in found if not row["case"]["fits"]]
    off = [errors(row) for row in good]
    libraries = next(row["versions"] for row in found)
    return (
        "# The planner on a GPU, held against measurements\n\n"
        f"Written by `bench/plan_gpu.py`. {good[0]['device']}; "
        + ", ".join(f"{name} {number}" for name, number in libraries.items())
        + ".\n\nRandom weights of the shapes, rows of alpaca, r = 16 on "
        "all linear layers, AdamW. Memory is what the process takes of the GPU at its peak: what "
        "torch's allocator has reserved, and the context. Planned is by the formulas alone; after "
        "the probe, corrected by what the run's first steps took. A step's time is the median once "
        "all is compiled.\n\n"
        + HEAD
        + "\n".join(line_of(row) for row in found)
        + f"\n\nMemory before the run: {spread([e.memory for e in off], 0.10)}. "
        f"After the probe: {spread([e.probed_memory for e in off], 0.05)}.\n"
        f"Time before the run: {spread([e.time for e in off], 0.15)}. "
        f"After the probe: {spread([e.probed_time for e in off], 0.15)}.\n"
        f"Of {len(large)} that are too large, the plan said so of "
        f"{sum(not row['said_fits'] for row in large)}; of the {len(good)} that ran, the plan said "
        f"of {sum(row['said_fits'] for row in good)} that they fit.\n"
        + (f"\n{note}\n" if note else "")
    )


def main() -> None:
    if sys.argv[1:] == ["--child"]:
        child()
    parser = argparse.ArgumentParser(description="The planner beside measurements on this GPU.")
    parser.add_argument("--tokenizer", type=Path, help="folder with its files")
    parser.add_argument("--data", type=Path, help="json in alpaca's layout")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--work", type=Path, default=Path("gpu-bench"), help="for the weights")
    parser.add_argument("--out", type=Path, default=Path("plan-gpu.json"), help="raw figures")
    parser.add_argument("--read", type=Path, nargs="+", help="raw figures of earlier calls")
    parser.add_argument("--write", action="store_true", help="write docs/planner-gpu.md")
    parser.add_argument("--note", default="", help="a paragraph below the table")
    options = parser.parse_args()
    if not options.read and not (options.tokenizer and options.data):
        parser.error("--tokenizer and --data are needed, or --read")
    for name in ("tokenizer", "data", "work", "out"):
        value = getattr(options, name)
        setattr(options, name, value.resolve() if value else None)
    print(HEAD, end="", flush=True)
    if options.read:
        found = [row for path in options.read for row in json.loads(path.read_text("utf-8"))]
        print("\n".join(line_of(row) for row in found))
    else:
        options.work.mkdir(parents=True, exist_ok=True)
        found = run_all(options)
    if options.write:
        (ROOT / "docs" / "planner-gpu.md").write_text(page(found, options.note), "utf-8")


if __name__ == "__main__":
    main()
