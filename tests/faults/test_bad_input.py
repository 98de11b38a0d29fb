"""Run folders as disks, clocks, people and other programs leave them: the page and the command line
say what each of them is, and never a traceback."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studio import cli, jobs
from studio.errors import StudioError
from studio.jobs import conduct
from studio.runs import Run, RunStore, events, keep
from studio.runs.files import write_process
from studio.settings import PROJECT, Settings
from studio.spec import DEFAULTS, RunSpec
from studio.ui import header, live
from studio.ui.run_view import about
from tests.faults.helpers import TALLY, env_of, rng, weights

Make = Callable[[], Run]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home that the command line finds, too."""
    home = tmp_path / "home"
    home.mkdir()
    found = Settings(home=home, workspace=tmp_path, bench_idle_s=60)
    for name, value in env_of(found).items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def store(settings: Settings) -> RunStore:
    return RunStore(settings.runs)


def told(run: Run, *more: dict[str, Any]) -> None:
    """A log as a worker in the middle of its work leaves it."""
    for event in (
        {"type": "stage", "text": "loading the libraries"},
        {"type": "start", "max_steps": 10, "train_rows": 4, "device": "CPU"},
        *({"type": "log", "step": n, "epoch": n / 4, "loss": 2.0 / n} for n in range(1, 6)),
        *more,
    ):
        events.append(run.events, event)


@pytest.fixture
def cut_off(store: RunStore, spec_with: Callable[..., RunSpec]) -> Run:
    """A run whose worker vanished after its fifth step."""
    run = store.create(spec_with(), "cut-off")
    write_process(run.pid, os.getpid())
    stored = json.loads(run.pid.read_text())
    run.pid.write_text(json.dumps({**stored, "birth": stored["birth"] + "0"}))
    told(run)
    return run


