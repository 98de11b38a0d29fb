"""How good is the planner on this machine's GPU? Runs of the studio, planned and measured.

Three models' shapes with random weights, rows of alpaca: for each, nine ways to train, with and
without quantization, checkpointing, packing and the fast path; and runs that are far too large, of
which the plan must say so. Each is a run in a process of its own, as the page would start it. What
was planned before, what a probe of five steps makes of the plan, and what was measured become
docs/planner-gpu.md; --read makes it from the raw figures of earlier calls.

    python bench/plan_gpu.py --tokenizer FOLDER --data alpaca.json --out plan.json
    python bench/plan_gpu.py --read bench/plan_gpu.json --write
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median, median_low
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studio import spec as specs
from studio.jobs.probe import TIMED, memory_factor, usual_step
from studio.plan.estimate import plan
from studio.plan.gpus import with_gpu
from studio.plan.known import known_config
from studio.plan.lengths import Rows
from studio.plan.machine import Machine
from studio.plan.memory import parts
from studio.plan.model import outline
from studio.runs import Run, RunStore, events
from studio.spec import with_values
from studio.worker import fill_environment

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "triton", "transformers", "trl", "peft", "bitsandbytes")
MODELS = ("meta-llama/Llama-3.2-1B", "mistralai/Mistral-7B-v0.3", "Qwen/Qwen3-4B")
_PACKED = {"train.packing": True}
_KEPT = {"train.activation_checkpointing": True}
_PLAIN = {"train.engine": "plain"}
_TAKEN = ("memory", "allocated", "context", "most_tokens")
_NF4 = {"model.quantization": "nf4", "model.bnb_4bit_use_double_quant": True}
_FAST = {"train.engine": "fast", **_PACKED}


@dataclass(frozen=True)
class Case:
    """A way to train: rows of a micro-batch, their tokens, and the fields that are set besides."""

    words: str
    batch: int
    length: int
    values: dict[str, Any] = field(default_factory=dict)
    steps: int = 30  # the allocator has settled by the half of them
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
    Case("bf16, packed, too large", 24, 2048, {**_PLAIN, **_PACKED}, 3, fits=False),
    Case("fast, bf16, packed, too large", 24, 2048, _FAST, 3, fits=False),
)


def cases(model: str) -> tuple[Case, ...]:
    """The ways, and for the largest model those that don't fit."""
    return WAYS + (TOO_LARGE if "Mistral" in model else ())


def config_of(name: str) -> dict[str, Any]:
    """The model's sizes, but for the context, and for the vocabulary where the text's tokenizer has
    more tokens than the model's own."""
    told = known_config(name) or {}
    told["vocab_size"] = max(told["vocab_size"], 49_152)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return {**told, **ends, "max_position_embeddings": 8192}


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
        def measured(self) -> dict[str, Any]:
            allocated, context = torch.cuda.max_memory_allocated(), self._memory._context
            return {**super().measured(), "allocated": allocated, "context": context}

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_step_end(args, state, control, **kwargs)
            if state.global_step == int(after):
                taken = self.measured()
                told = {name: taken[name] for name in _TAKEN}
                (Path(path) / "probed.json").write_text(json.dumps(told))

    vars(train)["Gauges"] = Watched
    log = os.open(Path(path) / "log.txt", os.O_WRONLY | os.O_CREAT)
    for number in (1, 2):
        os.dup2(log, number)
    sys.exit(worker.main(["train", path]))


def figures(run: Run) -> dict[str, Any]:
    """What the run took."""
    told = list(events.read(run.events))
    points = [e for e in told if e["type"] == "log"]
    taken = next((e for e in told if e["type"] == "measured"), {})
    probed = run.path / "probed.json"
    return {
        "device": next((e["device"].split(",")[0] for e in told if e["type"] == "start"), ""),
        "end": next((e for e in reversed(told) if e["type"] == "end"), {}),
        "notes": [e["text"] for e in told if e["type"] == "note"],
        "steps_s": [round(b["time"] - a["time"], 4) for a, b in pairwise(points)],
        "tokens": [p["num_tokens"] for p in points],
        "to_first_step_s": round(points[0]["time"] - told[0]["time"], 1) if points else None,
        **{name: taken[name] for name in _TAKEN if taken},
        "probed": json.loads(probed.read_text()) if probed.exists() else {},
    }


