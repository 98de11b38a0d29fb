"""How good is the planner? Small models trained on a CPU, planned and measured; docs/planner.md.

Three shapes x two lengths x four ways (plain, with checkpointing, in nf4, the fast path): each is a
run through the studio in a process of its own, with one thread. Memory is the process's peak
while it trains; the libraries' share of it is constant, so the error of what moves with the
settings is told apart. Time is corrected as the page does it, by the run before of the same kind.

    python bench/plan_cpu.py [--out docs/planner.md] [--only N]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from studio import spec as specs
from studio.runs import Run, RunStore, events
from studio.spec import RunSpec, with_values
from tests.conftest import CHATML

ROOT = Path(__file__).resolve().parent.parent
_COMMON = {"vocab_size": 8192, "max_position_embeddings": 2048, "tie_word_embeddings": True}
_MODELS: dict[str, dict[str, Any]] = {
    "llama, 8 x 512": {
        "model_type": "llama", "hidden_size": 512, "intermediate_size": 1536,
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
    },
    "qwen3, 12 x 384": {
        "model_type": "qwen3", "hidden_size": 384, "intermediate_size": 1152,
        "num_hidden_layers": 12, "num_attention_heads": 6, "num_key_value_heads": 2,
        "head_dim": 64,
    },
    "mistral, 6 x 768": {
        "model_type": "mistral", "hidden_size": 768, "intermediate_size": 2048,
        "num_hidden_layers": 6, "num_attention_heads": 12, "num_key_value_heads": 4,
        "sliding_window": None,
    },
}  # fmt: skip
_LENGTHS = (128, 448)
_WAYS = (
    ("none", "plain", False),
    ("none", "plain", True),
    ("nf4", "plain", False),
    ("none", "fast", False),
)
_STEPS = 2
_MAKE = (
    "import json, sys, torch\n"
    "from transformers import AutoConfig, AutoModelForCausalLM\n"
    "torch.manual_seed(0)\n"
    "config = AutoConfig.for_model(**json.loads(sys.argv[1]))\n"
    "AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(sys.argv[2])\n"
)
_WORDS = "the tea is strong and a clock on that bench has no hand but it keeps time for us".split()


@dataclass(frozen=True)
class Case:
    """One configuration: its model's name and the fields that are set."""

    shape: str
    length: int
    values: dict[str, Any]

    @property
    def words(self) -> str:
        kept = self.values.get("train.activation_checkpointing", False)
        engine = self.values["train.engine"]
        return f"{self.values['model.quantization']}, {engine}{', checkpointing' if kept else ''}"


def cases() -> list[Case]:
    """All configurations."""
    found = []
    for shape in _MODELS:
        for length in _LENGTHS:
            for kind, engine, kept in _WAYS:
                values = {
                    "model.quantization": kind,
                    "train.engine": engine,
                    "train.activation_checkpointing": kept,
                }
                found.append(Case(shape, length, values))
    return found


def write_models(home: Path) -> None:
    """A folder with random weights for each shape, and a tokenizer of some hundred tokens."""
    tokenizer = small_tokenizer()
    for shape, sizes in _MODELS.items():
        folder = home / slug(shape)
        told = json.dumps(_COMMON | sizes)
        subprocess.run([sys.executable, "-c", _MAKE, told, str(folder)], check=True)
        tokenizer.save_pretrained(folder)


