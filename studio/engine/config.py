"""From the spec to what trl and peft are told: the one place where each setting arrives."""

import torch
from peft import LoraConfig
from trl import SFTConfig

from studio.engine.load import Hardware
from studio.runs import Run
from studio.spec import RunSpec


def sft_config(spec: RunSpec, run: Run, where: Hardware, *, evaluate: bool) -> SFTConfig:
    """The trainer's settings. Every field of the train and eval sections goes in by its own name;
    the rest says where we differ from trl's defaults."""
    on_cpu = where.device == "cpu"
    evaluation = spec.eval.model_dump()
    return SFTConfig(
        output_dir=str(run.checkpoints),
        **spec.train.model_dump(),
        **{**evaluation, "eval_on_start": evaluation["eval_on_start"] and evaluate},
        eval_strategy="steps" if evaluate else "no",
        logging_strategy="steps",
        save_strategy="steps",
        use_cpu=on_cpu,
        # trl turns bf16 on where nothing is said, a CPU included.
        bf16=where.dtype is torch.bfloat16,
        fp16=where.dtype is torch.float16,
        dataloader_pin_memory=not on_cpu,
        # With the filter on, a loss of NaN shows as the last good one.
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        # Rows come tokenized and cut. Only packing is left for trl to prepare.
        dataset_kwargs={"skip_prepare_dataset": not spec.train.packing},
    )


def lora_config(spec: RunSpec) -> LoraConfig:
    """The adapter's settings: every field of the adapter section by its own name."""
    return LoraConfig(task_type="CAUSAL_LM", **spec.adapter.model_dump())
