"""How fast training is on this machine's GPU: the studio's fast path, plain TRL, and Unsloth.

All in one call, one process after the other, on the same text: 8,192 tokens a step in packed rows
of 2,048, r = 16 on all linear layers, random weights of a real model's shape. A row's figure is the
median of three windows. The peer needs library versions of its own: unpack them to a folder and
name it. With --write the table becomes docs/performance.md; --read makes it from figures of earlier
calls instead, a shape's rows always from one call.

    python bench/gpu.py --tokenizer FOLDER --data alpaca.json --peer FOLDER --out results.json
    python bench/gpu.py --read bench/gpu.json --write
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": _8B
    | {
        "model_type": "llama",
        "vocab_size": 128256,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
    },
    "Qwen3-8B": _8B
    | {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "head_dim": 128,
    },
    # Its own vocabulary has 32,768 tokens; the text's tokenizer needs more.
    "Mistral-7B, 49,152 tokens": _8B
    | {
        "model_type": "mistral",
        "vocab_size": 49152,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "head_dim": 128,
        "sliding_window": None,
    },
}


@dataclass(frozen=True)
class Row:
    """A row of the table: what runs, and against which other row's name it is held."""

    name: str
    settings: dict[str, Any]
    against: str = ""


_NF4 = {"quantization": "nf4"}
_PEER, _PEER_THRIFTY = "Unsloth, nf4", "Unsloth, nf4, its checkpointing"
_FAST = {"engine": "fast", "plan": {"frozen": "float8"}}
_THRIFTY = {"engine": "fast", **_NF4, "batch": 1, "accumulation": 4}
# What two widely read tutorials train with; the fast path keeps their rows a step.
_ONE = {"batch": 4, "packing": False, "r": 8}
_TWO = {"max_length": 512, "r": 64, "dropout": 0.05}
_SECOND = "second tutorial: nf4, batch 5 x 2, packed to 512, r 64, dropout, checkpointing"
LANES = (
    Row(_PEER, {"engine": "peer", **_NF4, "warm": 4, "steps": 3}),
    Row("fast: float8", _FAST, _PEER),
    Row("exact: nf4", {"engine": "fast", **_NF4}, _PEER),
    Row("exact: bf16", {"engine": "fast", "batch": 2, "accumulation": 2}, _PEER),
    Row(_PEER_THRIFTY, {"engine": "peer", **_NF4, "checkpointing": True, "warm": 4, "steps": 3}),
    Row(
        "thrifty: nf4, all layers replayed",
        _THRIFTY | {"plan": {"replay": 99, "chunk": 512}},
        _PEER_THRIFTY,
    ),
    Row("exact: nf4, lora_dropout 0.1", {"engine": "fast", **_NF4, "dropout": 0.1}, "exact: nf4"),
)
MORE = (
    Row(
        "fast: float8, second start, every fourth step logged",
        _FAST | {"logging_steps": 4},
        _PEER,
    ),
    Row(
        "plain TRL: nf4, checkpointing",
        {"engine": "plain", **_NF4, "checkpointing": True, "warm": 3, "steps": 2},
        _PEER_THRIFTY,
    ),
)
TUTORIALS = (
    Row(
        "first tutorial: nf4, batch 4, padded, r 8, checkpointing",
        {
            "engine": "plain",
            **_NF4,
            **_ONE,
            "double_quant": False,
            "optim": "paged_adamw_32bit",
            "checkpointing": True,
            "steps": 8,
        },
    ),
    Row(
        "the same rows a step, float8",
        {**_FAST, **_ONE, "warm": 60, "steps": 30},
        "first tutorial: nf4, batch 4, padded, r 8, checkpointing",
    ),
    Row(
        "the same rows a step, nf4",
        {"engine": "fast", **_NF4, **_ONE, "warm": 60, "steps": 30},
        "first tutorial: nf4, batch 4, padded, r 8, checkpointing",
    ),
    Row(
        _SECOND,
        {
            "engine": "plain",
            **_NF4,
            **_TWO,
            "batch": 5,
            "accumulation": 2,
            "checkpointing": True,
            "warm": 3,
            "steps": 2,
        },
    ),
    Row("the same tokens a step, float8", {**_FAST, **_TWO, "batch": 10}, _SECOND),
    Row(
        "the same tokens a step, nf4",
        {"engine": "fast", **_NF4, **_TWO, "batch": 10},
        _SECOND,
    ),
    Row("the same tokens a step, bf16", {"engine": "fast", **_TWO, "batch": 10}, _SECOND),
)


