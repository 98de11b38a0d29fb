"""The live view of runs: what the page asks for, and the component that asks.

The page polls three read-only functions. They can be reached by anybody who reaches the page, so
they take a run's id, never a path, and answer with nothing but what the page shows.
"""

import time
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.jobs import words
from studio.runs import ENDED, Run, RunState, RunStore
from studio.runs import events as logs
from studio.ui.context import script

# A reader that starts at the beginning gets the whole chart in about this many points.
_MOST = 2000
_POINT = (
    "step",
    "epoch",
    "loss",
    "eval_loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "num_tokens",
)


def tick(request: Any, store: RunStore) -> dict[str, Any]:
    """What is new of a run since byte `offset`: its points and where it stands now.

    `request` is {"run": id, "offset": bytes}; costs what is new, not what is there.
    """
    run = store.get(str(request.get("run", "")))
    offset = request.get("offset", 0)
    offset = offset if isinstance(offset, int) and offset >= 0 else 0
    state = store.state(run)
    new, end = logs.tail(run.events, offset)
    points = [_point(e, state) for e in logs.shown(new)]
    told = {"offset": end, "points": _thinned(points), "state": _standing(run, state)}
    # An attempt that goes on from an earlier step takes back what came after it.
    back = [e.get("step") or 0 for e in new if e["type"] == "attempt"]
    return {**told, "back": min(back)} if back else told


def _point(event: logs.Event, state: RunState) -> dict[str, Any]:
    point = {k: event[k] for k in _POINT if event.get(k) is not None}
    if state.trained_from and "time" in event:
        point["seconds"] = round(event["time"] - state.trained_from, 1)
    return point


def _thinned(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most about `_MOST` of the points: of each stretch its lowest and its highest loss, so
    that no spike is lost, and every evaluation."""
    if len(points) <= _MOST:
        return points
    stretch = -(-2 * len(points) // _MOST)
    kept: list[dict[str, Any]] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        losses = [p for p in part if "loss" in p]
        ends = {id(f(losses, key=lambda p: p["loss"])) for f in (min, max)} if losses else set()
        kept += [p for p in part if id(p) in ends or "eval_loss" in p]
    return kept


def _standing(run: Run, state: RunState) -> dict[str, Any]:
    """The numbers above the chart; times in seconds."""
    going = state.status not in (*ENDED, "queued")
    until = time.time() if going else state.updated
    standing: dict[str, Any] = {
        "name": run.id,
        "status": state.status,
        "words": _words(state),
        "step": state.step,
        "max_steps": state.max_steps,
        "loss": state.loss,
        "eval_loss": state.eval_loss,
        "tokens_per_second": state.tokens_per_second,
        "done": state.done,
        "total": state.total,
        "problem": state.problem,
        "elapsed": round(state.spent + until - state.started, 1)
        if until and state.started
        else None,
    }
    if going and state.trained_from and state.step > state.first_step:
        each = (time.time() - state.trained_from) / (state.step - state.first_step)
        standing["remaining"] = round(each * max(0, state.max_steps - state.step), 1)
    if state.notes:
        standing["notes"] = list(state.notes)
    return standing


def _words(state: RunState) -> str:
    if state.status == "queued":
        return "waits for its turn"
    if state.status in ENDED or state.status == "stopping":
        extra = f" at step {state.step}" if state.status == "stopped" else ""
        return {"stopping": "stopping: finishing the step and saving"}.get(
            state.status, state.status + extra
        )
    return words(state)


def listed(store: RunStore) -> list[dict[str, Any]]:
    """All runs for the list, newest first."""
    found = []
    for run in store.list():
        state = store.state(run)
        when = f"{run.id[6:8]}.{run.id[4:6]}. {run.id[9:11]}:{run.id[11:13]}"
        found.append(
            {
                "id": run.id,
                "name": run.name,
                "when": when,
                "status": state.status,
                "loss": state.train_loss or state.loss,
                "eval_loss": state.eval_loss,
            }
        )
    return found


def view(store: RunStore, plotly: Path) -> gr.HTML:
    """The component. Its value is the id of the run to follow; `select` tells which was clicked."""

    def tick_run(request: Any) -> dict[str, Any]:
        try:
            return tick(request, store)
        except (StudioError, AttributeError):
            return {"gone": True}

    def runs_now(_request: Any) -> dict[str, Any]:
        return {"runs": listed(store)}

    def log(request: Any) -> dict[str, Any]:
        try:
            return {"text": store.get(str(request.get("run", ""))).read_log()}
        except StudioError as error:
            return {"text": str(error)}

    tick_run.__name__ = "tick"
    return gr.HTML(
        value="",
        html_template=script("live.html"),
        js_on_load=script("live.js"),
        server_functions=[tick_run, runs_now, log],
        plotly=f"/gradio_api/file={escape(plotly.as_posix())}",
        elem_id="live",
    )
