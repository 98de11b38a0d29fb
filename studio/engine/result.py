"""What a run leaves behind: its adapter, or all of the weights where the whole model was trained.
Both lie in the run's folder `adapter`, with a tokenizer and a card."""

import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, PreTrainedTokenizerBase

from studio.engine.adapters import MUTATING
from studio.engine.card import model_card
from studio.engine.merge import write_generation
from studio.engine.source import origin_of
from studio.runs import files
from studio.spec import RunSpec

Weights = dict[str, torch.Tensor]
_WEIGHTS = "adapter_model.safetensors"


def save_result(
    trainer: Any, tokenizer: PreTrainedTokenizerBase, spec: RunSpec, target: Path
) -> None:
    """Writes what was trained; whole, or not at all."""
    if spec.adapter.method == "none":
        save_model(trainer.model, tokenizer, spec, target, trainer.folder)
    else:
        save_adapter(trainer.model, tokenizer, spec, target, trainer.first_weights)


def first_weights(model: Any, spec: RunSpec) -> Weights | None:
    """The adapter before its first step, where it took the place of a part of the base."""
    mutates = spec.adapter.method == "lora" and spec.adapter.init_lora_weights in MUTATING
    if not mutates:
        return None
    return {k: v.detach().cpu().clone() for k, v in get_peft_model_state_dict(model).items()}


def save_adapter(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    spec: RunSpec,
    target: Path,
    first: Weights | None = None,
) -> None:
    """Writes the adapter with its tokenizer and card. One that took the place of a part of the base
    becomes an adapter of twice its rank that goes on top of the base as it was; `first` is how it
    began."""
    config = model.peft_config["default"]
    # The folder we loaded from means nothing elsewhere. Set only now: a Hub id in here makes peft
    # ask the Hub at every checkpoint.
    config.base_model_name_or_path = origin_of(spec.model)
    config.revision = spec.model.revision
    if getattr(config, "tokenizer_name_or_path", None):
        config.tokenizer_name_or_path = config.base_model_name_or_path
    with files.whole_folder(target) as aside:
        if first is not None:
            _double(config)
        model.save_pretrained(str(aside), save_embedding_layers=False)
        if first is not None:
            plain = _difference(load_file(aside / _WEIGHTS), first)
            save_file(plain, aside / _WEIGHTS, metadata={"format": "pt"})
        tokenizer.save_pretrained(str(aside))
        (aside / "README.md").write_text(model_card(spec), encoding="utf-8")


def save_model(
    model: Any, tokenizer: PreTrainedTokenizerBase, spec: RunSpec, target: Path, base: Path
) -> None:
    """Writes a model all of whose weights were trained, as any program loads it; `base` is the
    folder that it came from."""
    # The base's own file is copied below: transformers refuses to write what some models ship.
    model.generation_config = GenerationConfig()
    with files.whole_folder(target) as aside:
        model.save_pretrained(str(aside))
        tokenizer.save_pretrained(str(aside))
        write_generation(base, aside, tokenizer.eos_token_id)
        (aside / "README.md").write_text(model_card(spec), encoding="utf-8")


def _double(config: Any) -> None:
    """The settings of the adapter that `_difference` makes: twice the rank at the same scale."""
    config.init_lora_weights = True
    config.r *= 2
    config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2
    for pattern in (config.rank_pattern, config.alpha_pattern):
        pattern.update({name: 2 * value for name, value in pattern.items()})


def _difference(last: Weights, first: Weights) -> Weights:
    """BA - B'A' as one adapter: [B, -B'][A; A']. The base lost B'A' when the adapter was made."""
    made = {}
    for name, weight in last.items():
        if "lora_A" in name:
            made[name] = torch.cat([weight, first[name].to(weight)], dim=0).contiguous()
        elif "lora_B" in name:
            made[name] = torch.cat([weight, -first[name].to(weight)], dim=1).contiguous()
        else:
            made[name] = weight
    return made
