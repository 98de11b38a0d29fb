"""What runs take on the disk, what can be freed, and what was deleted this week."""

import time
from dataclasses import dataclass
from html import escape

from studio.runs import GOING, Run, RunStore, keep
from studio.ui import html
from studio.ui.run_acts import button
from studio.ui.runs_list import title_of

_LISTED = 12
_DAY_S = 24 * 3600.0


@dataclass(frozen=True)
class Spare:
    """Checkpoints that can go: how many, of how many runs, and their bytes."""

    count: int
    runs: int
    size: int


def spare(store: RunStore) -> Spare:
    """What the cleaner would remove now: all checkpoints of runs that have ended but the newest
    whole one of each and its best."""
    waiting = store.waiting()
    found = []
    for run in store.list():
        state = store.look(run)
        if run.id not in waiting and (state is None or state.status not in GOING):
            found.append(keep.spare(run, quick=True))
    folders = [folder for part in found for folder in part]
    return Spare(len(folders), sum(map(bool, found)), keep.size(folders))


def shown(store: RunStore) -> str:
    """The card: use by run and in total, the cleaner, the deleted runs."""
    uses = sorted(((keep.usage(r), r) for r in store.list()), key=lambda u: -u[0]["total"])
    total = sum(use["total"] for use, _run in uses)
    gone = keep.deleted(store)
    gone_size = keep.size(run.path for run in gone)
    count = f"{len(uses)} run{'s' if len(uses) != 1 else ''}"
    pairs = [
        ("Runs", html.size(total), count),
        ("Checkpoints", html.size(sum(use["checkpoints"] for use, _run in uses)), "to go on from"),
        ("Deleted", html.size(gone_size), f"{len(gone)}, kept for a week"),
    ]
    parts = [html.facts(pairs), _cleaner(spare(store)), _by_run(uses), _deleted(gone)]
    return html.card("Disk", *parts)


def _cleaner(found: Spare) -> str:
    if not found.count:
        return "<p class='soft'>There are no old checkpoints to clean up.</p>"
    runs = f"{found.runs} run{'s' if found.runs > 1 else ''}"
    checkpoints = f"{found.count} checkpoint{'s' if found.count > 1 else ''}"
    return (
        f"<p>{checkpoints} of {runs} can go, which frees <b>{html.size(found.size)}</b>. The "
        "newest of each run stays, so that it can go on, and so does its best.</p>"
        f"<p>{button('Clean up', {'do': 'clean-all'})}</p>"
    )


def _by_run(uses: list[tuple[dict[str, int], Run]]) -> str:
    if not uses:
        return ""
    rows = "".join(
        f"<tr><td>{escape(title_of(run))} <span class='soft'>{escape(run.id)}</span></td>"
        + "".join(
            f"<td class='nowrap'>{html.size(use[part]) if use[part] else '–'}</td>"
            for part in _PARTS
        )
        + "</tr>"
        for use, run in uses[:_LISTED]
    )
    head = "".join(f"<th>{part}</th>" for part in ("run", *_PARTS))
    more = len(uses) - _LISTED
    rest = f"<p class='soft'>and {more} smaller ones.</p>" if more > 0 else ""
    return (
        f"<h4>By run</h4><div class='wide'><table class='plain'><tr>{head}</tr>{rows}</table>"
        f"</div>{rest}"
    )


_PARTS = ("total", "checkpoints", "adapter", "export")


def _deleted(gone: list[Run]) -> str:
    if not gone:
        return ""
    items = []
    for run in gone:
        left = max(0.0, 7 - (time.time() - run.path.stat().st_mtime) / _DAY_S)
        name = f"{escape(title_of(run))} <small class='soft'>{escape(run.id)}, "
        about = f"{html.size(keep.usage(run)['total'])}, {left:.0f} days left</small>"
        does = button("Bring it back", {"do": "restore", "run": run.id})
        does += button("Remove for good", {"do": "forget", "run": run.id}, sure=True)
        items.append(f"<li><span>{name}{about}</span>{does}</li>")
    return f"<h4>Deleted</h4><ul class='listed'>{''.join(items)}</ul>"
