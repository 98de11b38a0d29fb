"""What a spec wants that this machine, or the number of its rows, does not have."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

from studio.errors import Problem, SpecError
from studio.plan.able import attention_refusal, model_problems, refusal
from studio.plan.extras import REPORTERS
from studio.plan.machine import Machine
from studio.plan.shapes import text_config, unfit
from studio.plan.summary import number
from studio.spec import MEASURED, SECTIONS, RunSpec, parse
from studio.spec.check_adapter import pruning_problems

Refused = dict[str, dict[str, str]]


def problems(
    spec: RunSpec,
    machine: Machine,
    steps: int | None = None,
    held: int | None = None,
    config: dict[str, Any] | None = None,
) -> list[Problem]:
    """Every such problem, at its field. `steps` are those of the run and `held` the rows held back
    for the evaluation, `config` the model's config.json, where they are known."""
    if spec.model.device_map == "cpu":
        machine = replace(machine, gpus=())
    found = [
        *model_problems(spec, machine, config),
        *_optimizer(spec, machine),
        *_numbers(spec, machine),
        *_engine(spec, machine, config or {}),
        *_context(spec, config or {}),
        *_reporters(spec),
    ]
    if steps is not None:
        found += _length(spec, steps)
    if held == 0:
        found += _unmeasured(spec)
    return found


def judged(tree: Mapping[str, Any], machine: Machine) -> list[Problem]:
    """Everything that is wrong with what the tree says: the spec's own problems, and what this
    machine has not; one a field."""
    try:
        return problems(parse(tree), machine)
    except SpecError as error:
        found = error.problems
    bad = {p.field for p in found}
    held = {s: h for s, h in tree.items() if s not in bad and isinstance(h, Mapping)}
    kept = {s: {n: v for n, v in h.items() if f"{s}.{n}" not in bad} for s, h in held.items()}
    try:
        more = problems(parse(kept), machine)
    except SpecError:
        # What is left out to be judged at its default may not go with the rest.
        more = []
    return [*found, *(p for p in more if p.field not in bad)]


def refused(machine: Machine) -> Refused:
    """The choices that this machine can't honour, by field, each with the reason."""
    optimizers = get_args(SECTIONS["train"].model_fields["optim"].annotation)
    found: Refused = {
        "train.optim": {
            name: "needs a GPU" for name in optimizers if "paged" in name and not machine.gpus
        },
        "train.report_to": {
            name: extra.install for name, extra in REPORTERS.items() if not extra.here
        },
        "model.quantization": {
            kind: refusal(kind, machine)
            for kind in get_args(SECTIONS["model"].model_fields["quantization"].annotation)
        },
        "model.attn_implementation": {
            kind: attention_refusal(kind, machine)
            for kind in get_args(SECTIONS["model"].model_fields["attn_implementation"].annotation)
        },
    }
    return {key: {c: why for c, why in held.items() if why} for key, held in found.items()}


def _optimizer(spec: RunSpec, machine: Machine) -> Iterator[Problem]:
    name = spec.train.optim
    if name.startswith("paged_") and not machine.gpus:
        # Those of bitsandbytes that are not paged, by their names.
        plain = name.removeprefix("paged_")
        plain = {"adamw_32bit": "adamw_torch", "ademamix_32bit": "ademamix"}.get(plain, plain)
        yield Problem(
            "train.optim",
            f"{name} moves its memory between a GPU and the computer, and there is no GPU here.",
            f"Use {plain}.",
            {"train.optim": plain},
        )


def _numbers(spec: RunSpec, machine: Machine) -> Iterator[Problem]:
    dtype, gpu = spec.model.dtype, machine.gpus[0] if machine.gpus else None
    if dtype == "float16" and gpu is None:
        yield Problem(
            "model.dtype",
            "float16 is not computed on a CPU here.",
            "Use auto.",
            {"model.dtype": "auto"},
        )
    if dtype == "bfloat16" and gpu is not None and gpu.capability < 8:
        yield Problem(
            "model.dtype",
            f"{gpu.name} has no bfloat16 and would only emulate it.",
            "Use float16, or auto, which chooses it.",
            {"model.dtype": "auto"},
        )
    if spec.train.tf32 and (gpu is None or gpu.capability < 8):
        here = f"{gpu.name} is older" if gpu else "there is none here"
        yield Problem(
            "train.tf32",
            f"only GPUs from Ampere on have it, and {here}.",
            "Turn it off.",
            {"train.tf32": False},
        )


