"""A model in numbers: its weights by name and shape, and what its config says."""

import re
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

_LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class Shape:
    """One weight: its name in the file and its dimensions (output, input for a linear layer)."""

    name: str
    dims: tuple[int, ...]

    @cached_property
    def is_linear(self) -> bool:
        """Whether LoRA's all-linear would take it: a matrix inside a numbered layer, so neither the
        embedding nor the head."""
        inside = _LAYER.search(self.name) is not None
        return len(self.dims) == 2 and inside and "norm" not in self.name


@dataclass(frozen=True)
class Summary:
    """`ready`: whether the files are on this disk. `shapes` is empty where they can't be told."""

    name: str
    ready: bool
    parameters: int
    layers: int
    hidden_size: int
    vocab_size: int
    context: int
    architecture: str
    template: str
    licence: str
    shapes: tuple[Shape, ...] = ()
    config: dict[str, Any] | None = None

    @cached_property
    def linear(self) -> tuple[Shape, ...]:
        """The matrices inside its layers."""
        return tuple(s for s in self.shapes if s.is_linear)

    @cached_property
    def linear_parameters(self) -> int:
        """Parameters of the layers' matrices: those that are quantized, and multiplied by."""
        found = sum(prod(s.dims) for s in self.linear)
        return found or int(self.parameters - self.vocab_size * self.hidden_size)

    def targets(self, target_modules: str | list[str]) -> tuple[Shape, ...]:
        """The weights that get an adapter, by peft's rule for names: the last part matches."""
        linear = (s for s in self.linear if s.name.endswith(".weight"))
        if target_modules == "all-linear":
            return tuple(linear)
        return tuple(s for s in linear if s.name.split(".")[-2] in target_modules)

    @property
    def linear_names(self) -> list[str]:
        """The last parts of the names of its linear layers, in the order of the model."""
        return list(dict.fromkeys(s.name.split(".")[-2] for s in self.targets("all-linear")))


def number(config: dict[str, Any], key: str) -> int:
    """A whole number of the config, 0 where it has none."""
    value = config.get(key)
    return value if isinstance(value, int) else 0