def run_all(options: argparse.Namespace) -> None:
    """Every case of every model, written down as it comes."""
    # As a script this finds its neighbours; the tests, which read its figures, don't come here.
    from gpu import make_model

    home, found = options.work, list[dict[str, Any]]()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRITON_CACHE_DIR": str(home / "triton")}
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(home / "inductor")
    data = Path(shutil.copy(options.data, home))
    lengths = lengths_of(data, options.tokenizer)
    asked = {
        name: [c for c in cases(name) if any(words in c.words for words in options.case)]
        for name in MODELS
        if any(words in name for words in options.only)
    }
    left = sum(map(len, asked.values()))
    later = waiting(home)
    for name, chosen in asked.items():
        folder = home / name.rpartition("/")[2]
        make_model(config_of(name), folder, options.tokenizer)
        for case in chosen:
            process, began, left = later, time.monotonic(), left - 1
            run = RunStore(home / "runs").create(spec_of(case, folder, data), "plan")
            if left:
                later = waiting(home)
            try:
                process.communicate(f"{run.path}\t{1 + TIMED['gpu']}\n", timeout=150)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            row = {"model": name, "words": case.words, **figures(run)}
            row |= {"growing": True, "versions": {n: version(n) for n in LIBRARIES}}
            found.append(row)
            options.out.write_text(json.dumps({"lengths": lengths, "runs": found}), "utf-8")
            print(line_of(Held(row, lengths)), round(time.monotonic() - began), "s", flush=True)
            if "memory" not in row and case.fits:
                print(row["end"], run.read_log()[-2500:], file=sys.stderr, flush=True)
        shutil.rmtree(folder)


def lengths_of(data: Path, tokenizer: Path) -> list[int]:
    """Tokens of each row, as the studio renders it."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(tokenizer)
    found = []
    for row in json.loads(data.read_text(encoding="utf-8")):
        asked = "\n\n".join(filter(None, (row["instruction"], row.get("input"))))
        turns = [("user", asked), ("assistant", row["output"])]
        text = made.apply_chat_template(
            [{"role": role, "content": content} for role, content in turns], tokenize=False
        )
        found.append(len(made(text)["input_ids"]))
    return found


class Held:
    """A run beside its plan, which is made anew from the formulas as they are now. Errors are
    planned over measured, less one."""

    def __init__(self, row: dict[str, Any], lengths: list[int]) -> None:
        self.row = row
        self.case = next(c for c in cases(row["model"]) if c.words == row["words"])
        config = config_of(row["model"])
        self.summary = outline(row["model"], config)
        self.spec = spec_of(self.case, Path("model"), Path("rows.json"))
        self.rows = Rows(len(lengths), 0, tuple(lengths), True)
        here = Machine(16, 128 * 2**30, 100 * 2**30, ())
        self.machine = with_gpu(here, row["device"] or "H100 80GB HBM3") or here
        self.plan = plan(self.spec, self.summary, self.machine, self.rows)
        assert self.plan.parts is not None and self.plan.times is not None
        self.parts = self.plan.parts
        self.planned_s = self.plan.times.steps / self.plan.steps

    @property
    def ran(self) -> bool:
        """Whether it came to its end."""
        return "memory" in self.row

    @property
    def measured_s(self) -> float:
        """A usual step: the median of those in which nothing was compiled or recorded."""
        most = 1.5 * median_low(self.row["steps_s"])
        return float(median(s for s in self.row["steps_s"] if s <= most))

    def allocated(self) -> float:
        """The error of what torch calls its peak."""
        return self.parts.allocated / float(self.row["allocated"]) - 1

    def memory(self) -> float:
        """The error of all that the process took of the GPU."""
        return self.parts.total / float(self.row["memory"]) - 1

    def probed_memory(self) -> float:
        """The same after a probe."""
        probed = self.row["probed"]
        at = parts(self.spec, self.summary, self.machine, probed["most_tokens"])
        factor = memory_factor(
            self.spec, self.machine, self.plan.engine, probed["memory"] / at.total
        )
        return factor * self.parts.total / float(self.row["memory"]) - 1

    def time(self) -> float:
        """The error of a step's time."""
        return self.planned_s / self.measured_s - 1

    def probed_time(self) -> float:
        """The same after a probe, which ends after its steps."""
        at = [0.0, *accumulate(self.row["steps_s"])]
        points = [{"time": t, "num_tokens": n} for t, n in zip(at, self.row["tokens"], strict=True)]
        tokens = self.row["tokens"][-1] / len(points)
        return usual_step(points[: 1 + TIMED["gpu"]], tokens) / self.measured_s - 1


def recorded(path: Path) -> list[Held]:
    """The runs of a file of raw figures."""
    told = json.loads(path.read_text(encoding="utf-8"))
    return [Held(row, told["lengths"]) for row in told["runs"]]


