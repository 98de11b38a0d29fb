"""A run's log of events: one JSON object a line, appended by the worker, followed by readers.

Reading costs what is new, not what is there: a reader keeps a byte offset, and a line that is
only half written is left for the next time.

The events, told apart by `type` (each has `time`, seconds since the epoch):
- branch: the events above are those of `run` until the checkpoint of `step`, from which this run,
  a new one, goes on, and each says after how many `seconds` of training it came, as this one does
- attempt: a worker goes on with a run that had ended, from the checkpoint of `step`; what was
  reported after that step is reported anew. `changes` are those that were made after it and are
  made again at their steps
- stage: `text` in words, with `done` and `total` where they can be counted
- start: training begins: `max_steps`, `num_train_epochs`, `train_rows`, `eval_rows`, `engine`,
  `parameters`, `trainable`, `device`
- log: a point of the chart: `step`, `epoch`, `loss`, `learning_rate`, `grad_norm`, `num_tokens`,
  `tokens_per_second`
- eval: `step`, `eval_loss`
- note: `text`, something the person should know
- save: `step`, a checkpoint is whole
- change: the learning rate was changed while the run went on, after `step`, to `value`
- predicted: what was planned, corrected by earlier runs: `engine`, `parts` in bytes, `memory`,
  `seconds` of `steps` and evaluations; by the formulas alone `raw_memory`, `raw_seconds`; `context`
- use: at most every few seconds: `step`, `memory` now and `peak` in bytes, `trained_per_second`,
  `share` of what the device's products reach, `power` in W and `temperature` in degrees where a
  GPU tells; seconds since the start that went to `data`, `evaluating`, `saving`
- measured: `memory` at its peak, `seconds` of `steps` and evaluations, `tokens`, those `trained`,
  `most_tokens` of a micro-batch, for which the formulas say `raw_memory`
- end: `status` (finished, stopped, failed), `train_loss`, `eval_loss`, `paused` where it is to go
  on later, and for a failure `message`, `hint`, the `stage` it happened in, and `changes`, settings
  by field with which it would fit
"""

import errno
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal

Event = dict[str, Any]
Status = Literal[
    "created",
    "queued",
    "starting",
    "running",
    "stopping",
    "stopped",
    "finished",
    "failed",
    "interrupted",
]
ENDED: tuple[Status, ...] = ("stopped", "finished", "failed", "interrupted")
_LARGEST = 1e300
_COUNT, _NUMBER, _TEXT = (int,), (int, float, NoneType), (str,)
# What each event tells of the state, and as what: all else is passed over, since a log may have
# been damaged, or written by somebody else.
_TOLD: dict[str, dict[str, tuple[type, ...]]] = {
    "start": {
        **dict.fromkeys(("max_steps", "train_rows", "eval_rows"), _COUNT),
        **dict.fromkeys(("parameters", "trainable"), _COUNT),
        **dict.fromkeys(("device", "engine"), _TEXT),
    },
    "log": {
        "step": _COUNT,
        "epoch": (int, float),
        **dict.fromkeys(("loss", "learning_rate", "tokens_per_second"), _NUMBER),
    },
    "eval": {"step": _COUNT, "epoch": (int, float), "eval_loss": _NUMBER},
    "end": {"step": _COUNT, "train_loss": _NUMBER, "eval_loss": _NUMBER, "paused": (bool,)},
}