def look(settings: Settings, run: Run, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Everything that shows a run; returns where it stands, as the page gets it."""
    store = RunStore(settings.runs)
    polls = live.polls(store)
    shown = dict(polls["tick"]({"run": run.id, "offset": 0}))
    for function in live._of_one(store):
        assert isinstance(function({"run": run.id}), dict)
    assert about(store, run)["can"]
    rows = polls["runs"]({"search": "", "star": False})["runs"]
    assert run.id in [row["id"] for row in rows]
    bar = header.polls(store, settings)["pulse"]({})
    assert bar["run"] is None or bar["run"]["id"] == run.id
    json.dumps([shown, rows, bar], allow_nan=False)
    if store.active() is None and os.access(settings.home, os.W_OK):
        # Another is not held up by it.
        new = jobs.start(store, settings, DEFAULTS, "another")
        jobs.remove(store, new)
        shutil.rmtree(new.path)
    for words in (["show", run.id], ["runs"]):
        for more in ([], ["--json"]):
            code = cli.main([*words, *more])
            said = capsys.readouterr()
            assert "Traceback" not in said.err + said.out
            assert code == 0 or said.err.strip(), words
    TALLY.other["bad folders looked at"] += 1
    return shown


Look = Callable[[Run], dict[str, Any]]


@pytest.fixture
def seen(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Look:
    # What is put into the queue here is not begun.
    monkeypatch.setattr(conduct, "ensure", lambda _: None)
    return lambda run: look(settings, run, capsys)


def test_a_run_that_was_cut_off_says_so(cut_off: Run, seen: Look) -> None:
    state = seen(cut_off)["state"]
    assert state["status"] == "interrupted" and state["problem"]["hint"]
    assert (state["step"], state["max_steps"]) == (5, 10)


def test_a_log_that_is_cut_at_any_byte_is_read_as_far_as_it_goes(
    cut_off: Run, settings: Settings, seen: Look
) -> None:
    whole, chance = cut_off.events.read_bytes(), rng("cuts")
    for size in [0, 1, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(12))]:
        cut_off.events.write_bytes(whole[:size])
        shown = seen(cut_off)
        assert shown["state"]["status"] == "interrupted"
        wanted = [
            json.loads(line)["step"]
            for line in whole[:size].splitlines(keepends=True)
            if line.endswith(b"\n") and b'"log"' in line
        ]
        assert [p["step"] for p in shown["points"]] == wanted
        # The next attempt's first word is not spoilt by the half line.
        events.append(cut_off.events, {"type": "attempt", "step": 0, "changes": []})
        assert list(events.read(cut_off.events))[-1]["type"] == "attempt"


def test_a_page_that_was_ahead_of_a_log_that_shrank_begins_anew(
    cut_off: Run, store: RunStore
) -> None:
    before = live.tick({"run": cut_off.id, "offset": 0}, store)
    lines = cut_off.events.read_bytes().splitlines(keepends=True)
    cut_off.events.write_bytes(b"".join(lines[:4]))
    shown = live.tick({"run": cut_off.id, "offset": before["offset"]}, store)
    assert shown["offset"] == cut_off.events.stat().st_size
    assert [p["step"] for p in shown["points"]] == [1, 2]
    # What the page drew beyond them is taken back.
    assert shown["back"] == -1


GARBAGE: list[bytes] = [
    b"\x00" * 4096 + b"\n",
    b"[1, 2]\n",
    b'"text"\n',
    b"null\n",
    b"{}\n",
    b'{"type": "log"}\n',
    b'{"type": "log", "step": "seven", "loss": 1}\n',
    b'{"type": "log", "step": 6, "loss": "high"}\n',
    b'{"type": "log", "step": 6, "loss": NaN}\n',
    b'{"type": "log", "step": 6, "loss": 1e999}\n',
    b'{"type": "log", "step": 6.5, "loss": 1}\n',
    b'{"type": "log", "step": true, "loss": 1}\n',
    b'{"type": "log", "step": 6, "epoch": "x", "learning_rate": [], "num_tokens": {}}\n',
    b'{"type": "eval", "step": 6}\n',
    b'{"type": "eval", "step": 6, "eval_loss": null}\n',
    b'{"type": "stage"}\n',
    b'{"type": "stage", "text": {"a": 1}, "done": "x", "total": []}\n',
    b'{"type": "stage", "text": "counting", "done": 5, "total": 0}\n',
    b'{"type": "start", "max_steps": "many", "train_rows": null, "device": 7}\n',
    b'{"type": "attempt"}\n',
    b'{"type": "attempt", "step": null, "changes": 3}\n',
    b'{"type": "attempt", "step": 2, "changes": [1, {"step": 3}, {"step": "a", "value": "b"}]}\n',
    b'{"type": "branch", "step": 2}\n',
    b'{"type": "change", "step": 2}\n',
    b'{"type": "change", "step": 2, "value": "fast"}\n',
    b'{"type": "note"}\n',
    b'{"type": "note", "text": ["a"]}\n',
    b'{"type": "end"}\n',
    b'{"type": "end", "status": "exploded"}\n',
    b'{"type": "end", "status": 5}\n',
    b'{"type": "end", "status": "failed", "message": null, "changes": "x"}\n',
    b'{"type": "end", "status": "finished", "train_loss": "low", "step": "last"}\n',
    b'{"type": "from tomorrow", "step": 3, "what": {"deep": [[[[]]]]}}\n',
    b'{"type": "log", "step": 6, "loss": 1, "spent": null, "notes": null, "started": "x"}\n',
    b'{"type": "log", "step": 6, "loss": 1' + b"0" * 400 + b"}\n",
    b'{"type": "log", "time": "noon", "step": 6, "loss": 1}\n',
    b'{"type": "log", "time": -5, "step": 6, "loss": 1}\n',
    b'{"type": "log", "time": 1e300, "step": 6, "loss": 1}\n',
    b'{"type": "log", "step": -6, "loss": 1}\n',
    b'{"type": "log", "step": 99999999999999999999999, "loss": 1}\n',
    b"[" * 100_000 + b"\n",
    b'{"type": "note", "text": "\\ud800"}\n',
    b'{"type": "note", "text": "\xff\xfe"}\n',
]


@pytest.mark.parametrize("number", range(len(GARBAGE)))
def test_foreign_lines_in_a_log_spoil_nothing_else(
    cut_off: Run, seen: Look, number: int, settings: Settings
) -> None:
    with cut_off.events.open("ab") as file:
        file.write(GARBAGE[number])
    shown = seen(cut_off)
    assert shown["state"]["status"] != "unreadable", shown["state"]
    # An attempt that says no step begins anew.
    anew = GARBAGE[number].startswith(b'{"type": "attempt"') and b"2" not in GARBAGE[number]
    assert anew or {1, 2} <= {p["step"] for p in shown["points"]}
    assert RunStore(settings.runs).state(cut_off).status in (
        "interrupted", "finished", "failed", "stopped",
    )  # fmt: skip
    cut_off.history()
    events.changes(events.read(cut_off.events), 1)
    # And it is followed further as if nothing had been.
    told(cut_off, {"type": "end", "status": "finished", "step": 10, "train_loss": 0.5})
    assert seen(cut_off)["state"]["status"] == "finished"


PIDS = [
    "", "{", "[]", "7", "{}", '{"pid": 1}', '{"pid": "x", "birth": "1"}', '{"pid": -1}', "\x00",
    '{"pid": 1e999, "birth": "1"}', "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", PIDS)
def test_a_pid_file_that_says_nothing_means_that_nobody_works(
    cut_off: Run, seen: Look, text: str
) -> None:
    cut_off.pid.write_text(text)
    assert seen(cut_off)["state"]["status"] == "interrupted"


def test_a_pid_that_belongs_to_another_process_now_is_left_alone(
    cut_off: Run, seen: Look, settings: Settings, store: RunStore
) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        write_process(cut_off.pid, other.pid)
        stored = json.loads(cut_off.pid.read_text())
        boot, _, ticks = stored["birth"].partition(" ")
        for birth in (f"{boot} {int(ticks) - 1}", f"{boot[::-1]} {ticks}"):
            cut_off.pid.write_text(json.dumps({**stored, "birth": birth}))
            assert seen(cut_off)["state"]["status"] == "interrupted"
            for now in (False, True):
                with pytest.raises(StudioError, match="is not going"):
                    jobs.stop(cut_off, now=now)
            assert store.active() is None
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("shift", [-3e8, -3600.0, 3600.0, 3e8])
def test_a_clock_that_was_set_makes_no_time_negative(
    cut_off: Run, seen: Look, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    real = time.time
    write_process(cut_off.pid, os.getpid())
    monkeypatch.setattr("time.time", lambda: real() + shift)
    told(cut_off, {"type": "log", "step": 6, "loss": 1.0})
    state = seen(cut_off)["state"]
    assert state["status"] == "running"
    assert state["elapsed"] >= 0 and state.get("remaining", 0) >= 0
    # One that has ended, in the future or in the past.
    told(cut_off, {"type": "end", "status": "finished", "step": 10})
    monkeypatch.undo()
    os.environ["STUDIO_HOME"] = str(cut_off.path.parent.parent)
    state = seen(cut_off)["state"]
    assert state["status"] == "finished" and state["elapsed"] >= 0


SPECS = {
    # As version 0.1 wrote them.
    "model: {name_or_path: SmolLM2-135M-Instruct}\n"
    "data: {path: persona.jsonl, test_size: 0.1, max_rows: 50, system_prompt: Be kind.}\n": "",
    "data: {test_size: 25}\n": "",
    # As nobody wrote them.
    "": "",
    "train: {seed: none}\n": "another version",
    "train: {from_tomorrow: 1}\n": "another version",
    "[1, 2]\n": "can't be read",
    "model: [\n": "can't be read",
    "\x00\x01": "can't be read",
    "a: &a [*a]\n": "",
    "model: !!python/object/apply:os.system ['touch /tmp/never']\n": "can't be read",
}


@pytest.mark.parametrize("text", SPECS)
def test_settings_of_another_version_are_shown_as_what_they_are(
    cut_off: Run, seen: Look, text: str, store: RunStore, settings: Settings
) -> None:
    (cut_off.path / "spec.yaml").write_text(text)
    state = seen(cut_off)["state"]
    assert state["status"] == "interrupted"
    wrong = about(store, cut_off)["unreadable"]
    assert SPECS[text] in wrong
    if SPECS[text]:
        assert wrong
        for act in (
            lambda: jobs.resume(store, settings, cut_off),
            lambda: jobs.branch(store, settings, cut_off, 2),
        ):
            with pytest.raises(StudioError) as refused:
                act()
            assert refused.value.message
        assert store.waiting() == ()


def test_a_run_without_settings_or_that_is_no_folder(
    cut_off: Run, store: RunStore, seen: Look, settings: Settings
) -> None:
    (cut_off.path / "spec.yaml").unlink()
    assert seen(cut_off)["state"]["status"] == "interrupted"
    assert "gone" in about(store, cut_off)["unreadable"]
    (cut_off.path / "spec.yaml").mkdir()
    seen(cut_off)
    cut_off.events.unlink()
    cut_off.events.mkdir()
    seen(cut_off)
    shutil.rmtree(cut_off.path)
    # It was there when the page last looked.
    assert live.polls(store)["tick"]({"run": cut_off.id, "offset": 0}) == {"gone": True}


def test_a_run_that_is_a_link_to_nowhere_is_not_listed(store: RunStore) -> None:
    store.root.mkdir(exist_ok=True)
    (store.root / "20261101-101010-gone").symlink_to("/nowhere")
    assert store.list() == []


@pytest.fixture
def read_only(settings: Settings, store: RunStore, cut_off: Run) -> Iterator[Path]:
    """The home, mounted so that nobody can write there, not even root."""
    home = settings.home
    bind = ["mount", "--bind", str(home), str(home)]
    done = subprocess.run(bind, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    subprocess.run(["mount", "-o", "remount,ro,bind", str(home)], check=True)
    yield home
    subprocess.run(["umount", "-l", str(home)], check=True)


def test_a_home_that_is_only_read_is_shown_and_says_so_when_it_is_to_be_written(
    read_only: Path, settings: Settings, cut_off: Run, seen: Look, store: RunStore,
    spec_with: Callable[..., RunSpec], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert seen(cut_off)["state"]["status"] == "interrupted"
    jobs.ensure(settings)
    for act in (
        lambda: jobs.start(store, settings, spec_with(), "new"),
        lambda: jobs.enqueue(store, settings, spec_with(), "new"),
        lambda: jobs.resume(store, settings, cut_off),
        lambda: jobs.sweep(store, settings, spec_with(), "new", {"train.seed": [1, 2]}),
    ):
        with pytest.raises(StudioError, match="can't be written: Read-only"):
            act()
    for words in (["resume", cut_off.id], ["queue", "add", str(_recipe(settings))]):
        assert cli.main(words) == 1
        assert "Traceback" not in capsys.readouterr().err
    command = [sys.executable, "-m", "studio.worker", "train", str(cut_off.path)]
    done = subprocess.run(
        command, cwd=PROJECT, env={**os.environ, **env_of(settings)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1


def _recipe(settings: Settings) -> Path:
    path = settings.workspace / "recipe.yaml"
    path.write_text("train: {max_steps: 1}\n")
    return path


def test_a_home_that_moves_to_another_machine_goes_on_there(
    tmp_path: Path, spec_with: Callable[..., RunSpec], train_here: Callable[[Run, Settings], int]
) -> None:
    """Another path, another boot, and the best checkpoint is not where its state says."""
    spec = spec_with(
        train={"max_steps": 6, "save_steps": 2, "save_total_limit": 10},
        eval={"eval_steps": 2, "load_best_model_at_end": True},
    )
    here = Settings(home=tmp_path / "here", workspace=tmp_path)
    there = Settings(home=tmp_path / "there" / "deep", workspace=tmp_path)
    run = RunStore(here.runs).create(spec, "moves")
    assert train_here(run, here) == 0
    wanted = weights(run)
    # As it was after step 4, on a machine that went down.
    shutil.rmtree(run.checkpoints / "checkpoint-6")
    shutil.rmtree(run.adapter)
    lines = run.events.read_bytes().splitlines(keepends=True)
    cut = next(n for n, line in enumerate(lines) if b'"step": 5' in line)
    run.events.write_bytes(b"".join(lines[:cut]))
    stored = json.loads(run.pid.read_text())
    run.pid.write_text(json.dumps({**stored, "birth": stored["birth"][::-1]}))
    there.home.parent.mkdir(parents=True)
    here.home.rename(there.home)
    moved = Run(there.runs / run.id)
    assert RunStore(there.runs).state(moved).status == "interrupted"
    assert train_here(moved, there) == 0
    assert weights(moved) == wanted
    for state in moved.checkpoints.glob("*/trainer_state.json"):
        best = json.loads(state.read_text())["best_model_checkpoint"]
        if state.parent.name == "checkpoint-6":
            assert best is None or best.startswith(str(there.home))


def test_a_run_taken_along_is_shown_elsewhere(
    cut_off: Run, tmp_path: Path, settings: Settings, seen: Look
) -> None:
    keep.pack(cut_off, tmp_path / "run.tar")
    shutil.rmtree(cut_off.path)
    found = keep.unpack(RunStore(settings.runs), tmp_path / "run.tar")
    assert seen(found)["state"]["step"] == 5
