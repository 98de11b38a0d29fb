"""From the spec's method to peft's configuration of it, and what each method needs of a trainer."""

import copy
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    MultitaskPromptTuningConfig,
    OFTConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
)
from torch import nn
from transformers.pytorch_utils import Conv1D

from studio.engine.ranks import PruneRanks
from studio.errors import SpecError, StudioError
from studio.plan.able import packed, packed_problems
from studio.spec import LAYERWISE, RunSpec

CONFIGS: dict[str, Any] = {
    "lora": LoraConfig,
    "adalora": AdaLoraConfig,
    "ia3": IA3Config,
    "loha": LoHaConfig,
    "lokr": LoKrConfig,
    "oft": OFTConfig,
    "vera": VeraConfig,
    "prompt_tuning": PromptTuningConfig,
    "prefix_tuning": PrefixTuningConfig,
    "p_tuning": PromptEncoderConfig,
    "multitask_prompt_tuning": MultitaskPromptTuningConfig,
}
# What of the section is no field of LoraConfig, or empty where peft wants None.
_OURS = ("method", "loraplus_lr_ratio")
_NONE_IF_EMPTY = ("layers_to_transform", "modules_to_save")
# Where a method starts from the base's own weights, and changes them to do so.
MUTATING = ("olora", "pissa", "pissa_niter_16")


def adapter_config(
    spec: RunSpec,
    model: Any,
    new_tokens: Mapping[str, list[int]],
    *,
    folder: Path | None = None,
    total_step: int = 1_000_000,
) -> Any:
    """The adapter's settings for peft, or None where all of the model is trained.

    `new_tokens` are those that were added, by the module in which they have a row: LoRA trains them
    with the rest. `folder` has the tokenizer that reads a prompt's first words; `total_step` is the
    run's length, which AdaLoRA spreads its pruning over. Raises StudioError for layers that the
    model does not have.
    """
    method = spec.adapter.method
    if method == "none":
        return None
    own = lora_fields(spec) if method == "lora" else getattr(spec, method).model_dump()
    if new_tokens and method != "lora":
        raise StudioError(
            f"Tokens were added to the model, and {method} can't learn them.",
            "Use lora or none, or set data.add_template_tokens to false.",
        )
    if method in LAYERWISE:
        own |= _layers(spec, model)
    if new_tokens:
        own["trainable_token_indices"] = dict(new_tokens)
    if method == "adalora":
        own["total_step"] = total_step
    if own.get("prompt_tuning_init") == "TEXT":
        own["tokenizer_name_or_path"] = str(folder)
    elif "prompt_tuning_init" in own:
        own.pop("prompt_tuning_init_text")
    try:
        # A reward model's head of one number is trained with the adapter.
        task = "SEQ_CLS" if spec.train.trainer == "reward" else "CAUSAL_LM"
        return CONFIGS[method](task_type=task, **own)
    except ValueError as error:
        raise StudioError(
            f"peft refuses these settings of {method}: {error}", "Change them on the Tune page."
        ) from None


def lora_fields(spec: RunSpec) -> dict[str, Any]:
    """LoRA's own fields, as LoraConfig has them."""
    own = spec.adapter.model_dump(exclude={*_OURS, "target_modules", *_NONE_IF_EMPTY})
    if own["init_lora_weights"] == "default":
        own["init_lora_weights"] = True
    return own


def _layers(spec: RunSpec, model: Any) -> dict[str, Any]:
    """Which layers get an adapter. Raises StudioError where the model lacks one that is named, or
    has it in a form that peft has no layer for."""
    section, method = spec.adapter, spec.adapter.method
    held: dict[str, Any] = {
        name: getattr(section, name) or None
        for name in _NONE_IF_EMPTY
        if not (method == "ia3" and name == "layers_to_transform")
    }
    targets: Any = section.target_modules
    stored = stored_as(model)
    if found := list(packed_problems(section, stored)):
        raise SpecError(found)
    names = linear_names(model)
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    above = [n for n in held.get("layers_to_transform") or () if layers and n >= layers]
    if above:
        raise StudioError(
            f"The model has no layer {above[0]}, which layers_to_transform names.",
            f"Its {layers} layers are counted from 0.",
        )
    if targets != "all-linear":
        _present("target_modules", targets, model, names)
    elif held.get("layers_to_transform") or method == "ia3" or packed(stored):
        # peft counts layers, and knows IA3's feed-forward part and packed layers, only where it is
        # given names.
        targets = names
    _present("modules_to_save", section.modules_to_save, model, names)
    if method == "oft":
        _divides(spec.oft.oft_block_size, targets, model)
    if method == "ia3":
        _present("feedforward_modules", spec.ia3.feedforward_modules, model, names)
    return {**held, "target_modules": targets}


