"""Runs side by side: the settings in which they differ, and what came of each."""

import math
from dataclasses import dataclass
from typing import Any

from studio import spec as specs
from studio.errors import StudioError
from studio.runs import Run, RunState, RunStore, events
from studio.ui.run_view import label, settings_of, worded
from studio.ui.runs_list import title_of

_MOST = 24
# As many losses as the final one is the mean of: one alone says little.
_LAST = 10


@dataclass(frozen=True)
class _Seen:
    """What a log says up to a byte: the lowest evaluation loss with its step, the last losses."""

    offset: int = 0
    best: tuple[float, int] | None = None
    last: tuple[float, ...] = ()


class Comparing:
    """Compares runs of one store. What it remembers is what each log has said so far."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._seen: dict[str, _Seen] = {}

    def table(self, request: Any) -> dict[str, Any]:
        """`request` is {"runs": ids}; answers with `results`, one row a run, and `differing`, one
        row a field: {"label", "values": one a run}."""
        asked = request.get("runs") if isinstance(request, dict) else None
        runs = []
        for run_id in list(asked)[:_MOST] if isinstance(asked, list) else []:
            try:
                runs.append(self._store.get(str(run_id)))
            except StudioError:
                continue
        return {"results": [self._result(run) for run in runs], "differing": differing(runs)}

    def _result(self, run: Run) -> dict[str, Any]:
        state = self._store.look(run)
        told: dict[str, Any] = {"id": run.id, "name": title_of(run)}
        if state is None:
            return {**told, "status": "unreadable"}
        seen = self._read(run)
        best, step = seen.best or (None, None)
        return {
            **told,
            "status": state.status,
            "loss": sum(seen.last) / len(seen.last) if seen.last else None,
            "best_eval_loss": best,
            "best_step": step,
            "steps": state.step,
            "seconds": seconds(state),
            "tokens_per_second": state.tokens_per_second,
        }

    def _read(self, run: Run) -> _Seen:
        seen = self._seen.get(run.id, _Seen())
        new, end = events.tail(run.events, seen.offset)
        if any(e["type"] == "attempt" for e in new):
            # What came after the step that it goes on from is taken back: look at all of it.
            seen, new = _Seen(), list(events.read(run.events))
        points = events.shown(new)
        evals = [(e["eval_loss"], e["step"]) for e in points if _number(e.get("eval_loss"))]
        losses = [e["loss"] for e in points if _number(e.get("loss"))]
        best = min([*evals, *([seen.best] if seen.best else [])], default=None)
        self._seen[run.id] = _Seen(end, best, (*seen.last, *losses)[-_LAST:])
        return self._seen[run.id]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def seconds(state: RunState) -> float | None:
    """What the run has taken in all its attempts."""
    if state.started is None or state.updated is None:
        return None
    return round(max(0.0, state.spent + state.updated - state.started), 1)


def differing(runs: list[Run]) -> list[dict[str, Any]]:
    """The settings in which these runs differ, in the form's order. One whose settings can't be
    read has no values."""
    trees = []
    for run in runs:
        spec, _wrong = settings_of(run)
        trees.append(specs.tree(spec) if spec else None)
    readable = [tree for tree in trees if tree is not None]
    found = []
    for section, name, _info, _meta in specs.fields():
        values = [tree[section][name] for tree in readable]
        if any(value != values[0] for value in values):
            shown = ["–" if t is None else worded(t[section][name]) for t in trees]
            found.append({"label": label(f"{section}.{name}"), "values": shown})
    return found
