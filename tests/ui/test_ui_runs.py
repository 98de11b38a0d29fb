"""The Runs tab: each act is seen on the disk, and what is shown is what the disk says."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from studio.errors import SpecError
from studio.jobs.conduct import _lock
from studio.runs import Run, RunStore, checkpoints, keep, queue
from studio.runs.events import append
from studio.runs.files import write_process
from studio.runs.lock import try_lock
from studio.settings import Settings
from studio.spec import DEFAULTS, RunSpec, parse, with_overrides
from studio.ui import space
from studio.ui.compare import Comparing
from studio.ui.live import tick
from studio.ui.run_acts import Done, Hands, perform, read
from studio.ui.run_view import about, traceback_of
from studio.ui.runs_list import Listing
from tests.ui.conftest import write


@pytest.fixture(autouse=True)
def nobody_starts_what_waits(settings: Settings) -> Iterator[None]:
    with try_lock(_lock(settings)) as ours:
        assert ours
        yield


@pytest.fixture
def hands(store: RunStore, settings: Settings) -> Hands:
    return Hands(store, settings, lambda: with_overrides(DEFAULTS, ["train.learning_rate=5e-5"]))


@pytest.fixture
def going(store: RunStore) -> Iterator[Run]:
    """A run that trains, as far as anybody can see."""
    run = made(store, "going", status=None, step=4)
    worker = subprocess.Popen(["sleep", "600"], start_new_session=True)
    write_process(run.pid, worker.pid)
    yield run
    worker.kill()
    worker.wait()


def made(
    store: RunStore,
    name: str,
    *overrides: str,
    status: str | None = "finished",
    step: int = 10,
    saved: tuple[int, ...] = (),
    **end: Any,
) -> Run:
    """A run that has trained to that step, with checkpoints and an adapter."""
    run = store.create(with_overrides(DEFAULTS, list(overrides)), name)
    start = {"type": "start", "max_steps": 10, "num_train_epochs": 1, "train_rows": 80}
    append(run.events, {**start, "eval_rows": 8})
    for n in range(1, step + 1):
        append(run.events, {"type": "log", "step": n, "epoch": n / 10, "loss": 3 - n / 10})
    append(run.events, {"type": "eval", "step": step, "eval_loss": 2.5})
    if status:
        append(run.events, {"type": "end", "status": status, "step": step, **end})
    for n in saved:
        folder = run.checkpoints / f"checkpoint-{n}"
        state = json.dumps({"global_step": n, "best_global_step": None})
        write(folder / "trainer_state.json", state)
        write(folder / "optimizer.bin", "x" * 1000)
        checkpoints.seal(folder)
    write(run.adapter / "adapter_config.json", "{}")
    return run


def waiting(store: RunStore, *names: str) -> list[Run]:
    runs = [store.create(DEFAULTS, name) for name in names]
    with queue.changing(store.root) as ids:
        ids.extend(run.id for run in runs)
    return runs


def can(store: RunStore, run: Run) -> list[str]:
    return list(about(store, run)["can"])


def act(hands: Hands, do: str, run: Run | None = None, **more: Any) -> Done:
    return perform(hands, {"do": do, **({"run": run.id} if run else {}), **more})


# What can be done.


def test_each_state_offers_what_makes_sense_for_it(store: RunStore, going: Run) -> None:
    hot = ["pause", "stop", "save", "evaluate", "learning_rate", "discard", "use"]
    assert can(store, going) == hot
    going.stop.touch()
    assert can(store, going) == ["kill", "discard", "use"]
    first, second, third = waiting(store, "a", "b", "c")
    assert can(store, first) == ["down", "remove", "use"]
    assert can(store, second) == ["first", "up", "down", "remove", "use"]
    assert can(store, third) == ["first", "up", "remove", "use"]
    done = made(store, "done", saved=(5, 10))
    assert can(store, done) == [*"talk extend final branch use pack clean delete".split()]
    whole = made(store, "whole")
    (whole.adapter / "adapter_config.json").rename(whole.adapter / "config.json")
    assert can(store, whole)[0] == "talk", "all of its weights were trained"
    paused = made(store, "p", status="stopped", step=5, saved=(5,), paused=True)
    assert can(store, paused)[:2] == ["resume", "talk"] and "extend" not in can(store, paused)
    stopped = made(store, "s", status="stopped", step=5, saved=(5,))
    assert can(store, stopped)[:2] == ["talk", "resume"]
    failed = made(store, "f", status="failed", message="No.", hint="Yes.", stage="training")
    assert can(store, failed) == ["resume", "talk", "use", "pack", "delete"]
    never = store.create(DEFAULTS, "never")
    assert can(store, never) == ["enqueue", "use", "pack", "delete"]


def test_a_run_of_another_version_is_shown_as_what_it_is(store: RunStore) -> None:
    newer = made(store, "newer", saved=(10,))
    write(newer.path / "spec.yaml", "train: {warp_factor: 9}\n")
    told = about(store, newer)
    assert "another version" in told["unreadable"] and "warp_factor" in told["unreadable"]
    assert told["can"] == ["pack", "clean", "delete"]
    (newer.path / "spec.yaml").write_bytes(b"\xff\xfe\x00")
    assert "can't be read" in about(store, newer)["unreadable"]
    (newer.path / "spec.yaml").unlink()
    assert "holds no spec.yaml" in about(store, newer)["unreadable"]


def test_a_log_that_is_cut_off_or_foreign_breaks_nothing(store: RunStore) -> None:
    cut, foreign = made(store, "cut"), made(store, "foreign")
    cut.events.write_text(cut.events.read_text()[:-20] + '{"type": "lo')
    strange = '{"type":"log","step":3,"loss":"x"}\n{"type":"start","max_steps":"many"}\n[1]\n'
    foreign.events.write_text(strange + '{"type":"eval","step":4,"eval_loss":{"a":1}}\n')
    rows = {r["id"]: r for r in Listing(store).now({})["runs"]}
    assert set(rows) == {cut.id, foreign.id}
    for run in (cut, foreign):
        assert about(store, run)["id"] == run.id
        assert Comparing(store).table({"runs": [run.id]})["results"][0]["best_eval_loss"] in (
            2.5,
            None,
        )
    assert tick({"run": cut.id, "offset": 0}, store)["state"]["step"] == 10


# The list.


def test_runs_are_found_by_name_title_tag_note_and_status(store: RunStore) -> None:
    one, two, three = made(store, "alpha"), made(store, "beta"), made(store, "gamma")
    keep.describe(one, title="The Good One", tags=["keep"], star=True)
    keep.describe(two, notes="Learned the wrong name.")
    append(three.events, {"type": "end", "status": "failed", "message": "m", "hint": "h"})
    listing = Listing(store)

    def found(search: str, star: bool = False) -> set[str]:
        return set(listing.now({"search": search, "star": star})["found"])

    assert found("") == {one.id, two.id, three.id}
    assert found("good ONE") == found("keep") == found("", star=True) == {one.id}
    assert found("wrong name") == {two.id} and found("failed") == {three.id}
    assert found("bet") == {two.id} and found("nothing of this") == set()
    (row,) = listing.now({"search": "good"})["runs"]
    assert (row["name"], row["star"], row["tags"]) == ("The Good One", True, ["keep"])
    assert "said" not in row


def test_what_trains_and_waits_is_listed_whatever_is_searched(store: RunStore, going: Run) -> None:
    first, second = waiting(store, "a", "b")
    told = Listing(store).now({"search": "nothing of this"})
    assert told["active"] == going.id and told["queue"] == [first.id, second.id]
    assert {r["id"] for r in told["runs"]} == {going.id, first.id, second.id}
    assert [r.get("place") for r in told["runs"] if r["id"] != going.id] == [2, 1]


@pytest.mark.parametrize("request_", [None, "x", [], {"search": 5, "star": "yes"}, {"with": {}}])
def test_a_request_that_is_none_lists_all(store: RunStore, request_: Any) -> None:
    run = made(store, "a")
    assert Listing(store).now(request_)["total"] == 1
    assert Comparing(store).table(request_) == {"results": [], "differing": []}
    assert run.path.is_dir()


def test_fifty_viewers_cost_one_look_and_a_change_shows_at_once(store: RunStore) -> None:
    run, listing = made(store, "a"), Listing(store)
    for _ in range(50):
        assert listing.now({})["runs"][0]["name"] == "a"
    # Within the second nobody looks again, but for who has changed something.
    keep.describe(run, title="New")
    assert listing.now({})["runs"][0]["name"] == "a"
    assert listing.now({"anew": 1})["runs"][0]["name"] == "New"


# The acts.


def test_what_people_say_about_a_run_is_kept(hands: Hands, store: RunStore) -> None:
    run = made(store, "a")
    act(hands, "describe", run, title="Mine")
    act(hands, "describe", run, tags="one, two words,one")
    act(hands, "describe", run, notes="Line\nline")
    act(hands, "describe", run, star=True)
    assert keep.meta(run) == keep.Meta("Mine", ("one", "two-words"), "Line\nline", True)


def test_the_queue_is_put_in_another_order(hands: Hands, store: RunStore) -> None:
    a, b, c = waiting(store, "a", "b", "c")

    def order() -> list[str]:
        return [run[16:] for run in queue.waiting(store.root)]

    act(hands, "first", c)
    assert order() == ["c", "a", "b"]
    act(hands, "down", c)
    assert order() == ["a", "c", "b"]
    act(hands, "up", b)
    assert order() == ["a", "b", "c"]
    act(hands, "up", a)
    assert order() == ["a", "b", "c"]
    assert "no place 4" in act(hands, "down", c).message
    assert "waits no longer" in act(hands, "remove", b).message
    assert order() == ["a", "c"] and store.state(b).status == "created"
    assert act(hands, "enqueue", b).run == b.id and order() == ["a", "c", "b"]


def test_a_run_that_trains_is_asked_for_what_its_buttons_say(hands: Hands, going: Run) -> None:
    asked = going.path / "control"
    assert "saves" in act(hands, "save", going).message and (asked / "save").exists()
    assert "evaluates" in act(hands, "evaluate", going).message and (asked / "evaluate").exists()
    assert "5e-5" in act(hands, "learning_rate", going, value=" 5e-5 ").message
    assert float((asked / "learning_rate").read_text()) == 5e-5
    for wrong in ("fast", "", "2", "nan", None, {"a": 1}):
        assert "problem" in act(hands, "learning_rate", going, value=wrong).message
    assert float((asked / "learning_rate").read_text()) == 5e-5
    assert "Pausing" in act(hands, "pause", going).message and going.wish() == "pause"
    act(hands, "stop", going)
    assert going.wish() == "" and going.stop.exists() and going.process() is not None


def test_stopped_and_discarded_nothing_of_it_is_left(
    hands: Hands, store: RunStore, going: Run
) -> None:
    write(going.checkpoints / "checkpoint-4" / "x.bin", "x")
    assert "removed" in act(hands, "discard", going).message
    assert going.process() is None and store.state(going).status == "stopped"
    assert not going.checkpoints.exists() and not going.adapter.exists()


def test_it_goes_on_in_its_turn(hands: Hands, store: RunStore) -> None:
    run = made(store, "a", status="stopped", step=5, saved=(5,), paused=True)
    assert act(hands, "resume", run).run == run.id
    assert queue.waiting(store.root) == [run.id]
    assert "waits for its turn" in act(hands, "resume", run).message


def test_a_finished_run_trains_longer(hands: Hands, store: RunStore) -> None:
    run = made(store, "a", saved=(10,))
    before = run.spec().train.num_train_epochs
    counted = made(store, "b", saved=(10,))
    write(counted.path / "spec.yaml", "train: {max_steps: 10}\n")
    for wrong in ("some", "0", "-1", "inf", "nan", "1e308"):
        for one in (run, counted):
            assert "problem" in act(hands, "extend", one, value=wrong).message
    assert queue.waiting(store.root) == []
    assert "1.5 more epochs" in act(hands, "extend", run, value="1.5").message
    assert run.spec().train.num_train_epochs == before + 1.5
    assert queue.waiting(store.root) == [run.id]


def test_a_new_run_branches_from_a_checkpoint(hands: Hands, store: RunStore) -> None:
    run = made(store, "a", saved=(5, 10))
    same = act(hands, "branch", run, step=5)
    assert same.run and same.run != run.id
    new = store.get(same.run)
    assert checkpoints.steps(new.checkpoints) == [5] and new.spec() == run.spec()
    other = act(hands, "branch", run, step=10, form=True)
    assert store.get(str(other.run)).spec().train.learning_rate == 5e-5
    assert queue.waiting(store.root) == [same.run, other.run]
    for wrong in (7, None, "5"):
        assert "problem" in act(hands, "branch", run, step=wrong).message


def test_a_runs_settings_fill_the_form_with_those_that_fit(hands: Hands, store: RunStore) -> None:
    changes = {"train.per_device_train_batch_size": 2, "train.nix": 1}
    run = made(
        store, "a", "train.seed=7", "train.per_device_train_batch_size=16", status="failed",
        message="Out of memory.", hint="Less.", stage="training", changes=changes,
    )  # fmt: skip
    assert about(store, run)["fits"] == [("Batch size", "16", "2")]
    done = act(hands, "use", run)
    assert (done.tab, done.fields["train.seed"]) == ("Tune", 7)
    assert done.fields["train.per_device_train_batch_size"] == 16
    fitting = act(hands, "use", run, fit=True).fields
    assert fitting["train.per_device_train_batch_size"] == 2 and "train.nix" not in fitting
    assert set(fitting) == {f"{s}.{n}" for s, h in DEFAULTS.model_dump().items() for n in h}


def test_deleted_undone_and_gone(hands: Hands, store: RunStore, going: Run) -> None:
    run, other = made(store, "a"), made(store, "b")
    done = act(hands, "delete", run)
    assert "Deleted a" in done.message and "Undo" in done.message and done.run
    assert store.list() == [r for r in store.list() if r != run] and run not in store.list()
    undo = {"do": "restore", "run": run.id}
    assert json.dumps(undo).replace('"', "&quot;") in done.message
    assert perform(hands, undo).run == run.id and run in store.list()
    assert "still going" in act(hands, "delete", going).message and going in store.list()
    act(hands, "delete", other)
    assert "Bring it back" in space.shown(store)
    assert "freed" in act(hands, "forget", other).message
    assert "not among" in act(hands, "restore", other).message
    assert "Deleted</h4>" not in space.shown(store)


def test_old_checkpoints_are_cleaned_and_the_newest_stays(hands: Hands, store: RunStore) -> None:
    run, other = made(store, "a", saved=(2, 4, 6)), made(store, "b", saved=(3,))
    found = space.spare(store)
    assert (found.count, found.runs) == (2, 1) and found.size > 2000
    assert "2 checkpoints of 1 run can go" in space.shown(store)
    assert "freed" in act(hands, "clean-all").message
    assert checkpoints.steps(run.checkpoints) == [6]
    assert checkpoints.steps(other.checkpoints) == [3]
    assert "no old checkpoints" in space.shown(store)
    act(hands, "clean", run, all=True)
    assert checkpoints.steps(run.checkpoints) == []


def test_the_newest_that_is_whole_stays_and_the_best(store: RunStore) -> None:
    run = made(store, "a", saved=(2, 4, 6, 8))
    state = {"best_model_checkpoint": "/elsewhere/checkpoint-4"}
    write(run.checkpoints / "checkpoint-6" / "trainer_state.json", json.dumps(state))
    (run.checkpoints / "checkpoint-6" / "manifest.json").unlink()
    checkpoints.seal(run.checkpoints / "checkpoint-6")
    write(run.checkpoints / "checkpoint-8" / "optimizer.bin", "damaged")
    keep.clean(store, run)
    assert checkpoints.steps(run.checkpoints) == [4, 6]


def test_checkpoints_of_a_run_that_goes_or_waits_stay(
    hands: Hands, store: RunStore, going: Run
) -> None:
    run = made(store, "a", status="stopped", saved=(2, 4))
    act(hands, "resume", run)
    for one in (run, going):
        assert "problem" in act(hands, "clean", one, all=True).message
    act(hands, "clean-all")
    assert checkpoints.steps(run.checkpoints) == [2, 4]


@pytest.mark.parametrize("wanted", [{}, {"do": "nix"}, {"do": ["x"]}, {"do": "_delete"}])
def test_an_act_that_is_none_does_nothing(
    hands: Hands, store: RunStore, wanted: dict[str, Any]
) -> None:
    run = made(store, "a")
    assert perform(hands, {**wanted, "run": run.id}) == Done()


@pytest.mark.parametrize("run", ["..", "../..", "/etc", "", None, 5, "nix"])
def test_an_act_on_no_run_is_told(hands: Hands, store: RunStore, run: Any) -> None:
    for do in ("delete", "describe", "pack", "clean", "use", "restore", "forget"):
        done = perform(hands, {"do": do, "run": run, "title": "x"})
        assert "problem" in done.message, do


def test_settings_of_the_form_that_are_wrong_branch_nothing(
    store: RunStore, settings: Settings
) -> None:
    def wrong() -> RunSpec:
        return parse({"train": {"seed": "none"}})

    with pytest.raises(SpecError):
        wrong()
    run = made(store, "a", saved=(5,))
    done = perform(Hands(store, settings, wrong), {"do": "branch", "run": run.id, "step": 5,
                                                   "form": True})  # fmt: skip
    assert "problem" in done.message and store.list() == [run]


def test_what_the_browser_sends_is_read_or_nothing() -> None:
    class Event:
        def __init__(self, act: Any) -> None:
            self.act = act

    assert read(Event('{"do": "x"}')) == {"do": "x"}
    for nothing in ("{", "[]", None, 5):
        assert read(Event(nothing)) == {}


# Side by side.


def test_runs_are_compared_by_what_differs_and_what_came_of_them(store: RunStore) -> None:
    one = made(store, "a", "train.learning_rate=1e-4")
    two = made(store, "b", "train.learning_rate=2e-4", "adapter.r=32", step=5)
    append(two.events, {"type": "eval", "step": 5, "eval_loss": 1.5})
    comparing = Comparing(store)
    told = comparing.table({"runs": [one.id, two.id, "nix"]})
    fields = {d["label"]: d["values"] for d in told["differing"]}
    assert fields["Learning rate"] == ["1e-4", "2e-4"] and len(fields) == 2
    results = {r["id"]: r for r in told["results"]}
    assert results[one.id]["best_eval_loss"] == 2.5 and results[one.id]["best_step"] == 10
    assert results[two.id]["best_eval_loss"] == 1.5 and results[two.id]["steps"] == 5
    assert results[one.id]["loss"] == pytest.approx(sum(3 - n / 10 for n in range(1, 11)) / 10)
    # What is new is added to what was read; what an attempt takes back is taken back.
    append(two.events, {"type": "log", "step": 6, "loss": 1.0})
    again = comparing.table({"runs": [two.id]})["results"][0]
    assert again["loss"] == pytest.approx((2.9 + 2.8 + 2.7 + 2.6 + 2.5 + 1.0) / 6)
    append(two.events, {"type": "attempt", "step": 4})
    again = comparing.table({"runs": [two.id]})["results"][0]
    assert again["best_eval_loss"] is None
    assert again["loss"] == pytest.approx((2.9 + 2.8 + 2.7 + 2.6) / 4)


def test_one_whose_settings_cannot_be_read_is_compared_all_the_same(store: RunStore) -> None:
    runs = [made(store, n, f"train.seed={i}") for i, n in enumerate("abc")]
    write(runs[1].path / "spec.yaml", "train: {warp: 1}\n")
    told = Comparing(store).table({"runs": [r.id for r in runs]})
    assert told["differing"] == [{"label": "Seed", "values": ["0", "–", "2"]}]


def test_the_last_traceback_of_a_log_is_found() -> None:
    log = (
        "one\nTraceback (most recent call last):\n  File 1\nValueError: old\nmore\n"
        "Traceback (most recent call last):\n  File 2\n    x()\nKeyError: new\nafter\n"
    )
    found = traceback_of(log)
    assert found.splitlines()[0].startswith("Traceback") and found.endswith("KeyError: new")
    assert "old" not in found and "after" not in found
    assert traceback_of("no such thing") == ""


# One file.


def test_a_run_is_taken_along_through_the_guard_and_comes_back(
    browser: httpx.Client, home: Settings
) -> None:
    store = RunStore(home.runs)
    run = made(store, "travels", saved=(10,))
    hands = Hands(store, home, lambda: DEFAULTS)
    done = act(hands, "pack", run)
    answer = browser.get(done.download)
    assert answer.status_code == 200 and len(answer.content) > 1000
    file = home.workspace / "run.tar"
    file.write_bytes(answer.content)
    taken = keep.unpack(store, Path(file))
    assert taken != run and taken.history() == run.history()
    for mine in (run, taken):
        keep.delete(store, mine)
        keep.forget(store, mine.id)
    file.unlink()
