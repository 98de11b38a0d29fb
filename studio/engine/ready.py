"""What a run loads, loaded before there is one."""

import importlib

import torch

# What is imported at its first use; together with `train` most of the seconds before a first step.
_LATE = ("bitsandbytes", "transformers.models.llama.modeling_llama")
_LATE_ON_A_GPU = ("torch._inductor.compile_fx", "studio.engine.fast.kernels")


def load() -> None:
    """Imports all of it. Touches no GPU: its memory is for those who work on it."""
    importlib.import_module("studio.engine.train")
    for name in (*_LATE, *(_LATE_ON_A_GPU if torch.version.cuda else ())):
        importlib.import_module(name)