def append(path: Path, event: Event, *, sync: bool = False) -> None:
    """Writes one event as one line with a single write, so that readers never see two mixed; with
    `sync` it is on the disk before this returns.

    Raises OSError where the disk takes no more. A half line left by that, or by a machine that
    lost power, is ended first: it costs the event that was in it, never the next one.
    """
    line = (
        json.dumps({"time": round(time.time(), 3), **event}, ensure_ascii=False, allow_nan=False)
        + "\n"
    )
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(fd).st_size
        half = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        # A file's name may hold what is no text.
        data = (b"\n" if half else b"") + line.encode(errors="replace")
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def tail(path: Path, offset: int = 0, limit: int = 64 * 2**20) -> tuple[list[Event], int]:
    """The events after byte `offset`, at most `limit` bytes of them, and the offset to go on from.

    A line that is no JSON object (a disk that was full, a machine that lost power) is skipped.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            block = file.read(limit)
    except FileNotFoundError:
        return [], offset
    whole = block[: block.rfind(b"\n") + 1]
    events = []
    for line in whole.splitlines():
        try:
            event = json.loads(line)
            # What was escaped may be no text, and could not be shown.
            if b"\\ud" in line:
                json.dumps(event, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and _is_event(event):
            events.append(event)
    return events, offset + len(whole)


def size(path: Path) -> int:
    """The log's bytes; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_event(event: Event) -> bool:
    """Whether it can be one of ours: a log may have been damaged, or written by somebody else."""
    step, now = event.get("step"), event.get("time")
    return (
        isinstance(event.get("type"), str)
        and (step is None or type(step) is int)
        and (now is None or isinstance(now, int | float))
        and all(abs(v) < _LARGEST for v in event.values() if isinstance(v, int | float))
    )


def read(path: Path, limit: int = 64 * 2**20) -> Iterator[Event]:
    """All events of the log, from its start, with at most `limit` bytes of it in memory."""
    for found, _end in rest(path, 0, limit):
        yield from found


def rest(path: Path, offset: int, limit: int = 64 * 2**20) -> Iterator[tuple[list[Event], int]]:
    """What `tail` gives from `offset` on, part by part, until there is nothing new."""
    end = -1
    while offset > end:
        end = offset
        found, offset = tail(path, end, limit)
        yield found, offset


@dataclass(frozen=True)
class RunState:
    """What the events so far add up to. `status` lacks what only the process can tell: see
    `store.Run.judge`. Of a run that went on after an end, `started` and `trained_from` are of the
    last attempt, which began after `first_step`; `spent` is what the earlier ones took, and
    `trained` what their steps took. `attempts` has, for each, when its steps began, and what was
    trained before."""

    status: Status = "created"
    stage: str = ""
    done: int | None = None
    total: int | None = None
    step: int = 0
    max_steps: int = 0
    epoch: float = 0.0
    train_rows: int = 0
    eval_rows: int = 0
    parameters: int = 0
    trainable: int = 0
    device: str = ""
    loss: float | None = None
    learning_rate: float | None = None
    train_loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    started: float | None = None
    trained_from: float | None = None
    spent: float = 0.0
    trained: float = 0.0
    attempts: tuple[tuple[float, float], ...] = ()
    first_step: int = 0
    paused: bool = False
    updated: float | None = None
    problem: dict[str, str] | None = None
    notes: tuple[str, ...] = ()
    engine: str = ""
    predicted: dict[str, Any] | None = None
    measured: dict[str, Any] | None = None
    use: dict[str, Any] | None = None


def fold(state: RunState, events: list[Event]) -> RunState:
    """The state after `events`; pure, so folding in parts gives what folding at once gives."""
    for event in events:
        kinds = _TOLD.get(event["type"], {})
        known: dict[str, Any] = {k: v for k, v in event.items() if type(v) in kinds.get(k, ())}
        now = event.get("time")
        if event["type"] == "attempt":
            state = _again(state, event)
        elif event["type"] == "branch":
            step = event.get("step") or 0
            state = replace(_again(state, event), status="created", spent=0.0, first_step=step)
            state = replace(state, trained=seconds(event, state) or 0.0)
            continue
        state = replace(state, updated=now, started=state.started or now)
        match event["type"]:
            case "stage":
                status: Status = "running" if state.status == "running" else "starting"
                state = replace(
                    state,
                    status=status,
                    stage=str(event.get("text", "")),
                    done=_count(event.get("done")),
                    total=_count(event.get("total")),
                )
            case "start":
                state = replace(
                    state,
                    **known,
                    status="running",
                    stage="training",
                    done=None,
                    total=None,
                )
                state = _begins(state, now)
            case "log" | "eval":
                # The look before the first step is no part of what the steps take.
                first = event["type"] == "eval" and event.get("step") == state.first_step
                state = replace(state, **known, status="running")
                state = _begins(state, now) if first else state
            case "predicted" | "measured" | "use" as kind:
                held: dict[str, Any] = {kind: {k: v for k, v in event.items() if k != "type"}}
                state = replace(state, **held)
            case "note":
                state = replace(state, notes=(*state.notes, str(event.get("text", ""))))
            case "end":
                failed = event.get("status") == "failed"
                problem = _problem(event) if failed else None
                state = replace(
                    state, **known, status=event.get("status", "failed"), problem=problem
                )
            case _:
                pass
    return state


