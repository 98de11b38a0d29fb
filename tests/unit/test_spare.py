"""When a spare worker is expected, and when it is begun."""

import os
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from studio.jobs import conduct, spare
from studio.runs import RunStore, queue
from studio.settings import Settings
from studio.spec import DEFAULTS


@pytest.fixture
def ready(settings: Settings) -> Settings:
    return replace(settings, spare=True)


def test_a_run_is_expected_while_the_server_of_a_page_that_is_looked_at_lives(
    ready: Settings,
) -> None:
    wish = ready.home / "expected"
    assert not spare.expected(ready)
    assert spare.expect(ready) and spare.expected(ready)
    # Told every three seconds, noted now and then.
    assert not spare.expect(ready)
    long_ago = time.time() - 61
    os.utime(wish, (long_ago, long_ago))
    assert not spare.expected(ready) and spare.expect(ready) and spare.expected(ready)
    # A clock that was set back.
    os.utime(wish, (time.time() + 3600, time.time() + 3600))
    assert not spare.expected(ready) and spare.expect(ready)
    wish.write_text('{"pid": 999999999, "birth": "never"}', encoding="utf-8")
    assert not spare.expected(ready)
    wish.write_text("half a", encoding="utf-8")
    assert not spare.expected(ready)


def test_nothing_is_expected_where_that_is_switched_off_or_one_only_looks(ready: Settings) -> None:
    for off in (replace(ready, spare=False), replace(ready, looks_only="Another has it.")):
        assert not spare.expect(off) and not spare.expected(off)
    assert not (ready.home / "expected").exists()
    assert Settings.from_env({}).spare and not Settings.from_env({"STUDIO_SPARE": "0"}).spare


@pytest.mark.parametrize(
    ("free", "idle", "begins"),
    [(8e9, 0.9, True), (3e9, 0.9, False), (8e9, 0.3, False)],
    ids=["room and rest", "no room", "no rest"],
)
def test_one_is_begun_where_there_is_room_and_nothing_to_do(
    ready: Settings, monkeypatch: pytest.MonkeyPatch, free: float, idle: float, begins: bool
) -> None:
    begun: list[list[str]] = []

    def spawn(arguments: list[str], *_: Any, **__: Any) -> Any:
        begun.append(arguments)
        return SimpleNamespace(poll=lambda: None, kill=lambda: begun.append(["killed"]))

    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(spare, "spawn", spawn)
    monkeypatch.setattr(spare, "machine", lambda: SimpleNamespace(available=free))
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 100 * (1 - idle))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)) + 10)
    kept = spare.Spare(ready)
    kept.keep()
    assert not begun, "what was before the first look is not known"
    kept.keep()
    assert len(begun) == begins
    kept.keep()
    assert len(begun) == begins, "one is enough"
    free = 0.5e9
    kept.keep()
    assert kept._process is None, "memory is needed"
    # At once, not when it has loaded all that it takes the memory for.
    assert (begun[-1:] == [["killed"]]) == begins


@pytest.mark.parametrize("waits", [True, False])
def test_beside_a_run_one_is_kept_only_for_another_that_waits(
    ready: Settings, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    store, told = RunStore(ready.runs), list[str]()
    run, other = store.create(DEFAULTS, "a"), store.create(DEFAULTS, "b")
    if waits:
        with queue.changing(store.root) as ids:
            ids.append(other.id)
    kept: Any = SimpleNamespace(keep=lambda: told.append("keep"), drop=lambda: told.append("drop"))
    monkeypatch.setattr(conduct, "_LOOK_S", 0.01)
    looks = iter([None, None, 0])
    going: Any = SimpleNamespace(poll=lambda: next(looks), pid=os.getpid(), returncode=0)
    conduct._attend(run, going, 0, ready, kept)
    assert told == ["keep" if waits else "drop"] * 2
    # As beside a run that another conductor has started.
    told.clear()
    actives = iter([run, run, None])
    monkeypatch.setattr(conduct, "_start_next", lambda *_: None)
    monkeypatch.setattr(RunStore, "active", lambda _: next(actives))
    monkeypatch.setattr(conduct, "Spare", lambda _: kept)
    monkeypatch.setattr(
        conduct.queue, "waiting", lambda _: [other.id] if len(told) < waits * 2 else []
    )
    conduct._until_none_waits(ready)
    assert told == ["keep" if waits else "drop"] * 2


def test_where_there_is_none_none_is_taken(ready: Settings) -> None:
    assert spare.Spare(ready).take(ready.runs / "none", ready.home / "log", 0) is None
    # Its socket has nobody at the other end.
    kept = spare.Spare(ready)
    ours, its = spare.socket.socketpair()
    its.close()
    gone = SimpleNamespace(poll=lambda: 1, kill=lambda: None, wait=lambda: None)
    kept._process, kept._line = gone, ours  # type: ignore[assignment]
    assert kept.take(ready.runs / "none", ready.home / "log", 1) is None
    assert ours.fileno() == -1
