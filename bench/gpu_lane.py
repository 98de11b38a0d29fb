"""One training run on a GPU, timed: what `gpu.py` starts once for each row of its table.

Random weights of a real shape, real text, TRL's trainer. Three engines: `fast` (the studio's
FastTrainer), `plain` (TRL's SFTTrainer as it is) and `peer` (Unsloth, in its own environment).
The libraries are loaded first; then a line of JSON on stdin says what to run. Prints one line that
begins with RESULT and holds JSON.

    echo '{"engine": "fast", "model": "FOLDER", "data": "x.json"}' | python bench/gpu_lane.py fast
"""

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

STARTED = time.time()
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LIBRARIES = ("torch", "triton", "transformers", "trl", "peft", "bitsandbytes")
COPIES = 3  # of the rows: enough tokens for every run


@dataclass(frozen=True)
class Lane:
    """One run's settings; names as in trl, peft and the fast path's Plan."""

    engine: str
    model: str
    data: str
    name: str = ""
    quantization: str = "none"  # none, nf4
    double_quant: bool = True
    plan: dict[str, Any] = field(default_factory=dict)
    batch: int = 4
    accumulation: int = 1
    max_length: int = 2048
    packing: bool = True
    checkpointing: bool = False
    r: int = 16
    dropout: float = 0.0
    optim: str = "adamw_torch_fused"
    logging_steps: int = 1
    warm: int = 12  # steps before the clock starts: shapes are compiled and recorded in them
    steps: int = 4  # steps of a window
    windows: int = 3  # the figure is the median window's


def texts(lane: Lane, tokenizer: Any) -> list[str]:
    """The conversations as the model's template writes them."""
    made = []
    for entry in json.loads(Path(lane.data).read_text(encoding="utf-8")):
        asked = entry["instruction"] + ("\n" + entry["input"] if entry.get("input") else "")
        turns = [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": entry["output"]},
        ]
        made.append(tokenizer.apply_chat_template(turns, tokenize=False))
    return made * COPIES


def load_peer(lane: Lane) -> Any:
    """Unsloth's model with its adapter."""
    import torch
    from unsloth import FastLanguageModel  # type: ignore[import-not-found, unused-ignore]

    model, _ = FastLanguageModel.from_pretrained(
        lane.model,
        max_seq_length=lane.max_length,
        load_in_4bit=lane.quantization == "nf4",
        dtype=torch.bfloat16,
    )
    return FastLanguageModel.get_peft_model(
        model,
        r=lane.r,
        lora_alpha=lane.r,
        target_modules=TARGETS,
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing="unsloth" if lane.checkpointing else False,
    )


def load(lane: Lane) -> Any:
    """The model as the studio loads it."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=lane.double_quant,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_pretrained(
        lane.model,
        quantization_config=quantized if lane.quantization == "nf4" else None,
        dtype=torch.bfloat16,
        device_map={"": 0},
        attn_implementation="sdpa",
    )


def settings(lane: Lane, out: str) -> dict[str, Any]:
    """What the trainer is told."""
    told = {
        "output_dir": out,
        "max_steps": lane.warm + lane.steps * lane.windows,
        "per_device_train_batch_size": lane.batch,
        "gradient_accumulation_steps": lane.accumulation,
        "bf16": True,
        "max_length": lane.max_length,
        "packing": lane.packing,
        "optim": lane.optim,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        "logging_steps": lane.logging_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    # Unsloth's own checkpointing is part of its model.
    return told if lane.engine == "peer" else told | {"gradient_checkpointing": lane.checkpointing}


def trainer_of(lane: Lane, model: Any, tokenizer: Any, out: str) -> tuple[Any, list[str]]:
    """The trainer, and what the fast path had to say."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows: list[dict[str, Any]] = [{"text": text} for text in texts(lane, tokenizer)]
    if lane.engine != "peer":
        # As the studio does it: rows come tokenized.
        rows = [{"input_ids": tokenizer(row["text"])["input_ids"]} for row in rows]
    parts = {
        "model": model,
        "args": SFTConfig(**settings(lane, out)),
        "train_dataset": Dataset.from_list(rows),
        "processing_class": tokenizer,
    }
    if lane.engine == "peer":
        return SFTTrainer(**parts), []
    parts["peft_config"] = LoraConfig(
        r=lane.r,
        lora_alpha=lane.r,
        lora_dropout=lane.dropout,
        target_modules=TARGETS,
        task_type="CAUSAL_LM",
    )
    if lane.engine == "plain":
        return SFTTrainer(**parts), []
    from studio.engine.fast import Applied, FastTrainer, Plan

    notes: list[str] = []
    trainer = FastTrainer(**parts)
    answer = trainer.engage(Plan(**lane.plan), notes.append)
    if not isinstance(answer, Applied):
        raise SystemExit(answer.reason)
    return trainer, notes


