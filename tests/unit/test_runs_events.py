"""The log of events: what a reader sees while a worker writes, and what it adds up to."""

import errno
import json
import random
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from studio.runs import ENDED, RunState, RunStore, events, fold
from studio.runs.events import append, tail
from studio.spec import DEFAULTS

LIFE: list[dict[str, Any]] = [
    {"type": "stage", "time": 1.0, "text": "loading the model"},
    {"type": "stage", "time": 2.0, "text": "tokenizing", "done": 3, "total": 9},
    {
        "type": "start",
        "time": 3.0,
        "max_steps": 4,
        "train_rows": 9,
        "eval_rows": 1,
        "device": "CPU",
    },
    {"type": "eval", "time": 3.5, "step": 0, "eval_loss": 3.0},
    {"type": "log", "time": 4.0, "step": 1, "loss": 2.5, "tokens_per_second": 80.0},
    {"type": "note", "time": 4.1, "text": "slow disk"},
    {"type": "log", "time": 5.0, "step": 2, "loss": 2.25},
    {"type": "eval", "time": 5.5, "step": 2, "eval_loss": 2.0},
    {"type": "save", "time": 5.6, "step": 2},
    {"type": "unheard of", "time": 5.7, "step": 99},
    {"type": "end", "time": 6.0, "status": "finished", "train_loss": 2.375, "eval_loss": 2.0},
]


def write(path: Path, *parts: str | bytes) -> None:
    """Appends the parts as they are."""
    with path.open("ab") as file:
        for part in parts:
            file.write(part if isinstance(part, bytes) else part.encode())


def types(found: list[events.Event]) -> list[str]:
    return [event["type"] for event in found]


def test_a_reader_gets_each_event_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert tail(path) == ([], 0)
    append(path, {"type": "stage", "text": "zwölf ☕"})
    first, offset = tail(path)
    assert first[0]["text"] == "zwölf ☕" and first[0]["time"] > 0
    assert offset == path.stat().st_size
    assert tail(path, offset) == ([], offset)
    append(path, {"type": "save", "step": 3})
    second, end = tail(path, offset)
    assert types(second) == ["save"] and end == path.stat().st_size


def test_an_event_is_one_line_whatever_it_says(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    text = "a\nb\r\u2028c\u0085d"
    append(path, {"type": "note", "text": text})
    assert path.read_bytes().count(b"\n") == 1
    assert tail(path)[0][0]["text"] == text


def test_an_event_with_no_number_in_it_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with pytest.raises(ValueError, match="JSON"):
        append(path, {"type": "log", "loss": float("nan")})
    assert not path.exists()


def test_a_half_line_is_left_for_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = json.dumps({"type": "note", "text": "é"}, ensure_ascii=False).encode() + b"\n"
    offset = 0
    for cut in range(len(line)):
        write(path, line[cut : cut + 1])
        found, offset = tail(path, offset)
        assert types(found) == (["note"] if cut == len(line) - 1 else [])
    assert offset == len(line)


def test_lines_that_are_no_events_are_skipped_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    garbage = [b"{half\n", b"\xff\xfe\n", b"\0\0\0\n", b"[1]\n", b"7\n", b"\n", b'{"step": 1}\n']
    write(path, '{"type": "a"}\n', *garbage, '{"type": "b"}\n')
    found, offset = tail(path)
    assert types(found) == ["a", "b"]
    assert offset == path.stat().st_size


def test_a_large_log_is_read_in_blocks_without_losing_a_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, *[json.dumps({"type": "log", "step": n}) + "\n" for n in range(500)])
    steps: list[int] = []
    offset = 0
    while offset < path.stat().st_size:
        found, offset = tail(path, offset, limit=100)
        steps += [event["step"] for event in found]
    assert steps == list(range(500))


