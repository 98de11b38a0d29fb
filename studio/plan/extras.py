"""Packages that are not needed, but used where they are."""

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Extra:
    """A package: what it is imported as, what people call it, and how it is installed."""

    module: str
    label: str
    install: str

    @property
    def here(self) -> bool:
        """Whether it can be imported."""
        return find_spec(self.module) is not None


REPORTERS = {
    "tensorboard": Extra("tensorboard", "TensorBoard", "pip install tensorboard"),
    "trackio": Extra("trackio", "Trackio", "pip install trackio"),
    "wandb": Extra("wandb", "Weights & Biases", "pip install wandb"),
}
