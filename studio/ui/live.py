"""The live view of runs: what the page asks for, and the component that asks.

The page polls read-only functions. They can be reached by anybody who reaches the page, so they
take a run's id, never a path, and answer with nothing but what the page shows. What changes
something comes as an event, `act`, and goes through `run_acts`.
"""

import json
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.jobs import waits_for, words
from studio.runs import ENDED, GOING, Run, RunState, RunStore, files
from studio.runs import events as logs
from studio.spec import REWARDS
from studio.ui.compare import Comparing, seconds
from studio.ui.context import script
from studio.ui.plan_view import figures
from studio.ui.polls import Ask
from studio.ui.run_view import about, traceback_of
from studio.ui.runs_list import Listing
from studio.ui.tried import tried

# A reader that starts at the beginning gets the whole chart in about this many points.
_MOST = 2000
# In one function, in this order: the chart, the list, the head, the tables, and what starts them.
_SCRIPTS = (
    "ask.js",
    "live.js",
    "live_list.js",
    "live_head.js",
    "live_compare.js",
    "live_tried.js",
    "live_poll.js",
)
_LOG_BYTES = 100_000
_POINT = (
    "step",
    "epoch",
    "loss",
    "eval_loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "num_tokens",
    # What only some trainers tell; the panels of live.js show those that there are.
    "rewards/margins",
    "rewards/accuracies",
    "rewards/chosen",
    "rewards/rejected",
    "kl",
    "nll_loss",
    "accuracy",
    "margin",
    "reward",
    "reward_std",
    "completions/mean_length",
    "completions/clipped_ratio",
    *(f"rewards/{name}/mean" for name in REWARDS),
)


def tick(request: Any, store: RunStore) -> dict[str, Any]:
    """What is new of a run since byte `offset`: its points and where it stands now.

    `request` is {"run": id, "offset": bytes}; costs what is new, not what is there.
    """
    run = store.get(str(request.get("run", "")))
    offset = request.get("offset", 0)
    offset = offset if isinstance(offset, int) and offset >= 0 else 0
    state = store.state(run)
    # A log that was cut off is told from its beginning again.
    anew = offset > logs.size(run.events)
    new, end = logs.tail(run.events, 0 if anew else offset)
    points = [_point(e, state) for e in logs.shown(new)]
    told = {"offset": end, "points": _thinned(points), "state": _standing(store, run, state)}
    # An attempt that goes on from an earlier step takes back what came after it, one that begins
    # anew all of it.
    back = [e.get("step") or -1 for e in new if e["type"] == "attempt"] + [-1] * anew
    return {**told, "back": min(back)} if back else told


def _point(event: logs.Event, state: RunState) -> dict[str, Any]:
    point = {k: event[k] for k in _POINT if event.get(k) is not None}
    if (seconds := logs.seconds(event, state)) is not None:
        point["seconds"] = seconds
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


def _standing(store: RunStore, run: Run, state: RunState) -> dict[str, Any]:
    """The numbers above the chart; times in seconds."""
    going = state.status in GOING
    # A clock that was set back makes no time negative.
    took = max(0.0, time.time() - state.started) if going and state.started else None
    standing: dict[str, Any] = {
        "name": run.id,
        "status": state.status,
        "paused": state.paused,
        "words": _words(store, run, state),
        "step": state.step,
        "max_steps": state.max_steps,
        "loss": state.loss,
        "eval_loss": state.eval_loss,
        "tokens_per_second": state.tokens_per_second,
        "learning_rate": state.learning_rate,
        "done": state.done,
        "total": state.total,
        "problem": state.problem,
        "elapsed": seconds(state) if took is None else round(state.spent + took, 1),
    }
    if going and state.trained_from and state.step > state.first_step:
        each = max(0.0, time.time() - state.trained_from) / (state.step - state.first_step)
        standing["remaining"] = round(each * max(0, state.max_steps - state.step), 1)
    if taken := figures(state):
        standing["figures"] = taken
    if state.notes:
        standing["notes"] = list(state.notes)
    return standing


def _words(store: RunStore, run: Run, state: RunState) -> str:
    if state.status == "queued":
        return waits_for(store)
    if state.status == "created":
        return "not started"
    if state.status == "stopping":
        pausing = run.wish() == "pause"
        return f"{'pausing' if pausing else 'stopping'}: finishing the step and saving"
    if state.status == "stopped":
        return f"{'paused' if state.paused else 'stopped'} at step {state.step}"
    return state.status if state.status in ENDED else words(state)


def _not_understood(run: Run) -> dict[str, Any]:
    """What stands for a run whose log another version wrote, or another program."""
    problem = {
        "message": "The log of this run can't be understood.",
        "hint": "It was written by another version of Atelier, or damaged. Nothing of it is lost: "
        f"its files are in {run.path}.",
    }
    state = {"name": run.id, "status": "unreadable", "words": "unreadable", "problem": problem}
    return {"offset": 0, "points": [], "state": state}


def told(run_id: str, download: str = "") -> str:
    """The component's value: the run to follow, or none for another, and a file to take. Each is
    another, so that the page looks again."""
    return json.dumps({"run": run_id, "download": download, "at": time.time()})


def view(store: RunStore, plotly: Path) -> gr.HTML:
    """The component. Its value is what `told` gives; `select` tells which run was chosen, `act`
    which of its buttons was pressed, `change` that the run in view is in another state."""
    comparing = Comparing(store)

    def compared(request: Any) -> dict[str, Any]:
        return comparing.table(request)

    return gr.HTML(
        value="",
        html_template=script("live.html"),
        js_on_load="\n".join(script(name) for name in _SCRIPTS),
        server_functions=[*_of_one(store), compared],
        plotly=f"/gradio_api/file={escape(plotly.as_posix())}",
        elem_id="live",
    )


def polls(store: RunStore) -> dict[str, Ask]:
    """What is asked while a run goes: its news, how all runs stand, and what else there is to say
    of one when that changes."""

    def tick_run(request: Any) -> dict[str, Any]:
        try:
            run = _found(store, request)
        except StudioError:
            return {"gone": True}
        try:
            return tick(request, store)
        except files.UNREADABLE:
            return _not_understood(run)

    def about_run(request: Any) -> dict[str, Any]:
        try:
            return about(store, _found(store, request))
        except StudioError:
            return {"gone": True}

    return {"tick": tick_run, "runs": Listing(store).now, "about": about_run}


def _of_one(store: RunStore) -> list[Callable[[Any], dict[str, Any]]]:
    """The functions that tell of one run: {"run": id, ...}."""

    def log(request: Any) -> dict[str, Any]:
        try:
            text = _found(store, request).read_log(_LOG_BYTES)
            return {"text": text[-20_000:], "traceback": traceback_of(text)}
        except StudioError as error:
            return {"text": str(error), "traceback": ""}

    def tried_by(request: Any) -> dict[str, Any]:
        try:
            return {"steps": tried(_found(store, request))}
        except StudioError:
            return {"steps": []}

    tried_by.__name__ = "tried"
    return [log, tried_by]


def _found(store: RunStore, request: Any) -> Run:
    asked = request if isinstance(request, dict) else {}
    return store.get(str(asked.get("run", "")))