def small_tokenizer() -> Any:
    """Words of these rows and bytes, with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(_WORDS)] * 9, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=special[2], pad_token=special[0]
    )
    made.chat_template = CHATML
    return made


def write_rows(home: Path, length: int) -> Path:
    """Rows of 0.6 to 0.95 of `length` tokens: a word of these is one."""
    dice = random.Random(length)
    path = home / f"rows-{length}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(40):
            count = int(length * dice.uniform(0.6, 0.95)) - 40
            words = [dice.choice(_WORDS) for _ in range(count)]
            half = count // 2
            row = {"prompt": " ".join(words[:half]), "completion": " ".join(words[half:])}
            file.write(json.dumps(row) + "\n")
    return path


def slug(shape: str) -> str:
    return shape.split(",")[0]


def spec_of(case: Case, home: Path, rows: Path) -> RunSpec:
    return with_values(
        specs.DEFAULTS,
        {
            "model.name_or_path": str(home / slug(case.shape)),
            "data.path": str(rows),
            "data.validation": "0",
            "data.accepted": ["duplicate", "near_duplicate"],
            "train.max_steps": _STEPS,
            "train.max_length": case.length,
            "train.per_device_train_batch_size": 4,
            "train.logging_steps": 1,
            "train.save_strategy": "no",
            "eval.eval_strategy": "no",
            "eval.eval_on_start": False,
            **case.values,
        },
    )


def train(case: Case, home: Path, rows: Path) -> dict[str, Any]:
    """Planned and measured, as the run told them. The run is a process of its own, forked from this
    one, which has the libraries already and has started no thread."""
    from studio import worker

    run: Run = RunStore(home / "runs").create(spec_of(case, home, rows), "plan")
    child = os.fork()
    if child == 0:
        log = os.open(run.log, os.O_WRONLY | os.O_CREAT)
        for number in (1, 2):
            os.dup2(log, number)
        os._exit(worker.main(["train", str(run.path)]))
    _, status = os.waitpid(child, 0)
    told = list(events.read(run.events))
    if status:
        sys.exit(f"{case}\n{told[-1:]}\n{run.log.read_text()[-3000:]}")
    planned = next(e for e in told if e["type"] == "predicted")
    taken = next(e for e in told if e["type"] == "measured")
    points = [e for e in told if e["type"] == "log"]
    return {
        "planned": planned["raw_memory"],
        "context": planned["context"],
        "measured": taken["memory"],
        "planned_s": planned["raw_seconds"] / _STEPS,
        # The first step warms up.
        "measured_s": median(b["time"] - a["time"] for a, b in pairwise(points)),
    }


def cpu_table(results: list[tuple[Case, dict[str, Any]]]) -> list[str]:
    lines = [
        "| model | tokens a row | settings | planned MB | measured MB | error | error beyond the "
        "libraries | planned s/step | measured | error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    speed = median(r["measured_s"] / r["planned_s"] for _, r in results)
    whole, moving, timed = [], [], []
    for case, r in results:
        whole.append(r["planned"] / r["measured"] - 1)
        moved = (r["planned"] - r["context"], r["measured"] - r["context"])
        moving.append(moved[0] / moved[1] - 1)
        timed.append(speed * r["planned_s"] / r["measured_s"] - 1)
        lines.append(
            f"| {case.shape} | {case.length} | {case.words} | {r['planned'] / 1e6:,.0f} | "
            f"{r['measured'] / 1e6:,.0f} | {whole[-1]:+.1%} | {moving[-1]:+.0%} | "
            f"{speed * r['planned_s']:.2f} | {r['measured_s']:.2f} | {timed[-1]:+.0%} |"
        )

    def spread(errors: list[float], most: float) -> str:
        inside = sum(abs(e) <= most for e in errors)
        return (
            f"half of them within {median(map(abs, errors)):.1%}, the worst "
            f"{max(errors, key=abs):+.1%}; {inside} of {len(errors)} within {most:.0%}"
        )

    return [
        *lines,
        "",
        f"Memory: {spread(whole, 0.10)}. Beyond the libraries' "
        f"{results[0][1]['context'] / 1e6:,.0f} MB: {spread(moving, 0.10)}.",
        f"Time, all of it corrected by one factor ({speed:.2f}, as runs of this machine would "
        f"teach): {spread(timed, 0.15)}.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="The planner beside measurements.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "planner.md")
    parser.add_argument("--only", type=int, default=0, help="the first so many, for a try")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ |= {"STUDIO_HOME": folder, "STUDIO_WORKSPACE": folder, "OMP_NUM_THREADS": "1"}
        os.environ["HF_HUB_OFFLINE"] = "1"
        # Only now: torch reads its threads when it is loaded.
        import studio.engine.train  # noqa: F401

        write_models(home)
        rows = {length: write_rows(home, length) for length in _LENGTHS}
        chosen = cases()[: options.only or None]
        for number, case in enumerate(chosen, 1):
            found = train(case, home, rows[case.length])
            results.append((case, found))
            error = found["planned"] / found["measured"] - 1
            print(f"{number} of {len(chosen)}: {case.shape}, {case.length}, {case.words}: "
                  f"{error:+.1%}", file=sys.stderr, flush=True)  # fmt: skip
    libraries = ", ".join(
        f"{n} {version(n)}" for n in ("torch", "transformers", "trl", "peft", "bitsandbytes")
    )
    text = [
        "# The planner, held against measurements",
        "",
        f"Written by `bench/plan_cpu.py`, with {libraries}.",
        "",
        "## On a CPU, measured by this script",
        "",
        f"**Measured on a CPU**, {len(results)} runs of small models with random weights, float32, "
        "one thread, batches of 4 rows, on a machine that had other work as well. Memory is the "
        "process's peak while it trained. The formulas alone, uncorrected by earlier runs.",
        "",
        *cpu_table(results),
        "",
        "`bench/plan_gpu.py` does the same on a GPU: [planner-gpu.md](planner-gpu.md).",
        "",
    ]
    options.out.write_text("\n".join(text), encoding="utf-8")
    print(f"{options.out} is written.")


if __name__ == "__main__":
    main()
