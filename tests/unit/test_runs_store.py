"""Run folders: made, found, and judged by their events and their process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from studio.errors import StudioError
from studio.runs import ENDED, Run, RunStore, events, queue
from studio.runs.events import append
from studio.runs.files import write_process
from studio.settings import PROJECT
from studio.spec import DEFAULTS, with_overrides

START: dict[str, Any] = {"type": "start", "max_steps": 9}
LOG: dict[str, Any] = {"type": "log", "step": 3, "loss": 2.0}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def run(store: RunStore) -> Run:
    return store.create(DEFAULTS, "persona")


@pytest.fixture
def worker(run: Run) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that stands for the run's worker."""
    process = subprocess.Popen(["sleep", "60"])
    write_process(run.pid, process.pid)
    yield process
    process.kill()
    process.wait()


def end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def named(store: RunStore, *names: str) -> None:
    for name in names:
        (store.root / name).mkdir(parents=True)


def test_a_run_is_a_folder_with_its_settings(store: RunStore) -> None:
    spec = with_overrides(DEFAULTS, ["train.max_steps=5"])
    run = store.create(spec, "My Recipe: Nr. 2!")
    assert run.name == "my-recipe-nr-2"
    assert run.spec() == spec
    assert store.list() == [run] and store.get(run.id) == run


def test_names_that_are_no_names_make_a_run_that_is_found_again(store: RunStore) -> None:
    for name in ("", "../../etc", "ÄÖÜ", "x" * 500, "a" * 31 + "-b", "-", "日本"):
        run = store.create(DEFAULTS, name)
        assert run.path.parent == store.root
        assert store.get(run.id) == run
    assert len(store.list()) == 7


