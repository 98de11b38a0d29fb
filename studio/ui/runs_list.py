"""The list of runs as the page shows it: what trains, what waits, and all of them, searched.

Every viewer asks for it every few seconds, so it is made at most once a second, and what people
wrote about a run is read again only when its file has changed.
"""

import threading
import time
from typing import Any

from studio.runs import GOING, Run, RunState, RunStore, keep

Row = dict[str, Any]
# As many as one looks through; a search finds the others.
_MOST = 200
_FRESH_S = 0.8


def title_of(run: Run) -> str:
    """What a person calls the run: its title, or else its recipe's name."""
    return keep.meta(run).title or run.name


class Listing:
    """The rows of one store, for all viewers of it."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._metas: dict[str, tuple[int, keep.Meta]] = {}
        self._rows: list[Row] = []
        self._made = 0.0

    def now(self, request: Any) -> dict[str, Any]:
        """The rows that match: `request` is {"search": words, "star": true or false}. With `anew`,
        a number, they are made anew: who asks has just changed something.

        `queue` has the ids that wait in their order, `active` the one that trains; both and the
        run named by `with` are among the rows, whatever is searched for.
        """
        asked = request if isinstance(request, dict) else {}
        words = str(asked.get("search") or "").lower().split()[:10]
        star, always = asked.get("star") is True, str(asked.get("with") or "")
        if asked.get("anew"):
            self._made = 0.0
        rows = self._fresh()
        waiting = sorted((r for r in rows if r["place"]), key=lambda r: r["place"])
        active = next((r["id"] for r in rows if r["going"]), None)
        found = [r for r in rows if (r["star"] or not star) and all(w in r["said"] for w in words)]
        shown = {r["id"] for r in found[:_MOST]} | {r["id"] for r in waiting} | {active, always}
        return {
            "runs": [_sent(r) for r in rows if r["id"] in shown],
            "found": [r["id"] for r in found[:_MOST]],
            "matching": len(found),
            "total": len(rows),
            "queue": [r["id"] for r in waiting],
            "active": active,
        }

    def meta(self, run: Run) -> keep.Meta:
        """What was said about the run; read from the disk only when it has changed there."""
        try:
            changed = (run.path / "meta.json").stat().st_mtime_ns
        except OSError:
            return keep.Meta()
        held = self._metas.get(run.id)
        if held is None or held[0] != changed:
            held = self._metas[run.id] = (changed, keep.meta(run))
        return held[1]

    def _fresh(self) -> list[Row]:
        with self._lock:
            if time.monotonic() - self._made > _FRESH_S:
                places = {run: n for n, run in enumerate(self._store.waiting(), 1)}
                runs = self._store.list()
                self._rows = [self._row(run, places.get(run.id)) for run in runs]
                self._made = time.monotonic()
            return self._rows

    def _row(self, run: Run, place: int | None) -> Row:
        state, meta = self._store.look(run), self.meta(run)
        status = "unreadable" if state is None else _status(state)
        title = meta.title or run.name
        said = " ".join([run.id, run.name, title, status, meta.notes, *meta.tags])
        return {
            "id": run.id,
            "name": title,
            "when": f"{run.id[6:8]}.{run.id[4:6]}. {run.id[9:11]}:{run.id[11:13]}",
            "status": status,
            "going": state is not None and state.status in GOING,
            "place": place if status == "queued" else None,
            "step": state.step if state else None,
            "max_steps": state.max_steps if state else None,
            "loss": (state.train_loss or state.loss) if state else None,
            "eval_loss": state.eval_loss if state else None,
            "star": meta.star,
            "tags": list(meta.tags),
            "said": said.lower(),
        }


def _status(state: RunState) -> str:
    return "paused" if state.status == "stopped" and state.paused else state.status


def _sent(row: Row) -> Row:
    return {k: v for k, v in row.items() if k not in ("said", "going") and v is not None}