def _count(value: Any) -> int | None:
    return value if type(value) is int else None


def _begins(state: RunState, now: float | None) -> RunState:
    """The state where the attempt's steps begin now."""
    earlier = state.attempts if state.trained_from is None else state.attempts[:-1]
    begun = () if now is None else ((now, state.trained),)
    return replace(state, trained_from=now, attempts=(*earlier, *begun))


def seconds(event: Event, state: RunState) -> float | None:
    """Seconds of training until the event, in all attempts of the run in this state; None where
    nobody knows."""
    told, now = event.get("seconds"), event.get("time")
    if isinstance(told, int | float) or now is None:
        return told
    begun = [attempt for attempt in state.attempts if attempt[0] <= now]
    return round(begun[-1][1] + now - begun[-1][0], 1) if begun else None


def _problem(event: Event) -> dict[str, str]:
    told = {k: str(event.get(k, "")) for k in ("message", "hint", "stage")}
    changes = event.get("changes")
    return {**told, "changes": json.dumps(changes)} if changes else told


def _again(state: RunState, event: Event) -> RunState:
    """The state at the beginning of another attempt."""
    spent, trained = state.spent, state.trained
    if state.started is not None and state.updated is not None:
        spent += max(0.0, state.updated - state.started)
    if state.trained_from is not None and state.updated is not None:
        trained += max(0.0, state.updated - state.trained_from)
    step = event.get("step") or 0
    return replace(
        state,
        status="starting",
        stage="",
        done=None,
        total=None,
        step=step,
        first_step=step,
        train_loss=None,
        tokens_per_second=None,
        started=None,
        trained_from=None,
        spent=spent,
        trained=trained,
        paused=False,
        problem=None,
    )


def shown(told: Iterable[Event], kinds: tuple[str, ...] = ("log", "eval")) -> list[Event]:
    """Those events of these kinds that still hold, in order of step: an attempt that goes on from
    an earlier step replaces what was reported after it, one that begins anew all of it."""
    kept: list[Event] = []
    for event in told:
        if event["type"] == "attempt":
            step = event.get("step") or 0
            kept = [e for e in kept if e["step"] <= step] if step else []
        elif event["type"] in kinds and isinstance(event.get("step"), int):
            kept.append(event)
    return kept


def changes(told: Iterable[Event], step: int) -> list[dict[str, float]]:
    """The changes of the learning rate after `step`, as `step` and `value`: those that an attempt
    from there on makes again, so that it ends as if it had never been cut off."""
    kept: list[Event] = []
    for event in told:
        if event["type"] == "attempt":
            back, again = event.get("step") or 0, event.get("changes")
            kept = [c for c in kept if c["step"] <= back]
            kept += filter(_is_change, again if isinstance(again, list) else ())
        elif event["type"] == "change" and _is_change(event):
            kept = [c for c in kept if c["step"] != event["step"]] + [event]
    return [{"step": c["step"], "value": c["value"]} for c in kept if c["step"] > step]


def _is_change(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and isinstance(found.get("step"), int)
        and isinstance(found.get("value"), int | float)
    )
