"""What to change in a run that has run out of memory, so that it fits."""

from collections.abc import Callable, Iterator
from typing import Any

from studio.errors import SpecError, StudioError
from studio.plan.machine import Machine, machine
from studio.plan.memory import parts
from studio.plan.model import summarize
from studio.plan.summary import Summary
from studio.settings import Settings
from studio.spec import RunSpec, with_values

# The estimate was too low once: what takes this share of it is believed to fit.
_SHARE = 0.7
_SHORTEST = 256


def smaller(spec: RunSpec, settings: Settings) -> dict[str, Any]:
    """Values by field ("train.max_length") that need at most 0.7 of the memory that the spec was
    estimated to take; the fewest and mildest first: the effective batch stays, and what is learned
    from a row changes last. Empty where nothing is left to make smaller."""
    try:
        summary = summarize(spec.model.name_or_path, settings, spec.model.revision)
    except StudioError:
        # Nothing can be estimated: the mildest two.
        return _changes(spec, lambda changed: changed.train.activation_checkpointing)
    here = machine()
    most = _SHARE * _estimate(spec, summary, here)
    return _changes(spec, lambda changed: _estimate(changed, summary, here) <= most)


def _changes(spec: RunSpec, enough: Callable[[RunSpec], bool]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for more in _steps(spec):
        try:
            changed = with_values(spec, changes | more)
        except SpecError:
            # Not to be had with these settings.
            continue
        changes |= more
        if enough(changed):
            break
    return changes


def _estimate(spec: RunSpec, summary: Summary, here: Machine) -> float:
    """Bytes, with every row as long as it may be."""
    tokens = spec.train.per_device_train_batch_size * spec.train.max_length
    return parts(spec, summary, here, tokens).total


def _steps(spec: RunSpec) -> Iterator[dict[str, Any]]:
    train = spec.train
    batch, accumulation = train.per_device_train_batch_size, train.gradient_accumulation_steps
    while batch > 1:
        # Rounded up, so that a step learns from no fewer rows than before.
        rows = batch * accumulation
        batch //= 2
        accumulation = -(-rows // batch)
        yield {
            "train.per_device_train_batch_size": batch,
            "train.gradient_accumulation_steps": accumulation,
        }
    if not train.activation_checkpointing:
        yield {"train.activation_checkpointing": True}
    if spec.model.quantization == "none":
        yield {"model.quantization": "nf4"}
    length = train.max_length
    while length // 2 >= _SHORTEST:
        length //= 2
        yield {"train.max_length": length}
