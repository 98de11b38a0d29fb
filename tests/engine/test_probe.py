"""Two real steps refine a plan, and leave nothing behind."""

from collections.abc import Callable

import pytest

from studio.errors import StudioError
from studio.jobs import plan_recipe, probe, waits_for
from studio.plan.device import device_lock
from studio.runs import RunStore
from studio.runs.lock import is_held
from studio.settings import Settings
from studio.spec import RunSpec, with_values
from tests.engine.helpers import wait_until


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.usefixtures("one_thread")
def test_a_probe_refines_the_plan(settings: Settings, spec_with: Callable[..., RunSpec]) -> None:
    store = RunStore(settings.runs)
    # The longest way: all that a probe must leave out is asked for.
    spec = spec_with(
        train={"max_steps": 50, "lr_scheduler_type": "cosine", "warmup_steps": 5},
        eval={"load_best_model_at_end": True, "early_stopping_patience": 2},
    )
    before = plan_recipe(store, settings, spec)
    after = plan_recipe(store, settings, spec, probe=True)
    taken = after["probe"]
    assert taken["memory"] > 1e8 and taken["tokens_a_step"] > 0 and taken["seconds_a_step"] > 0
    # What was measured is what the new plan is made of.
    assert after["total"] == pytest.approx(taken["memory_factor"] * before["total"], rel=0.01)
    assert after["times"]["steps"] == pytest.approx(
        taken["time_factor"] * before["times"]["steps"], rel=0.05, abs=0.02
    )
    # Nothing is left but what was measured, and that is what the next plan is made of.
    assert [path.suffix for path in (settings.home / "probes").iterdir()] == [".json"]
    assert store.list() == []
    again = plan_recipe(store, settings, spec)
    assert again["probe"] == taken and again["total"] == after["total"]
    # Other steps were not measured.
    other = plan_recipe(store, settings, with_values(spec, {"train.max_length": 48}))
    assert "probe" not in other
    # What takes no part in a step asks for no new ones.
    later = with_values(spec, {"train.learning_rate": 1e-5, "train.max_steps": 70})
    assert plan_recipe(store, settings, later)["probe"]["memory"] == taken["memory"]


@pytest.mark.usefixtures("one_thread")
def test_a_probe_that_is_stopped_ends_its_steps_and_keeps_nothing(
    settings: Settings, spec_with: Callable[..., RunSpec]
) -> None:
    steps = probe(RunStore(settings.runs), settings, spec_with())
    assert next(steps)
    (folder,) = (settings.home / "probes").iterdir()
    # A second one, and a run, wait for the device; each has a folder of its own.
    wait_until(lambda: is_held(device_lock(settings)))
    with pytest.raises(StudioError, match="at work"):
        next(probe(RunStore(settings.runs), settings, spec_with()))
    assert folder.is_dir()
    assert waits_for(RunStore(settings.runs)) == "waits for the steps that are being measured"
    steps.close()
    assert waits_for(RunStore(settings.runs)) == "waits for its turn"
    assert not folder.exists() and not is_held(device_lock(settings))


def test_a_probe_waits_for_no_run(
    settings: Settings, spec_with: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(settings.runs)
    run = store.create(spec_with(), "busy")
    monkeypatch.setattr(RunStore, "active", lambda self: run)
    with pytest.raises(StudioError, match="at work"):
        plan_recipe(store, settings, spec_with(), probe=True)