def stored_as(model: Any) -> str | None:
    """How the weights that the model was loaded from, or is loaded as, are quantized; None where
    they are not."""
    held = getattr(model.config, "quantization_config", None)
    method = held.get("quant_method") if isinstance(held, dict) else None
    method = method or getattr(held, "quant_method", None)
    return getattr(method, "value", method)


def linear_names(model: Any) -> list[str]:
    """The last parts of the names of the model's linear layers, without its head: what peft's
    all-linear means, and those whose weights are packed (GPTQ, AWQ) with them."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if (isinstance(module, nn.Linear | Conv1D) or hasattr(module, "qweight"))
            and module is not head
        }
    )


def _present(what: str, wanted: Iterable[str], model: Any, linear: list[str]) -> None:
    present = {name.rsplit(".", 1)[-1] for name, _module in model.named_modules()}
    missing = sorted({name.rsplit(".", 1)[-1] for name in wanted} - present)
    if missing:
        raise StudioError(
            f"The model has no module {', '.join(missing)}, which {what} names.",
            f"Its linear layers are {', '.join(linear)}; all-linear takes those of every layer.",
        )


def _divides(block: int, targets: str | list[str], model: Any) -> None:
    """peft would take another size without saying so."""
    for name, module in model.named_modules():
        wide = getattr(module, "in_features", None)
        chosen = targets == "all-linear" or name.rpartition(".")[2] in targets
        if wide and chosen and module is not model.get_output_embeddings() and wide % block:
            raise StudioError(
                f"oft_block_size {block} does not divide the {wide} inputs of {name}.",
                f"Use {math.gcd(wide, block)}, or leave that layer out.",
            )


def first_task(model: Any) -> None:
    """Multitask prompt tuning asks each row for its task: all of ours are of the first."""
    ask = model.get_prompt

    def get_prompt(batch_size: int, task_ids: Any = None, **rest: Any) -> Any:
        if task_ids is None:
            task_ids = torch.zeros(batch_size, dtype=torch.long, device=model.device)
        return ask(batch_size, task_ids, **rest)

    model.get_prompt = get_prompt


def arrange(trainer: Any, spec: RunSpec) -> None:
    """What a method needs of the trainer that has put it in place."""
    method = spec.adapter.method
    if method == "adalora":
        trainer.add_callback(PruneRanks())
        trainer.orth_reg_weight = spec.adalora.orth_reg_weight
    elif method == "multitask_prompt_tuning":
        first_task(trainer.model)
    elif method == "lora":
        trainer.loraplus_lr_ratio = spec.adapter.loraplus_lr_ratio


def reference(spec: RunSpec, model: Any) -> dict[str, Any]:
    """The model that the trainers dpo and kto compare with, where that is not the adapter's base:
    a copy, made now."""
    if spec.adapter.method != "none" or spec.train.trainer not in ("dpo", "kto"):
        return {}
    return {"ref_model": copy.deepcopy(model)}


def steps_of(spec: RunSpec, rows: int) -> int:
    """Optimizer steps of the run, as `Trainer` counts them."""
    train = spec.train
    if train.max_steps > 0:
        return train.max_steps
    batches = math.ceil(rows / train.per_device_train_batch_size)
    if train.trainer == "grpo":
        # Each row is a prompt, of which several answers fill the batches, and only whole ones.
        each = train.per_device_train_batch_size * train.gradient_accumulation_steps
        batches = rows // max(1, each // spec.grpo.num_generations)
        batches *= train.gradient_accumulation_steps * spec.grpo.num_iterations
    return math.ceil(
        train.num_train_epochs * max(1, math.ceil(batches / train.gradient_accumulation_steps))
    )


def count(model: Any) -> tuple[int, int]:
    """Parameters that are trained, and all of them."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trained, total = model.get_nb_trainable_parameters()
        return int(trained), int(total)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, grad in sizes if grad), sum(n for n, _ in sizes)
