"""The fast path in a run: what the spec asks of it, whether it is taken, and why not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from studio.engine.fast import Plan, Refused
from studio.engine.fast.batch import Flat
from studio.engine.load import Hardware
from studio.engine.report import Report
from studio.spec import RunSpec, refusals

_SWITCH = {"auto": None, "always": True, "never": False}
PLAIN = "plain"
# What a batch of the fast path carries besides: how to make the plain path's batch of its rows.
AS_PLAIN = "as_plain"


def wanted(spec: RunSpec, where: Hardware) -> Plan | None:
    """What the fast path is asked for, or None where the plain path is: by name, or by auto on
    anything older than an Ampere GPU."""
    engine, own = spec.train.engine, spec.fast
    if engine == "plain" or (engine == "auto" and not _new_enough(where)):
        return None
    return Plan(
        frozen="float8" if own.float8 else "as_loaded",
        compile=_SWITCH[own.compile],
        graphs=_SWITCH[own.graphs],
        replay=own.replay,
        host=own.host,
        chunk=own.chunk,
        tokens=own.tokens,
    )


def _new_enough(where: Hardware) -> bool:
    return where.device == "cuda" and torch.cuda.get_device_capability(0) >= (8, 0)


def engage(trainer: Any, spec: RunSpec, where: Hardware, report: Report) -> str:
    """Switches the trainer to the fast path where that is wanted and sound, and says why not where
    it is not. Returns how micro-batches run, in words ("plain" for trl's own way)."""
    plan = wanted(spec, where)
    if plan is None:
        return PLAIN
    if reasons := refusals(spec):
        return _declined(report, "; ".join(reasons))
    report.stage("preparing the fast path")
    plain = trainer.data_collator
    answer = trainer.engage(plan, report.note)
    if isinstance(answer, Refused) and plan.frozen == "float8":
        report.note(f"The frozen weights stay as they were loaded: {answer.reason}")
        answer = trainer.engage(replace(plan, frozen="as_loaded"), report.note)
    if isinstance(answer, Refused):
        return _declined(report, answer.reason)
    trainer.data_collator = Both(trainer.data_collator, plain)
    return f"fast, {answer.step.how}"


def _declined(report: Report, why: str) -> str:
    report.note(f"Trained the plain way, not the fast one: {why}")
    return PLAIN


@dataclass(frozen=True)
class Both:
    """The fast path's collator, whose batches can also say what the plain path would have got: the
    preview tells of that, and the digest of a run's first batch is held against it."""

    flat: Flat
    plain: Any

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `Flat`, and with it a function that makes the plain one."""
        return {**self.flat(examples), AS_PLAIN: partial(self.plain, examples)}