def test_all_events_are_read_however_long_the_log_is(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert list(events.read(path)) == []
    write(path, *[json.dumps({"type": "log", "step": n}) + "\n" for n in range(500)], '{"type":')
    assert [event["step"] for event in events.read(path, limit=100)] == list(range(500))


def test_a_write_that_was_cut_short_is_told_and_costs_only_its_own_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append(path, {"type": "stage", "text": "a"})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on a file's size cuts a write as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, before[1]))
    try:
        with pytest.raises(OSError, match="No space") as caught:
            append(path, {"type": "note", "text": "lost"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.ENOSPC
    found, offset = tail(path)
    assert types(found) == ["stage"]
    append(path, {"type": "end", "status": "failed"})
    assert types(tail(path, offset)[0]) == ["end"]
    assert types(list(events.read(path))) == ["stage", "end"]


def test_folding_in_parts_gives_what_folding_at_once_gives() -> None:
    whole = fold(RunState(), LIFE)
    rng = random.Random(1)
    for _ in range(50):
        state, rest = RunState(), list(LIFE)
        while rest:
            size = rng.randint(1, len(rest))
            state, rest = fold(state, rest[:size]), rest[size:]
        assert state == whole


def test_the_state_is_what_the_events_add_up_to() -> None:
    states = [fold(RunState(), LIFE[:n]) for n in range(len(LIFE) + 1)]
    assert [s.status for s in states] == [
        "created",
        "starting",
        "starting",
        *["running"] * 8,
        "finished",
    ]
    tokenizing = states[2]
    assert (tokenizing.stage, tokenizing.done, tokenizing.total) == ("tokenizing", 3, 9)
    end = states[-1]
    assert (end.step, end.max_steps, end.loss, end.train_loss, end.eval_loss) == (
        2,
        4,
        2.25,
        2.375,
        2.0,
    )
    # The steps began after the look before the first one.
    assert (end.started, end.trained_from, end.updated) == (1.0, 3.5, 6.0)
    assert end.tokens_per_second == 80.0 and end.notes == ("slow disk",) and end.device == "CPU"
    assert end.problem is None


def test_a_failure_keeps_what_to_do_and_where_it_happened() -> None:
    end = {"type": "end", "status": "failed", "message": "m", "hint": "h", "stage": "saving"}
    state = fold(RunState(), [*LIFE[:5], end])
    assert state.status == "failed" and state.status in ENDED
    assert state.problem == {"message": "m", "hint": "h", "stage": "saving"}
    assert (state.step, state.loss) == (1, 2.5)


def test_no_event_but_the_end_decides_that_a_run_has_ended() -> None:
    sly = [
        {"type": kind, "status": "finished"} for kind in ("stage", "start", "log", "eval", "note")
    ]
    assert fold(RunState(), sly).status == "running"


@pytest.mark.parametrize(
    "sly",
    [
        {"type": "log", "step": 1, "loss": 1, "spent": None, "time": 1.0},
        {"type": "log", "step": 1, "loss": 1, "notes": None, "started": "x", "trained_from": []},
        {"type": "log", "step": 1, "loss": "high", "epoch": None, "learning_rate": {}},
        {"type": "start", "max_steps": None, "train_rows": "many", "parameters": True, "device": 7},
        {"type": "end", "status": "failed", "step": True, "train_loss": "low", "paused": 1},
        {"type": "stage", "text": None, "done": "x", "total": []},
    ],
    ids=str,
)
def test_an_event_tells_only_what_its_kind_tells_and_as_what_it_is(sly: events.Event) -> None:
    state = fold(RunState(), [sly])
    step = 1 if sly.get("step") == 1 and sly["type"] == "log" else 0
    kept = replace(RunState(), step=step, loss=1 if sly.get("loss") == 1 else None)
    told = ("status", "stage", "started", "updated", "trained_from", "problem")
    assert replace(state, **{k: getattr(kept, k) for k in told}) == kept
    # And what comes after it is understood.
    after = [{"type": "attempt", "step": 0, "time": 2.0}, {"type": "note", "text": "x"}]
    assert fold(state, after).notes == ("x",) and fold(state, after).spent == 0.0


def test_a_number_beyond_all_numbers_is_no_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for value in ("1" + "0" * 400, "-1" + "0" * 400, "1e999", "NaN"):
        write(path, f'{{"type": "log", "step": 1, "loss": {value}}}\n')
    write(path, '{"type": "log", "step": 1, "loss": 1e30}\n')
    assert [e["loss"] for e in tail(path)[0]] == [1e30]


def test_looking_again_costs_what_is_new(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    run = store.create(DEFAULTS, "long")
    line = json.dumps({"type": "log", "time": 1.0, "step": 1, "loss": 2.0, "pad": "x" * 400}) + "\n"
    write(run.events, line * 20_000)
    assert store.state(run).step == 1
    append(run.events, {"type": "log", "step": 2, "loss": 1.0})
    before = psutil.Process().io_counters().read_chars
    assert store.state(run).step == 2
    read = psutil.Process().io_counters().read_chars - before
    assert run.events.stat().st_size > 8_000_000
    assert read < 20_000