def too_large(like: Held) -> list[Held]:
    """Runs beside no measurement, which the plan must say don't fit."""
    row = {**like.row, "model": next(m for m in MODELS if "Mistral" in m)}
    return [Held({**row, "words": case.words}, list(like.rows.lengths)) for case in TOO_LARGE]


def line_of(held: Held) -> str:
    """A row of the table, in Markdown."""
    row, gib = held.row, 2**30
    head = (
        f"| {row['model'].rpartition('/')[2]} | {held.case.batch} x {held.case.length} | "
        f"{row['words']} | {held.parts.allocated / gib:.2f} |"
    )
    if not held.ran:
        what = "out of memory" if "memory" in str(row["end"]).lower() else "failed"
        return f"{head} {what} | | {held.parts.total / gib:.2f} | | | | | | | |"
    whole = "| | | |"
    if row["growing"]:
        whole = (
            f"| {held.parts.total / gib:.2f} | {row['memory'] / gib:.2f} | {held.memory():+.1%} | "
            f"{held.probed_memory():+.1%} |"
        )
    return (
        f"{head} {row['allocated'] / gib:.2f} | {held.allocated():+.1%} {whole} "
        f"{held.planned_s:.3f} | {held.measured_s:.3f} | {held.time():+.0%} | "
        f"{held.probed_time():+.0%} |"
    )


HEAD = (
    "| model | micro-batch | settings | allocated GiB, planned | measured | error | all GiB, "
    "planned | measured | error | after the probe | s/step, planned | measured | error | after the "
    "probe |\n" + "| --- " * 14 + "|\n"
)


def spread(found: list[float], most: float) -> str:
    inside = sum(abs(e) <= most for e in found)
    return (
        f"half of them within {median(map(abs, found)):.1%}, the worst "
        f"{max(found, key=abs):+.1%}; {inside} of {len(found)} within {most:.0%}"
    )


def page(held: list[Held], note: str) -> str:
    """docs/planner-gpu.md."""
    good = [h for h in held if h.ran]
    whole = [h for h in good if h.row["growing"]]
    large = [h for h in held if not h.case.fits]
    libraries = ", ".join(f"{name} {number}" for name, number in held[0].row["versions"].items())
    said = (
        f"Of {len(large)} that are too large the plan says so of "
        f"{sum(not h.plan.fits for h in large)}.\n"
    )
    return (
        "# The planner on a GPU, held against measurements\n\n"
        f"Written by `bench/plan_gpu.py`. {good[0].row['device']}; {libraries}.\n\n"
        f"{len(good)} runs of the studio: random weights of the shapes, rows of alpaca, r = 16 on "
        "all linear layers, AdamW. Planned is by the formulas alone. Allocated is what torch calls "
        "its peak; all is what the process takes of the GPU: what the allocator has reserved, and "
        "the context. After the probe: corrected by what the run's first five steps took. A step's "
        "time is the median of those in which nothing was compiled or recorded.\n\n"
        + HEAD
        + "\n".join(map(line_of, held))
        + f"\n\nAllocated, before the run: {spread([h.allocated() for h in good], 0.10)}.\n"
        f"All, before the run: {spread([h.memory() for h in whole], 0.10)}. "
        f"After the probe: {spread([h.probed_memory() for h in whole], 0.05)}.\n"
        f"Time, before the run: {spread([h.time() for h in good], 0.15)}. "
        f"After the probe: {spread([h.probed_time() for h in good], 0.15)}.\n"
        + (said if large else "")
        + (f"\n{note}\n" if note else "")
    )


def main() -> None:
    if sys.argv[1:] == ["--child"]:
        child()
    parser = argparse.ArgumentParser(description="The planner beside measurements on this GPU.")
    parser.add_argument("--tokenizer", type=Path, help="folder with its files")
    parser.add_argument("--data", type=Path, help="json in alpaca's layout")
    parser.add_argument("--only", nargs="+", default=[""], help="models whose names contain this")
    parser.add_argument("--case", nargs="+", default=[""], help="ways whose words contain this")
    parser.add_argument("--work", type=Path, default=Path("gpu-bench"), help="for the weights")
    parser.add_argument("--out", type=Path, default=Path("plan-gpu.json"), help="raw figures")
    parser.add_argument("--read", type=Path, help="raw figures of an earlier call")
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
        held = recorded(options.read)
        print("\n".join(map(line_of, held)))
    else:
        options.work.mkdir(parents=True, exist_ok=True)
        run_all(options)
        held = recorded(options.out)
    if options.write:
        (ROOT / "docs" / "planner-gpu.md").write_text(page(held, options.note), "utf-8")


if __name__ == "__main__":
    main()
