"""What a run will take, beside the form: a bar of its memory by part, what is tight, and a button
that sets the fastest settings that fit; and, after a run, what was planned beside what it took."""

import json
from dataclasses import dataclass
from html import escape
from typing import Any

from studio.errors import StudioError
from studio.jobs.plan import learned_by, rows_of
from studio.jobs.probe import probed
from studio.plan.auto import Choice, choose
from studio.plan.estimate import Plan, duration, plan
from studio.plan.learned import Learned
from studio.plan.machine import Machine, gb, machine
from studio.plan.model import summarize
from studio.plan.summary import Summary
from studio.runs import ENDED, RunState, RunStore
from studio.settings import Settings
from studio.spec import RunSpec, show
from studio.ui import html, rows
from studio.ui.context import model_folder
from studio.ui.run_view import label

_NEAR, _MOST_CHOSEN = 2**28, 32
_chosen: dict[tuple[Any, ...], Choice | None] = {}


@dataclass(frozen=True)
class Planned:
    """The plan of the form as it stands, and what auto would choose instead."""

    plan: Plan
    choice: Choice | None
    learned: Learned
    summary: Summary
    machine: Machine
    probed: bool = False


def planned(settings: Settings, store: RunStore, spec: RunSpec) -> Planned | None:
    """The plan, or None where the data's rows are not on this disk. Raises StudioError."""
    counts, data = rows.counts(settings, spec), rows.opened(settings, spec)
    if counts is None or data is None:
        return None
    model_folder(settings, spec)
    summary, here = summarize(spec.model.name_or_path, settings, spec.model.revision), machine()
    known = rows_of(settings, spec, data, counts.train, counts.validation)
    steps = probed(settings, spec, summary, here, known)
    taught = learned_by(store, spec, summary, here, steps)
    found = plan(spec, summary, here, known, taught)
    # Dozens of plans are made to choose one: not anew for each page that opens with this form.
    key = (spec.model_dump_json(), summary.parameters, known, taught, here.cores, here.gpus,
           here.available // _NEAR)  # fmt: skip
    if key not in _chosen:
        if len(_chosen) >= _MOST_CHOSEN:
            _chosen.clear()
        _chosen[key] = choose(spec, summary, here, known, taught)
    return Planned(found, _chosen[key], taught, summary, here, steps is not None)


# What the bar shows, from the left: the words, the parts, and the class that colours it.
_GROUPS = (
    ("weights", ("weights",), "weights"),
    ("trained", ("adapter", "gradients", "optimizer"), "trained"),
    ("activations", ("activations",), "kept"),
    ("loss and unpacking", ("logits", "workspace"), "loss"),
    ("libraries and gaps", ("context", "fragmentation"), "rest"),
)
_TOLD = {
    "weights": "the model's weights, as they are held",
    "trained": "what is trained, its gradients and the optimizer's memory",
    "activations": "what the forward pass keeps for the backward pass",
    "loss and unpacking": "the scores of the vocabulary, and the largest weight unpacked",
    "libraries and gaps": "the libraries, and what the allocator holds without use",
}


def bar(found: Planned) -> str:
    """The memory by part against what is free, and what to do about it."""
    made = found.plan
    if made.parts is None or made.memory is None:
        return ""
    groups = [
        (name, sum(getattr(made.parts, part) for part in held), style)
        for name, held, style in _GROUPS
    ]
    words, style = verdict(made)
    scale = 100 / max(made.memory, made.free, 1.0)
    said = ", ".join(f"{name} {gb(size)} GB" for name, size, _ in groups)
    pieces = "".join(
        f"<i class='{style}' style='width:{size * scale:.2f}%' "
        f"title='{escape(f'{name}: {gb(size)} GB, {_TOLD[name]}', quote=True)}'></i>"
        for name, size, style in groups
    )
    mark = f"<b style='inset-inline-start:{min(100.0, made.free * scale):.2f}%'></b>"
    legend = "".join(
        f"<span><i class='{style}'></i>{escape(name)} {gb(size)} GB</span>"
        for name, size, style in groups
    )
    return (
        f"<div class='plan {style}' data-fits='{style}'><p class='verdict'>{escape(words)}</p>"
        f"<div class='stack' role='img' aria-label='{escape(said, quote=True)}'>{pieces}{mark}"
        f"</div><div class='parts'>{legend}</div>{_auto(found)}</div>"
    )


def verdict(made: Plan) -> tuple[str, str]:
    """In words whether it fits, and as one: fits, tight, large."""
    needs, free = gb(made.memory or 0), gb(made.free)
    if not made.fits:
        lacks = gb((made.memory or 0) - made.free)
        return f"Needs about {needs} GB, and {free} GB are free: {lacks} GB too much.", "large"
    if made.tight:
        return f"Needs about {needs} of {free} GB: tight, it may run out.", "tight"
    return f"Needs about {needs} of the {free} GB that are free.", "fits"


def _auto(found: Planned) -> str:
    """What auto would do: the reasons, and the button that does it."""
    choice = found.choice
    if choice is None:
        return ""
    if choice.remedy:
        return html.problem(StudioError(choice.remedy))
    said = [reason.why for reason in choice.reasons]
    if not found.machine.gpus:
        said.append(f"{choice.threads} threads, as many as there are cores for it.")
    why = "".join(f"<li>{escape(words)}</li>" for words in said)
    reasons = f"<details><summary>Why</summary><ul>{why}</ul></details>"
    if not choice.changes:
        return f"<p class='soft'>These are the fastest settings that fit.</p>{reasons}"
    sets = ", ".join(
        f"{escape(label(key))} {escape(show(value) or 'empty')}"
        for key, value in choice.changes.items()
    )
    takes = f"{gb(choice.plan.memory or 0)} GB, about {duration(choice.plan.seconds or 0)}"
    changes = escape(json.dumps(choice.changes), quote=True)
    return (
        f"<p><button type='button' class='act' id='use-what-fits' data-mend='{changes}'>"
        f"Use what fits</button> <span class='soft'>{takes}: {sets}. "
        f"It learns the same from the same rows.</span></p>{reasons}"
    )


def compared(state: RunState) -> list[tuple[str, str, str]]:
    """What was planned beside what was measured, as (what, planned, measured); empty where a run
    told no two of them."""
    before, after = state.predicted or {}, state.measured or {}
    pairs = []
    for what, name, said in (("Memory", "memory", _memory), ("Time", "seconds", duration)):
        planned, measured = _number(before.get(name)), _number(after.get(name))
        if planned and measured:
            off = f"{said(measured)} ({measured / planned - 1:+.0%})"
            pairs.append((what, said(planned), off))
    return pairs


def figures(state: RunState) -> list[tuple[str, str]]:
    """What a run takes, as (value, what it is); once it ended, beside what was planned."""
    if state.status in ENDED:
        pairs = [
            (after, f"{what.lower()}, planned {before}") for what, before, after in compared(state)
        ]
        return [*pairs, *_lost(state.measured or {})]
    use = state.use or {}
    found = []
    if memory := _number(use.get("memory")):
        peak = _number(use.get("peak"))
        found.append(
            (_memory(memory), f"memory, {_memory(peak)} at its peak" if peak else "memory")
        )
    if trained := _number(use.get("trained_per_second")):
        found.append((f"{trained:,.0f}", "trained tokens/s"))
    if share := _number(use.get("share")):
        found.append((f"{100 * share:.0f} %", "of this machine's peak"))
    if power := _number(use.get("power")):
        heat = _number(use.get("temperature"))
        found.append((f"{power:.0f} W", f"GPU, {heat:.0f} °C" if heat else "GPU"))
    return [*found, *_lost(use)]


def _lost(held: dict[str, Any]) -> list[tuple[str, str]]:
    """The time that went to anything but training, where that is a second or more."""
    names = {"data": "waiting for data", "evaluating": "evaluating", "saving": "saving"}
    times = {words: _number(held.get(name)) for name, words in names.items()}
    return [(duration(spent), words) for words, spent in times.items() if spent >= 1]


def _memory(size: float) -> str:
    return f"{gb(size)} GB"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0
