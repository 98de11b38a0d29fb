"""A tiny run trained for real, and the means to start workers."""

import copy
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.runs import Run, RunStore
from studio.settings import Settings
from studio.spec import RunSpec, parse
from tests.engine.helpers import Recorder, child_env, start_worker

Tree = dict[str, dict[str, Any]]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def tree(tiny_model: Path, rows_file: Path) -> Tree:
    """A spec that trains the tiny model for four steps."""
    return {
        "model": {"name_or_path": str(tiny_model)},
        "data": {"path": str(rows_file), "validation": "20%"},
        "adapter": {"r": 4, "lora_alpha": 8},
        "train": {
            "max_steps": 4,
            "learning_rate": 0.02,
            "per_device_train_batch_size": 4,
            "save_steps": 2,
            "max_length": 128,
        },
        "eval": {"eval_steps": 2},
        "generate": {"max_new_tokens": 12},
    }


@pytest.fixture
def spec_with(tree: Tree) -> Callable[..., RunSpec]:
    """The spec with some fields changed: `spec_with(train={"max_steps": 1})`."""

    def change(**sections: dict[str, Any]) -> RunSpec:
        changed = copy.deepcopy(tree)
        for section, fields in sections.items():
            changed.setdefault(section, {}).update(fields)
        return parse(changed)

    return change


@pytest.fixture
def new_run(settings: Settings, spec_with: Callable[..., RunSpec]) -> Callable[..., Run]:
    """A new run's folder with such a spec."""

    def make(**sections: dict[str, Any]) -> Run:
        return RunStore(settings.runs).create(spec_with(**sections), "tiny")

    return make


@pytest.fixture
def train_here(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], int]:
    """Trains a run through the worker's own entry, but in this process."""
    from studio import worker

    for name, value in child_env(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    return lambda run: worker.main(["train", str(run.path)])


@pytest.fixture(scope="session")
def session_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """One home for what takes too long to make for each test."""
    root = tmp_path_factory.mktemp("session")
    (root / "home").mkdir()
    return Settings(home=root / "home", workspace=root, bench_idle_s=60, hub_timeout_s=2)


@pytest.fixture(scope="session")
def trained(session_settings: Settings, tree: Tree) -> Run:
    """A run that a worker has trained to its end."""
    run = RunStore(session_settings.runs).create(parse(tree), "tiny")
    worker = start_worker(session_settings, "train", str(run.path))
    output, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0, output
    return run


@pytest.fixture(scope="session")
def merged(session_settings: Settings, trained: Run) -> Path:
    """The trained run's merged model, where the chat looks for it."""
    from studio.engine.export import export

    export(trained, "merged", trained.export / "merged", session_settings, Recorder())
    return trained.export / "merged"


@pytest.fixture
def in_thread() -> Iterator[Callable[[Callable[[], Any]], threading.Thread]]:
    """Starts work beside the test, and waits for it at the end."""
    threads: list[threading.Thread] = []

    def start(work: Callable[[], Any]) -> threading.Thread:
        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def worker(settings: Settings) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts workers, and kills those that a failed test left behind."""
    started = []

    def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
        started.append(start_worker(settings, *arguments, **env))
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()