def _engine(spec: RunSpec, machine: Machine, config: dict[str, Any]) -> Iterator[Problem]:
    """What of the fast path, asked for by name, this machine or this model does not have."""
    if spec.train.engine != "fast":
        return
    gpu = machine.gpus[0] if machine.gpus else None
    why = ""
    if gpu is not None and gpu.capability < 8:
        why = f"its kernels need an Ampere GPU or newer, and {gpu.name} is older"
    elif reason := unfit(config):
        why = reason
    if why:
        yield Problem(
            "train.engine",
            f"fast does not apply: {why}.",
            "Use auto, which takes the plain path then.",
            {"train.engine": "auto"},
        )
    if spec.fast.float8 and (gpu is None or gpu.capability < 8.9):
        where = f"{gpu.name} has none" if gpu else "there is no GPU here"
        yield Problem(
            "fast.float8",
            f"only Ada, Hopper and Blackwell GPUs have float8 products, and {where}.",
            "Turn it off.",
            {"fast.float8": False},
        )


def _context(spec: RunSpec, config: dict[str, Any]) -> Iterator[Problem]:
    made_for = number(text_config(config), "max_position_embeddings")
    if made_for and spec.train.max_length > made_for:
        yield Problem(
            "train.max_length",
            f"{spec.train.max_length} tokens are more than the {made_for} that the model was made "
            "for.",
            f"Use {made_for} or less.",
            {"train.max_length": made_for},
        )


def _reporters(spec: RunSpec) -> Iterator[Problem]:
    missing = [name for name in spec.train.report_to if not REPORTERS[name].here]
    if missing:
        yield Problem(
            "train.report_to",
            f"{', '.join(REPORTERS[name].label for name in missing)} is not installed here.",
            f"Take it out, or {' and '.join(REPORTERS[name].install for name in missing)}.",
            {"train.report_to": [n for n in spec.train.report_to if n not in missing]},
        )


def _length(spec: RunSpec, steps: int) -> Iterator[Problem]:
    if spec.train.max_steps < 0:
        yield from pruning_problems(spec, steps)
    warmup = spec.train.warmup_steps
    if spec.train.max_steps < 0 and warmup >= 1 and warmup >= steps:
        yield Problem(
            "train.warmup_steps",
            f"{warmup:g} steps are not shorter than the run, which has {steps}.",
            "Lower it, or use a share such as 0.03.",
            {"train.warmup_steps": 0.03},
        )
    if spec.eval.load_best_model_at_end and spec.eval.eval_strategy == "steps":
        every = spec.eval.eval_steps
        if every > steps:
            yield Problem(
                "eval.eval_steps",
                f"{every} steps are more than the run has ({steps}), so no checkpoint would be "
                "the best.",
                f"Use {max(1, steps // 4)}, or turn eval.load_best_model_at_end off.",
                {
                    "eval.eval_steps": max(1, steps // 4),
                    "train.save_steps": max(1, steps // 4),
                },
            )


def _unmeasured(spec: RunSpec) -> Iterator[Problem]:
    """What needs an evaluation, where not a single row is held back for it."""
    wants = {
        "train.lr_scheduler_type": spec.train.lr_scheduler_type in MEASURED,
        "train.save_strategy": spec.train.save_strategy == "best",
        "eval.load_best_model_at_end": spec.eval.load_best_model_at_end,
        "eval.early_stopping_patience": spec.eval.early_stopping_patience is not None,
    }
    for field, wanted in wants.items():
        if wanted:
            yield Problem(
                field,
                "looks at the evaluations, and no row is held back for them.",
                "Hold back more (data.validation).",
                {"data.validation": "10%"},
            )
