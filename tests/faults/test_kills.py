"""Kills at random times: nothing that was reported is lost, nothing half written is left, and the
run ends as if nothing had been.

ATELIER_KILLS says how many (100 for the whole claim), ATELIER_SEED which.
"""

import random
import threading
import time
from collections.abc import Callable

import pytest

from studio import jobs
from studio.errors import StudioError
from studio.runs import ENDED, Run, RunStore, events
from studio.runs.store import GOING
from studio.spec import RunSpec
from tests.faults.helpers import (
    KILLS,
    TALLY,
    Studio,
    Viewer,
    check_checkpoints,
    goes_on,
    leftovers,
    rng,
    until,
    weights,
)

# How often each is killed; a worker that dies takes the longest to come back.
TARGETS = {
    "worker": 5,
    "server": 1,
    "conductor": 2,
    "worker+server": 2,
    "worker+server+conductor": 3,
}
PHASES = {"load": 3, "train": 3, "eval": 2, "save": 3, "adapter": 1, "queue": 1}
# How long each lasts at most, about.
LASTS_S = {"load": 5.0, "train": 1.5, "eval": 0.15, "save": 0.08, "adapter": 0.05}
_RIGHT_WITHIN_S = 2.0


class Phase:
    """Waits until a run is in a phase, and then for a random part of it."""

    def __init__(self, run: Run, random: random.Random) -> None:
        self._run, self._random = run, random
        self._from = run.events.stat().st_size if run.events.exists() else 0

    def reached(self, name: str, state: Callable[[], str]) -> bool:
        """Whether the phase came before the run's end."""
        if name == "queue":
            time.sleep(self._random.uniform(0, 1.5))
            return True
        look: Callable[[], bool] = getattr(self, f"_{name}")
        until(lambda: look() or self._over(state), 120, 0.001)
        if not look() and self._over(state):
            return False
        time.sleep(self._random.uniform(0, LASTS_S[name]))
        return True

    def _over(self, state: Callable[[], str]) -> bool:
        return not self._load() and state() in ENDED

    def _new(self) -> list[events.Event]:
        return events.tail(self._run.events, self._from)[0]

    def _load(self) -> bool:
        return self._run.process() is not None

    def _train(self) -> bool:
        return any(e["type"] == "log" for e in self._new())

    def _eval(self) -> bool:
        return any(e["type"] == "stage" and e["text"] == "evaluating" for e in self._new())

    def _save(self) -> bool:
        return any(self._run.checkpoints.glob(".saving-*"))

    def _adapter(self) -> bool:
        return any(e["type"] == "stage" and e["text"] == "saving the adapter" for e in self._new())