def make_model(sizes: dict[str, Any], folder: Path, tokenizer: Path) -> None:
    """Writes a model of these sizes with random weights, in a process that then ends."""
    code = (
        "import json, sys, torch\n"
        "from transformers import AutoConfig, AutoModelForCausalLM\n"
        "torch.set_default_dtype(torch.bfloat16)\n"
        "config = AutoConfig.for_model(**json.loads(sys.argv[1]), dtype='bfloat16')\n"
        "with torch.device('cuda'):\n"
        "    model = AutoModelForCausalLM.from_config(config)\n"
        "model.save_pretrained(sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(sizes), folder], check=True)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)


class Runs:
    """Starts each row's process while the one before it still trains: libraries take seconds to
    load, and only that happens early."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    def start(self, row: Row) -> "subprocess.Popen[str]":
        """A process that has its libraries and waits for its settings."""
        engine = row.settings["engine"]
        site = self._options.peer if engine == "peer" else self._options.ours
        paths = [str(site)] if site else []
        paths += [] if engine == "peer" else [str(PROJECT)]
        cache = str(self._options.work / "cache")
        return subprocess.Popen(
            [sys.executable, str(PROJECT / "bench" / "gpu_lane.py"), engine],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "HF_HUB_OFFLINE": "1",
                "TORCHINDUCTOR_CACHE_DIR": cache,
                "TRITON_CACHE_DIR": cache + "/triton",
            },
            cwd=self._options.work,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, process: "subprocess.Popen[str]", settings: dict[str, Any]) -> dict[str, Any]:
        """The row's figures, or what went wrong."""
        try:
            output, _ = process.communicate(json.dumps(settings) + "\n", timeout=180)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        for line in output.splitlines():
            if line.startswith("RESULT "):
                figures: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
                return figures
        return {"error": output[-3000:]}


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every row that was asked for, written down as it comes."""
    runs, found = Runs(options), []
    for shape in options.shape:
        folder = options.work / shape.split(",")[0]
        make_model(SHAPES[shape], folder, options.tokenizer)
        rows = [r for r in rows_of(shape) if any(words in r.name for words in options.only)]
        if not options.peer:
            rows = [row for row in rows if row.settings["engine"] != "peer"]
        waiting = runs.start(rows[0])
        for row, later in zip(rows, [*rows[1:], None], strict=True):
            process, began = waiting, time.time()
            if later is not None:
                waiting = runs.start(later)
            settings = {"model": str(folder), "data": str(options.data), **row.settings}
            figures = runs.finish(process, settings | {"name": row.name})
            figures |= {"shape": shape, "name": row.name, "against": row.against}
            figures["wall_s"] = round(time.time() - began, 1)
            found.append(figures)
            options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
            print(line_of(figures, found), flush=True)
        shutil.rmtree(folder)
    return found


def rows_of(shape: str) -> tuple[Row, ...]:
    """Llama's shape also runs in bf16, and against plain TRL and the tutorials."""
    if shape.startswith("Llama"):
        return (*LANES, *MORE, *TUTORIALS)
    return tuple(row for row in LANES if "bf16" not in row.name)


def line_of(figures: dict[str, Any], found: list[dict[str, Any]]) -> str:
    """A row of the table, in Markdown."""
    head = f"| {figures['shape']} | {figures['name']} |"
    if "error" in figures:
        print(figures["error"], file=sys.stderr, flush=True)
        return head + " failed | | | | | |"
    others = {f["name"]: f for f in found if f["shape"] == figures["shape"] and "error" not in f}
    other = others.get(figures["against"])
    times = figures["tokens_per_second"] / other["tokens_per_second"] if other else None
    windows = ", ".join(f"{rate:,}" for rate in figures["windows"])
    return (
        f"{head} {figures['tokens_per_second']:,} ({windows}) | "
        f"{'' if times is None else f'{times:.2f}'} | "
        f"{figures['peak_gib']} / {figures['reserved_gib']} | "
        f"{figures['first_step_s']} | {figures['start_to_first_step_s']} | "
        f"{figures['losses'][-1]:.2f} |"
    )


HEAD = (
    "| shape | run | tokens/s (windows) | times the peer or tutorial | GiB allocated / reserved | "
    "first step, s | from the process's start, s | last loss |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


def versions_of(found: list[dict[str, Any]]) -> str:
    """The libraries that the rows ran with, and the peer's own."""
    named: dict[str, str] = {}
    for figures in found:
        own = figures["versions"] if figures["lane"]["engine"] != "peer" else {}
        named |= own | {k: v for k, v in figures["versions"].items() if k == "unsloth"}
    return ", ".join(f"{name} {number}" for name, number in named.items())


def page(found: list[dict[str, Any]], note: str) -> str:
    """docs/performance.md."""
    good = [figures for figures in found if "error" not in figures]
    parts = []
    for device in dict.fromkeys(figures["device"] for figures in good):
        rows = [figures for figures in good if figures["device"] == device]
        table = "\n".join(line_of(figures, rows) for figures in rows)
        parts.append(f"## {device}\n\n{versions_of(rows)}.\n\n{HEAD}{table}\n")
    return (
        "# Performance\n\n"
        "Written by `bench/gpu.py`. Random weights of the shape, real text (alpaca), r = 16 on all "
        "linear layers, AdamW, 8,192 tokens a step in rows packed to 2,048 unless the row says "
        "otherwise; every step is logged. Real tokens a second: the median of three windows of "
        "steps, which stand behind it. Peak memory of the whole training by torch's allocator, "
        "allocated and reserved. Unsloth runs with versions of transformers and trl of its own. "
        "Ratios are within one machine's run.\n\n"
        + "\n".join(parts)
        + (f"\n{note}\n" if note else "")
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training speed on this GPU.")
    parser.add_argument("--tokenizer", type=Path, help="folder with its files")
    parser.add_argument("--data", type=Path, help="json in alpaca's layout")
    parser.add_argument("--ours", type=Path, help="folder with libraries that this Python lacks")
    parser.add_argument("--peer", type=Path, help="folder with Unsloth and its versions")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="default: all")
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose names contain this")
    parser.add_argument("--work", type=Path, default=Path("gpu-bench"), help="for the weights")
    parser.add_argument("--out", type=Path, default=Path("gpu-bench.json"), help="raw figures")
    parser.add_argument("--read", type=Path, nargs="+", help="raw figures of earlier calls")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--note", default="", help="a paragraph below the table")
    options = parser.parse_args()
    if not options.read and not (options.tokenizer and options.data):
        parser.error("--tokenizer and --data are needed, or --read")
    for name in ("tokenizer", "data", "ours", "peer", "work", "out"):
        value = getattr(options, name)
        setattr(options, name, value.resolve() if value else None)
    options.shape = options.shape or list(SHAPES)
    return options


def main() -> None:
    """Prints the table as it grows."""
    options = arguments()
    print(HEAD, end="", flush=True)
    if options.read:
        found = [row for path in options.read for row in json.loads(path.read_text("utf-8"))]
        print("\n".join(line_of(figures, found) for figures in found))
    else:
        options.work.mkdir(parents=True, exist_ok=True)
        found = run_all(options)
    if options.write:
        (PROJECT / "docs" / "performance.md").write_text(page(found, options.note), "utf-8")


if __name__ == "__main__":
    main()
