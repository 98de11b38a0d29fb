"""What is told of one run when it is looked at, beyond its chart: what people wrote about it, what
can be done with it now, its settings, where it came from."""

import json
from typing import Any

from studio import spec as specs
from studio.errors import SpecError, StudioError
from studio.runs import ENDED, Run, RunState, RunStore, checkpoints, files, keep
from studio.spec import RunSpec, fields, show
from studio.spec.check_train import holds_back

_LABELS = {f"{s}.{n}": meta.label for s, n, _info, meta in fields()}
_CUT_OFF = ("stopped", "failed", "interrupted")


def about(store: RunStore, run: Run) -> dict[str, Any]:
    """All that the head and the details of the view need, as the page's script takes it."""
    state, meta = store.look(run), keep.meta(run)
    spec, wrong = settings_of(run)
    waiting = store.waiting()
    told: dict[str, Any] = {
        "id": run.id,
        "title": meta.title,
        "tags": list(meta.tags),
        "notes": meta.notes,
        "star": meta.star,
        "steps": checkpoints.steps(run.checkpoints),
        "place": waiting.index(run.id) + 1 if run.id in waiting else None,
        "waiting": len(waiting),
        "settings": changed(spec) if spec else [],
        "unreadable": wrong,
    }
    can = able(run, state, spec, told["steps"], told["place"], len(waiting))
    return {**told, "can": can, "fits": fits(state, spec)}


def settings_of(run: Run) -> tuple[RunSpec | None, str]:
    """The run's settings, or None and in words why they can't be read."""
    try:
        return run.spec(), ""
    except SpecError as error:
        said = f"{error.problems[0].field} {error.problems[0].message}"
        return None, f"Its settings are of another version of Atelier: {said}"
    except StudioError as error:
        if not (run.path / "spec.yaml").is_file():
            return None, "Its settings are gone: the folder holds no spec.yaml."
        return None, f"Its settings can't be read: {error.message}"
    except files.UNREADABLE as error:
        return None, f"Its settings can't be read: {error}"


def changed(spec: RunSpec) -> list[tuple[str, str]]:
    """The settings that differ from the defaults, as (label, value)."""
    return [
        (label(f"{section}.{name}"), worded(value))
        for section, held in specs.diff(spec).items()
        for name, value in held.items()
    ]


def label(key: str) -> str:
    """The name on the form of a field such as "train.learning_rate"."""
    return _LABELS.get(key, key)


def worded(value: Any) -> str:
    """A setting's value as a table shows it."""
    if isinstance(value, list | dict) and any(isinstance(v, dict) for v in value):
        return json.dumps(value, ensure_ascii=False)[:200]
    return show(value) or "empty"


def able(
    run: Run,
    state: RunState | None,
    spec: RunSpec | None,
    steps: list[int],
    place: int | None,
    waiting: int,
) -> list[str]:
    """What can be done with the run now; the first is the next thing, where there is one."""
    if state is not None and state.status not in (*ENDED, "created"):
        return [*_going(state, place, waiting), *(["use"] if spec else [])]
    can = []
    status = state.status if state else ""
    if status == "created" and spec:
        can.append("enqueue")
    if status in _CUT_OFF and spec:
        can.append("resume")
    # A reward model scores answers and writes none.
    if run.tuned and spec and spec.train.trainer != "reward":
        can.insert(len(can) if status in ("failed", "interrupted") else 0, "talk")
    if state is not None and state.paused and "resume" in can:
        can.sort(key=lambda act: act != "resume")
    if status == "finished" and steps and spec:
        can.append("extend")
    if status == "finished" and spec and holds_back(spec.data):
        can.append("final")
    if steps and spec:
        can.append("branch")
    if spec:
        can.append("use")
    can += ["pack", "clean"] if steps else ["pack"]
    return [*can, "delete"]


def leads_on(store: RunStore, run: Run) -> bool:
    """Whether the run has a next thing of its own: to talk to it, or to go on with it."""
    return about(store, run)["can"][0] in ("talk", "resume", "enqueue", "first")


def _going(state: RunState, place: int | None, waiting: int) -> list[str]:
    if state.status == "queued":
        can = ["first", "up"] if place and place > 1 else []
        can += ["down"] if place and place < waiting else []
        return [*can, "remove"]
    if state.status == "stopping":
        return ["kill", "discard"]
    if state.status == "running":
        evaluates = ["evaluate"] if state.eval_rows else []
        return ["pause", "stop", "save", *evaluates, "learning_rate", "discard"]
    return ["stop", "discard"]


def fits(state: RunState | None, spec: RunSpec | None) -> list[tuple[str, str, str]]:
    """For a run that failed for want of memory: the settings that would fit, as (label, what it
    was, what would do)."""
    if spec is None:
        return []
    old = specs.tree(spec)
    found = []
    for key, value in changes_of(state).items():
        section, _, name = key.partition(".")
        if key in _LABELS:
            found.append((label(key), worded(old[section][name]), worded(value)))
    return found


def changes_of(state: RunState | None) -> dict[str, Any]:
    """The settings that a failure asks for, by field; nothing where it asks for none."""
    try:
        held = json.loads((state.problem or {}).get("changes") or "{}") if state else {}
    except (ValueError, TypeError):
        return {}
    return held if isinstance(held, dict) else {}


def traceback_of(log: str) -> str:
    """The last traceback in a worker's log, with the error that it ends in; nothing if there is
    none."""
    start = log.rfind("Traceback (most recent call last):")
    if start < 0:
        return ""
    lines = log[start:].splitlines()
    end = next((n for n, line in enumerate(lines) if n and not line.startswith((" ", "\t"))), 0)
    return "\n".join(lines[: end + 1] if end else lines)
