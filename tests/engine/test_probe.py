"""Two real steps refine a plan, and leave nothing behind."""

from collections.abc import Callable

import pytest

from studio.errors import StudioError
from studio.jobs import plan_recipe
from studio.runs import RunStore
from studio.settings import Settings
from studio.spec import RunSpec


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
    probe = after["probe"]
    assert probe["memory"] > 1e8 and probe["tokens_a_step"] > 0 and probe["seconds_a_step"] > 0
    # What was measured is what the new plan is made of.
    assert after["total"] == pytest.approx(probe["memory_factor"] * before["total"], rel=0.01)
    assert after["times"]["steps"] == pytest.approx(
        probe["time_factor"] * before["times"]["steps"], rel=0.05, abs=0.02
    )
    assert not (settings.home / "probe").exists() and store.list() == []


def test_a_probe_waits_for_no_run(
    settings: Settings, spec_with: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(settings.runs)
    run = store.create(spec_with(), "busy")
    monkeypatch.setattr(RunStore, "active", lambda self: run)
    with pytest.raises(StudioError, match="at work"):
        plan_recipe(store, settings, spec_with(), probe=True)