def counted(trainer: Any) -> list[Any]:
    """A one-element list with the tokens trained so far; padding does not count."""
    total: list[Any] = [0]
    inner = trainer.training_step

    def step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if "num_tokens" in inputs:
            total[0] = total[0] + inputs["num_tokens"]
        elif inputs.get("attention_mask") is not None:
            total[0] = total[0] + inputs["attention_mask"].sum()
        else:
            total[0] = total[0] + inputs["input_ids"].numel()
        return inner(model, inputs, *args, **kwargs)

    trainer.training_step = step
    return total


def clock_of(lane: Lane, total: list[Any]) -> Any:
    """A callback that notes time and tokens at each window's bounds."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.points: list[tuple[float, int]] = []
            self.losses: list[float] = []
            self.began = self.first = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.time()
            torch.cuda.reset_peak_memory_stats()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            past = state.global_step - lane.warm
            if state.global_step == 1:
                torch.cuda.synchronize()
                self.first = time.time()
            if past >= 0 and past % lane.steps == 0:
                torch.cuda.synchronize()
                self.points.append((time.time(), int(total[0])))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                self.losses.append(round(float(logs["loss"]), 4))

    return Clock()


def measured(lane: Lane, imported: float) -> dict[str, Any]:
    """Trains and returns the figures."""
    import torch
    from transformers import AutoTokenizer

    given = time.time()
    tokenizer = AutoTokenizer.from_pretrained(lane.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = load_peer(lane) if lane.engine == "peer" else load(lane)
    torch.cuda.synchronize()
    loaded = time.time()
    with tempfile.TemporaryDirectory() as out:
        trainer, notes = trainer_of(lane, model, tokenizer, out)
        clock = clock_of(lane, counted(trainer))
        trainer.add_callback(clock)
        trainer.train()
    rates = [
        (after[1] - before[1]) / (after[0] - before[0])
        for before, after in itertools.pairwise(clock.points)
    ]
    gib = 2**30
    return {
        "lane": asdict(lane),
        "tokens_per_second": round(statistics.median(rates)) if rates else None,
        "windows": [round(rate) for rate in rates],
        "peak_gib": round(torch.cuda.max_memory_allocated() / gib, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / gib, 2),
        "import_s": round(imported - STARTED, 1),
        "load_s": round(loaded - given, 1),
        "prepare_s": round(clock.began - loaded, 1),
        "first_step_s": round(clock.first - clock.began, 1),
        "start_to_first_step_s": round(imported - STARTED + clock.first - given, 1),
        "losses": [*clock.losses[:3], *clock.losses[-3:]],
        "notes": notes,
        "how": trainer.fast.step.how if lane.engine == "fast" else "",
        "device": torch.cuda.get_device_name(0),
        "versions": {name: version(name) for name in LIBRARIES}
        | ({"unsloth": version("unsloth")} if lane.engine == "peer" else {}),
    }


def main() -> None:
    """Runs the lane that stdin describes."""
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if sys.argv[1] == "peer":
        import unsloth  # type: ignore[import-not-found, unused-ignore] # noqa: F401
    elif sys.argv[1] == "fast":
        import studio.engine.fast  # noqa: F401
    import trl  # noqa: F401

    imported = time.time()
    lane = Lane(**json.loads(sys.stdin.readline()))
    print("RESULT " + json.dumps(measured(lane, imported)), flush=True)


if __name__ == "__main__":
    main()