class Killer:
    """Has runs trained and kills whoever works on them."""

    def __init__(self, studio: Studio, spec: RunSpec) -> None:
        self.studio, self.spec, self.random = studio, spec, rng("kills")
        self.left = KILLS
        self.whole = self._uninterrupted()

    def _uninterrupted(self) -> Run:
        run = jobs.start(self.studio.store, self.studio.settings, self.spec, "whole")
        until(lambda: self.studio.store.state(run).status in ENDED, 180)
        assert self.studio.store.state(run).status == "finished", run.read_log()
        return run

    def _choose(self, weights: dict[str, int]) -> str:
        return self.random.choices(list(weights), list(weights.values()))[0]

    def one_run(self, kills: int) -> None:
        """Starts a run, kills what works on it so many times, and has it end."""
        studio = self.studio
        run = jobs.start(studio.store, studio.settings, self.spec, "cut-off")
        viewer = Viewer(studio.settings, run)
        for _ in range(kills):
            phase, target = self._choose(PHASES), self._choose(TARGETS)
            target = "conductor" if phase == "queue" else target
            if not Phase(run, self.random).reached(phase, lambda: studio.state(run)):
                break
            self._kill(run, viewer, target, phase)
        goes_on(lambda: studio.state(run) in ENDED, 180)
        goes_on(lambda: not studio.processes("train"), 60)
        assert not viewer.close(), "points that were shown are gone"
        self._compare(run)

    def _kill(self, run: Run, viewer: Viewer, target: str, phase: str) -> None:
        studio = self.studio
        served = studio.server is not None
        dead = studio.kill(target)
        if not dead:
            return
        self.left -= 1
        TALLY.kills[target] += 1
        TALLY.phases[phase] += 1
        wanted = (*ENDED, "queued") if "worker" in target else (*GOING, "queued", "finished")
        took = goes_on(lambda: studio.state(run) in wanted, _RIGHT_WITHIN_S)
        TALLY.slowest_s = max(TALLY.slowest_s, took)
        check_checkpoints(run)
        if served and "server" in target:
            studio.serve()
        if studio.state(run) in ("interrupted", "failed"):
            assert studio.state(run) == "interrupted", studio.store.state(run).problem
            told = RunStore(studio.settings.runs).state(run).problem or {}
            assert told["message"] and told["hint"]
            self._go_on(run)

    def _go_on(self, run: Run) -> None:
        """By a resume; now and then another run is started first."""
        studio = self.studio
        if self.random.random() < 0.1:
            short = self.spec.model_copy(
                update={"train": self.spec.train.model_copy(update={"max_steps": 1})}
            )
            other = jobs.start(studio.store, studio.settings, short, "another")
            goes_on(lambda: studio.state(other) in ENDED, 120)
            assert studio.state(other) == "finished", other.read_log()
            TALLY.other["new starts after a kill"] += 1
        jobs.resume(studio.store, studio.settings, run)
        TALLY.other["resumes"] += 1

    def _compare(self, run: Run) -> None:
        assert self.studio.state(run) == "finished", (
            self.studio.store.state(run).problem, run.read_log(),
        )  # fmt: skip
        assert weights(run) == weights(self.whole), run.path
        for name in ("step", "loss", "eval_loss", "learning_rate", "grad_norm", "num_tokens"):
            assert [p.get(name) for p in run.history()] == [
                p.get(name) for p in self.whole.history()
            ], name
        steps = [p["step"] for p in run.history()]
        assert steps == sorted(set(steps))
        assert not leftovers(run)
        check_checkpoints(run)
        TALLY.other["runs compared bit for bit"] += 1


@pytest.mark.timeout(3600)
def test_runs_that_were_killed_end_like_those_that_were_not(
    studio: Studio, spec_with: Callable[..., RunSpec]
) -> None:
    killer = Killer(studio, spec_with())
    studio.serve()
    while killer.left > 0:
        killer.one_run(min(killer.left, killer.random.randint(3, 8)))


@pytest.mark.timeout(1800)
def test_a_merge_that_was_killed_leaves_nothing_and_the_next_is_whole(
    studio: Studio, spec_with: Callable[..., RunSpec]
) -> None:
    settings, chance = studio.settings, rng("merges")
    run = jobs.start(studio.store, settings, spec_with(train={"max_steps": 2}), "merged")
    until(lambda: studio.state(run) in ENDED, 180)
    assert _exported(studio, run) == ""
    target = run.export / "merged"
    wanted = {p.name: p.read_bytes() for p in target.iterdir()}
    for n in range(max(2, KILLS // 8)):
        target.rename(run.path / f"gone-{n}")
        said: list[str] = []
        thread = threading.Thread(target=lambda said=said: said.append(_exported(studio, run)))
        thread.start()
        until(lambda: studio.processes("export"), 30)
        if n % 2:
            until(lambda: any(run.export.glob(".merged.making-*")), 60, 0.001)
            time.sleep(chance.uniform(0, 0.1))
        else:
            time.sleep(chance.uniform(0, 6))
        if studio.kill("export"):
            TALLY.kills["export"] += 1
            TALLY.phases["merge"] += 1
        thread.join(60)
        assert said and not thread.is_alive()
        whole = target.is_dir()
        # It may have been done just before.
        assert whole or "ended without a word" in said[0]
        assert not whole or {p.name: p.read_bytes() for p in target.iterdir()} == wanted
        assert _exported(studio, run) == ""
        assert {p.name: p.read_bytes() for p in target.iterdir()} == wanted
        assert not leftovers(run)
        TALLY.other["merges after a kill"] += 1


def _exported(studio: Studio, run: Run) -> str:
    """Merges; returns what went wrong, in words."""
    try:
        for _ in jobs.export(studio.store, studio.settings, run, "merged"):
            pass
    except StudioError as error:
        return str(error)
    return ""
