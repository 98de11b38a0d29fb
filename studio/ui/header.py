"""The bar that stays: this machine, the active run, what is chosen, and what to do next."""

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from studio import spec as specs
from studio.errors import SpecError, StudioError
from studio.jobs import ensure, make_ready, words
from studio.plan.machine import machine
from studio.runs import ENDED, Run, RunStore
from studio.runs import events as logs
from studio.settings import Settings
from studio.spec import show
from studio.ui.context import script
from studio.ui.form import CHOICE_LABELS, Tree
from studio.ui.polls import Ask

_METHODS = CHOICE_LABELS["method"]
_SPARK_BYTES = 8000
_TEMPLATE = """
<div class="bar"><span class="word">Atelier</span><span class="chip" data-part="machine"></span>
<span class="push"></span><button type="button" data-part="run" hidden></button>
<button type="button" data-part="theme" aria-label="Light or dark">Dark</button></div>
<div class="note problem" data-part="warning" role="alert" hidden></div>
"""


def bar() -> gr.HTML:
    """The component. `select` tells that the active run was clicked, `change` that a run began or
    ended since the last look."""
    return gr.HTML(
        html_template=_TEMPLATE, js_on_load=script("ask.js") + script("bar.js"), elem_id="bar"
    )


def polls(store: RunStore, settings: Settings) -> dict[str, Ask]:
    """What the bar asks for."""

    def pulse(_request: Any) -> dict[str, Any]:
        told = beat(store)
        try:
            # A conductor that was killed is missed by whoever looks next.
            ensure(settings)
            make_ready(settings)
        except StudioError as error:
            told["warning"] = str(error)
        if settings.looks_only:
            told["warning"] = f"{settings.looks_only} Here you can only look."
        return told

    return {"pulse": pulse}


def beat(store: RunStore) -> dict[str, Any]:
    """This machine and the active run, for the bar."""
    active = store.active()
    newest = next(iter(store.list()), None)
    state = store.look(newest) if newest else None
    latest = [newest.id, state.status if state else "unreadable"] if newest else []
    return {
        "machine": machine().words,
        "run": _active(store, active) if active else None,
        "latest": latest,
    }


def _active(store: RunStore, run: Run) -> dict[str, Any]:
    state = store.state(run)
    size = run.events.stat().st_size if run.events.exists() else 0
    recent, _ = logs.tail(run.events, max(0, size - _SPARK_BYTES))
    losses = [e["loss"] for e in recent if e["type"] == "log" and e.get("loss") is not None]
    return {
        "id": run.id,
        "stage": words(state),
        "step": state.step,
        "max_steps": state.max_steps,
        "losses": losses[-40:],
    }


def chosen(store: RunStore, tree: Tree, recipe: str, rows: int) -> str:
    """HTML: what is chosen and what the next step is."""
    model, data, train, adapter = (tree.get(s, {}) for s in ("model", "data", "train", "adapter"))
    quantization = model.get("quantization", "none")
    quantized = "" if quantization == "none" else f" in {quantization}"
    path = str(data.get("path", "")).rsplit("/", 1)[-1]
    length = (
        f"{show(train.get('max_steps'))} steps"
        if _positive(train.get("max_steps"))
        else _epochs(train.get("num_train_epochs"))
    )
    parts = [
        f"<span>recipe <b>{escape(recipe)}</b></span>",
        f"<span><b>{escape(str(model.get('name_or_path', '')))}</b>{escape(quantized)}</span>",
        f"<span>data <b>{escape(path)}</b>{f', {rows:,} rows' if rows else ''}</span>",
        f"<span>{_method(adapter)}, {escape(length)} at "
        f"{escape(show(train.get('learning_rate')))}</span>",
    ]
    line = "<span class=arrow>→</span>".join(parts)
    return f"<div class='chosen'>{line}<span class='next'>{_next(store, tree)}</span></div>"


def _method(adapter: Mapping[str, Any]) -> str:
    """HTML: what is trained."""
    method = str(adapter.get("method", "lora"))
    if method == "lora":
        return f"LoRA <b>r {escape(show(adapter.get('r')))}</b>"
    words = _METHODS.get(method, method)
    return f"<b>{escape('all weights' if method == 'none' else words.partition(':')[0])}</b>"


def _epochs(number: Any) -> str:
    return f"{show(number)} epoch{'' if number == 1 else 's'}"


def _next(store: RunStore, tree: Tree) -> str:
    if store.active():
        return "Next: <b>watch it learn</b> under Runs."
    try:
        specs.parse(tree)
    except SpecError as error:
        count = len(error.problems)
        settings = f"{count} setting{'s' if count > 1 else ''}"
        return f"<span class='bad'>Next: mend <b>{settings}</b> under Tune.</span>"
    newest = next(iter(store.list()), None)
    if newest is None:
        return "Next: look around, or just press <b>Start</b>. The settings as they are work."
    state = store.look(newest)
    if state is None or state.status in ("failed", "interrupted"):
        return "Next: see <b>why the last run failed</b> under Runs, then start again."
    if state.status in ENDED and newest.tuned:
        return "Next: <b>talk to it</b> under Chat, then take it home."
    return "Next: press <b>Start training</b>."


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0
