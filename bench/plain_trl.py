"""What one would write by hand: LoRA with TRL's SFTTrainer, with the settings of a recipe.

Not part of the studio and using nothing of it: `train_speed.py` holds the studio against this.
Prints one line of JSON: steps and tokens a second of the training loop, its first steps left out.

    python bench/plain_trl.py --model FOLDER --data presets/data/persona.jsonl --steps 20
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

SKIP = 3  # steps that warm up caches and allocators, left out of the figure


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A plain TRL run, timed.")
    parser.add_argument("--model", required=True, help="folder with safetensors")
    parser.add_argument("--data", required=True, help="jsonl with messages")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--r", type=int, default=16)
    parser.add_argument("--lora-alpha", type=int, default=32)
    parser.add_argument("--lora-dropout", type=float, default=0.0)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--optim", default="adamw_torch")
    parser.add_argument("--scheduler", default="linear")
    parser.add_argument("--warmup-steps", type=float, default=0.03)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--max-grad-norm", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--activation-checkpointing", action="store_true")
    return parser.parse_args()


def tokenize(tokenizer: Any, messages: list[dict[str, str]], max_length: int) -> dict[str, Any]:
    """The conversation as tokens; all but the answers and their end-of-turn is labelled -100."""

    def render(count: int, prompt: bool = False) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(
            messages[:count], add_generation_prompt=prompt, return_dict=False
        )
        return ids

    ids = render(len(messages))
    labels = [-100] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] == "assistant":
            begin, end = len(render(turn, prompt=True)), len(render(turn + 1))
            while tokenizer.decode(ids[end - 1]).isspace():  # the template's line break
                end -= 1
            labels[begin:end] = ids[begin:end]
    return {"input_ids": ids[:max_length], "labels": labels[:max_length]}


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes the time and the tokens so far at every logged step."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.points.append((state.global_step, time.time(), logs.get("num_tokens", 0.0)))


def main() -> None:
    options = arguments()
    # As the studio decides it: bfloat16 where a GPU has it, else the exact numbers.
    gpu = torch.cuda.is_available()
    bf16 = gpu and torch.cuda.get_device_capability() >= (8, 0)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.bfloat16 if bf16 else torch.float32, attn_implementation="sdpa"
    )
    lines = Path(options.data).read_text(encoding="utf-8").splitlines()
    rows = [tokenize(tokenizer, json.loads(x)["messages"], options.max_length) for x in lines if x]
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            peft_config=LoraConfig(
                r=options.r,
                lora_alpha=options.lora_alpha,
                lora_dropout=options.lora_dropout,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
            args=SFTConfig(
                output_dir=out,
                max_steps=options.steps,
                learning_rate=options.learning_rate,
                per_device_train_batch_size=options.batch_size,
                gradient_accumulation_steps=options.accumulation,
                max_length=options.max_length,
                optim=options.optim,
                lr_scheduler_type=options.scheduler,
                warmup_steps=options.warmup_steps,
                weight_decay=options.weight_decay,
                max_grad_norm=options.max_grad_norm,
                seed=options.seed,
                activation_checkpointing=options.activation_checkpointing,
                bf16=bf16,
                use_cpu=not gpu,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            callbacks=[clock],
        )
        trainer.train()
    (first, began, before), (last, ended, after) = clock.points[SKIP - 1], clock.points[-1]
    seconds = ended - began
    figures = {
        "steps_per_second": (last - first) / seconds,
        "tokens_per_second": (after - before) / seconds,
        "tokens": after - before,
        "steps": last - first,
        "threads": torch.get_num_threads(),
        "last_loss": next(x["loss"] for x in trainer.state.log_history[::-1] if "loss" in x),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