def test_runs_made_in_the_same_second_by_many_have_different_ids(store: RunStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = [r.id for r in pool.map(lambda _: store.create(DEFAULTS, "same"), range(24))]
    assert len(set(ids)) == 24
    assert {r.id for r in store.list()} == set(ids)


def test_a_run_is_found_by_its_id_or_by_how_only_it_begins_or_ends(store: RunStore) -> None:
    named(store, "20250101-000000-alpha", "20250102-000000-beta", "20250102-000001-alpha")
    assert store.get("20250101").id == "20250101-000000-alpha"
    assert store.get("beta").id == "20250102-000000-beta"
    assert store.get("20250102-000001-alpha").id == "20250102-000001-alpha"
    for ambiguous in ("alpha", "2025", "20250102"):
        with pytest.raises(StudioError, match=r"could be [23] runs") as caught:
            store.get(ambiguous)
        assert "20250102-000001-alpha" in caught.value.hint
    for unknown in ("gamma", "", "..", "20250101-000000-alpha/..", "*"):
        with pytest.raises(StudioError, match="There is no run"):
            store.get(unknown)


def test_an_id_that_begins_another_is_that_run(store: RunStore) -> None:
    named(store, "20250101-000000-a", "20250101-000000-a-2")
    assert store.get("20250101-000000-a").id == "20250101-000000-a"


def test_runs_are_listed_newest_first_and_other_things_are_not_runs(store: RunStore) -> None:
    assert store.list() == []
    named(store, "20250101-000000-a", "20250103-000000-b", "notes", ".hidden", "20250102-1-c")
    (store.root / "20250104-000000-file").touch()
    assert [r.id for r in store.list()] == ["20250103-000000-b", "20250101-000000-a"]


def test_a_run_that_was_never_started_is_created_and_holds_nobody_up(
    store: RunStore, run: Run
) -> None:
    long_ago = time.time() - 3600
    os.utime(run.path, (long_ago, long_ago))
    assert store.state(run).status == "created"
    assert store.active() is None


def test_a_run_whose_worker_never_said_a_word_is_interrupted(
    store: RunStore, run: Run, worker: "subprocess.Popen[bytes]"
) -> None:
    assert store.state(run).status == "starting" and store.active() == run
    end(worker)
    state = store.state(run)
    assert state.status == "interrupted" and state.problem and state.problem["stage"] == "starting"
    assert store.active() is None


def test_a_worker_that_has_not_said_a_word_goes_on_with_an_ended_run(
    store: RunStore, run: Run
) -> None:
    append(run.events, START)
    append(run.events, {"type": "end", "status": "stopped", "step": 3})
    said = run.events.stat().st_size
    with subprocess.Popen(["sleep", "60"]) as process:
        # It came after all that was said: another attempt. One that came before is on its way out.
        write_process(run.pid, process.pid, said)
        assert store.state(run).status == "starting" and store.active() == run
        write_process(run.pid, process.pid, 0)
        assert store.state(run).status == "stopped" and store.active() is None
        process.kill()


def test_a_log_that_was_cut_off_is_read_anew(store: RunStore, run: Run) -> None:
    append(run.events, START)
    whole = run.events.read_bytes()
    append(run.events, {"type": "end", "status": "finished", "step": 9})
    assert store.state(run).status == "finished"
    run.events.write_bytes(whole[: len(whole) // 2])
    assert store.state(run).status in ("created", "interrupted")
    run.events.write_bytes(whole)
    write_process(run.pid, os.getpid())
    assert store.state(run).status == "running"


def test_a_log_is_judged_when_all_of_it_was_read(
    store: RunStore, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(run.events, START)
    for step in range(1, 9):
        append(run.events, {**LOG, "step": step})
    append(run.events, {"type": "end", "status": "finished", "step": 9})
    run.pid.touch()
    whole, tail = run.events.stat().st_size, events.tail
    # As a log that is larger than what is read at once.
    limited = lambda path, offset=0, limit=0: tail(path, offset, 200)  # noqa: E731
    monkeypatch.setattr(events, "tail", limited)
    assert whole > 3 * 200 and store.state(run).status == "finished"
    assert [e["type"] for e in events.read(run.events)].count("log") == 8


def test_what_a_stop_file_asks_for(
    store: RunStore, run: Run, worker: "subprocess.Popen[bytes]"
) -> None:
    append(run.events, START)
    run.stop.write_text("pause", encoding="utf-8")
    assert store.state(run).status == "stopping"
    # Whoever ends it at once knows that it saves no more.
    for wish in ("now", "discard"):
        run.stop.write_text(wish, encoding="utf-8")
        assert store.state(run).status == "stopping"
    end(worker)
    state = store.state(run)
    assert (state.status, state.paused, state.problem) == ("stopped", False, None)


@pytest.mark.parametrize(("wish", "asked"), [("", "to stop"), ("pause", "to pause")])
def test_a_worker_that_was_killed_before_it_could_save_is_told(
    store: RunStore, run: Run, worker: "subprocess.Popen[bytes]", wish: str, asked: str
) -> None:
    append(run.events, START)
    run.stop.write_text(wish, encoding="utf-8")
    end(worker)
    run.exit.write_text('{"code": -9, "oom": true, "peak": 8000000000}', encoding="utf-8")
    state = store.state(run)
    assert (state.status, state.paused) == ("interrupted", False)
    message = (state.problem or {})["message"]
    assert "want of memory" in message and f"asked {asked}" in message
    assert "no checkpoint" in message
    (run.checkpoints / "checkpoint-40").mkdir(parents=True)
    message = (RunStore(store.root).state(run).problem or {})["message"]
    assert "last checkpoint is of step 40" in message


def test_settings_that_would_fit_are_told_with_the_problem(
    store: RunStore, run: Run, worker: "subprocess.Popen[bytes]"
) -> None:
    append(run.events, START)
    end(worker)
    run.exit.write_text('{"code": -9, "changes": {"train.max_length": 512}}', encoding="utf-8")
    problem = store.state(run).problem
    assert problem and problem["changes"] == '{"train.max_length": 512}'
    failed = {"type": "end", "status": "failed", "message": "m", "hint": "h", "changes": {"a.b": 1}}
    append(run.events, failed)
    problem = store.state(run).problem
    assert problem and problem["changes"] == '{"a.b": 1}' and problem["message"] == "m"


def test_one_bad_folder_hides_no_other_run(
    store: RunStore, run: Run, worker: "subprocess.Popen[bytes]"
) -> None:
    append(run.events, START)
    bad = store.create(DEFAULTS, "zzz")
    bad.events.mkdir()
    assert store.look(bad) is None and store.active() == run
    end(worker)
    assert store.active() is None


@pytest.mark.parametrize("peak", ["null", '"much"', "[]", "1" + "0" * 400, "true"])
def test_a_peak_that_is_no_number_is_none(store: RunStore, run: Run, peak: str) -> None:
    run.pid.touch()
    run.exit.write_text(f'{{"code": -9, "oom": true, "peak": {peak}}}', encoding="utf-8")
    problem = store.state(run).problem
    assert problem and "it held 0.0 GB" in problem["message"]


def test_the_queue_is_read_again_only_when_it_changed(store: RunStore, run: Run) -> None:
    assert store.state(run).status == "created"
    with queue.changing(store.root) as waiting:
        waiting.append(run.id)
    assert store.state(run).status == "queued"
    with queue.changing(store.root) as waiting:
        waiting.clear()
    assert store.state(run).status == "created"


def test_a_run_with_a_living_worker_is_what_its_events_say(
    store: RunStore, run: Run, worker: "subprocess.Popen[bytes]"
) -> None:
    append(run.events, {"type": "stage", "text": "loading"})
    assert store.state(run).status == "starting"
    append(run.events, START)
    append(run.events, LOG)
    state = store.state(run)
    assert (state.status, state.step, state.max_steps) == ("running", 3, 9)
    run.stop.touch()
    assert store.state(run).status == "stopping"
    assert store.active() == run


@pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
def test_a_run_that_said_how_it_ended_ended_so(
    store: RunStore, run: Run, worker: "subprocess.Popen[bytes]", status: str
) -> None:
    append(run.events, START)
    append(run.events, {"type": "end", "status": status, "message": "m", "hint": "h"})
    assert store.state(run).status == status
    end(worker)
    run.stop.touch()
    assert store.state(run).status == RunStore(store.root).state(run).status == status
    assert (store.state(run).problem is not None) == (status == "failed")
    assert store.active() is None


def test_a_run_whose_worker_vanished_is_interrupted_and_says_where_it_was(
    store: RunStore, run: Run, worker: "subprocess.Popen[bytes]"
) -> None:
    append(run.events, START)
    append(run.events, LOG)
    assert store.state(run).status == "running"
    end(worker)
    run.log.write_text("Loading\nMemoryError: 8 GB\n\n", encoding="utf-8")
    state = store.state(run)
    assert state.status == "interrupted" and state.status in ENDED
    assert (state.step, state.loss) == (3, 2.0)
    assert state.problem and state.problem["stage"] == "training"
    assert state.problem["hint"] == "Its last words: MemoryError: 8 GB"


def test_a_recycled_pid_does_not_keep_a_run_alive(store: RunStore, run: Run) -> None:
    write_process(run.pid, os.getpid())
    append(run.events, START)
    assert store.state(run).status == "running"
    stored = run.pid.read_text(encoding="utf-8")
    run.pid.write_text(stored.replace('"birth": "', '"birth": "9'), encoding="utf-8")
    assert run.pid.read_text(encoding="utf-8") != stored
    assert store.state(run).status == "interrupted"


def test_many_readers_of_one_store_see_the_same_end(
    store: RunStore, run: Run, worker: "subprocess.Popen[bytes]"
) -> None:
    append(run.events, START)
    with ThreadPoolExecutor(8) as pool:
        looks = [pool.submit(store.state, run) for _ in range(40)]
        for step in range(1, 200):
            append(run.events, {"type": "note", "text": str(step)})
            looks.append(pool.submit(store.state, run))
        assert all(look.result().status == "running" for look in looks)
    assert store.state(run).notes == tuple(str(n) for n in range(1, 200))


def test_history_joins_what_was_logged_and_evaluated_at_a_step(run: Run) -> None:
    for event in (
        {"type": "eval", "step": 0, "eval_loss": 3.0},
        {"type": "stage", "text": "training"},
        {"type": "log", "step": 2, "loss": 2.0, "learning_rate": 1e-4},
        {"type": "log", "step": 1, "loss": 2.5},
        {"type": "eval", "step": 2, "eval_loss": 1.5},
        {"type": "log", "loss": 9.0},
    ):
        append(run.events, event)
    assert run.history() == [
        {"step": 0, "eval_loss": 3.0},
        {"step": 1, "loss": 2.5},
        {"step": 2, "loss": 2.0, "learning_rate": 1e-4, "eval_loss": 1.5},
    ]


def test_the_end_of_the_log_is_read_whatever_it_holds(run: Run) -> None:
    assert run.read_log() == ""
    run.log.write_bytes(b"x" * 50_000 + "é".encode() + b"\xffend")
    assert run.read_log(6) == "é\ufffdend"
    assert run.read_log(5) == "\ufffd\ufffdend"
    assert len(run.read_log()) <= 20_000


def test_settings_that_cannot_be_read_are_told(run: Run) -> None:
    (run.path / "spec.yaml").write_text("train:\n  sede: 1\n", encoding="utf-8")
    with pytest.raises(StudioError, match="Did you mean seed"):
        run.spec()
    (run.path / "spec.yaml").unlink()
    with pytest.raises(StudioError, match="There is no recipe"):
        run.spec()


def test_another_process_sees_the_same_state(
    store: RunStore, run: Run, worker: "subprocess.Popen[bytes]"
) -> None:
    append(run.events, START)
    append(run.events, LOG)
    script = (
        "import sys\nfrom pathlib import Path\nfrom studio.runs import RunStore\n"
        "s = RunStore(Path(sys.argv[1]))\nstate = s.state(s.list()[0])\n"
        "print(state.status, state.step)\n"
    )
    command = [sys.executable, "-c", script, str(store.root)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["running", "3"]
