"""AdaLoRA's own part in a run: its step, its pull, and what a checkpoint has to hold of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback

_FILE = "adalora.safetensors"
# What peft averages over the steps, to tell which ranks matter.
_AVERAGES = ("exp_avg_ipt", "exp_avg_unc")


class PruneRanks(TrainerCallback):
    """AdaLoRA's own step: it looks at the gradients after the optimizer did, and takes ranks away
    where they matter least."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the gradients are emptied; `global_step` counts the steps that are done."""
        kwargs["model"].base_model.update_and_allocate(state.global_step + 1)


def slant(model: Any) -> torch.Tensor:
    """How far AdaLoRA's directions are from standing at right angles: the mean over its matrices of
    the Frobenius norm of P P' - I (Zhang, 2023, eq. 4). peft adds it to the loss that the model
    gives, and trl computes its own."""
    found = []
    for name, weight in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            rows = weight.float() if ".lora_A." in name else weight.float().T
            found.append(torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows)).to(rows)))
    return torch.stack(found).mean()


@contextmanager
def whole(model: Any) -> Iterator[None]:
    """Within it peft saves and loads all ranks, those that were taken away as well: it would save
    smaller matrices than a run that goes on from them has. Of another model it changes nothing."""
    if not _allocator(model):
        yield
        return
    config = _config(model)
    before, config.rank_pattern = config.rank_pattern, None
    _allocator(model).aside = before
    try:
        yield
    finally:
        config.rank_pattern = before


def keep(model: Any, folder: Path) -> None:
    """Writes beside a checkpoint's weights, within `whole`, what the next step needs to take the
    same ranks."""
    if allocator := _allocator(model):
        tensors = {
            f"{kind}/{name}": value.contiguous()
            for kind in _AVERAGES
            for name, value in getattr(allocator, kind).items()
        }
        pattern = json.dumps(allocator.aside)
        save_file(tensors, folder / _FILE, metadata={"rank_pattern": pattern})


def take_up(model: Any, folder: Path) -> None:
    """Takes up what `keep` wrote; of a checkpoint without it, nothing."""
    allocator, path = _allocator(model), folder / _FILE
    if not (allocator and path.is_file()):
        return
    weights = dict(model.named_parameters())
    allocator.reset_ipt()
    with safe_open(path, framework="pt") as held:
        for key in held.keys():  # noqa: SIM118 - it is no dict, and not iterable
            kind, _, name = key.partition("/")
            value = held.get_tensor(key)
            getattr(allocator, kind)[name] = value.to(_named(weights, name).device)
            # By this peft knows that it has begun.
            allocator.ipt[name] = torch.zeros_like(getattr(allocator, kind)[name])
        _config(model).rank_pattern = json.loads(held.metadata()["rank_pattern"])


def _named(weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """The weight by the name that it has inside peft's wrapper."""
    return next(weight for full, weight in weights.items() if full.endswith(name))


def _allocator(model: Any) -> Any:
    return getattr(getattr(model, "base_model", None), "rankallocator", None)


def _config(model: Any) -> Any:
    return model.peft_config[model.base_model.trainable_adapter_name]
