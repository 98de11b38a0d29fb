"""Homes of their own for the processes that are killed here, and the counts at the end."""

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.settings import Settings
from studio.spec import RunSpec, parse
from tests.faults.helpers import TALLY, Studio, env_of, write_rows

Tree = dict[str, dict[str, Any]]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The counts of the whole session."""
    if TALLY.kills or TALLY.other:
        terminalreporter.section("faults")
        for line in TALLY.lines():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Workers inherit it: sums come out the same each time, and the cores are left to others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(scope="session")
def tree(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A spec that trains the tiny model for some seconds, with chance in it, and often evaluates
    and saves."""
    rows = tmp_path_factory.mktemp("data") / "rows.jsonl"
    write_rows(rows, 60)
    return {
        "model": {"name_or_path": str(tiny_model)},
        "data": {"path": str(rows), "validation": "40%"},
        "adapter": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
        "train": {
            "max_steps": 40,
            "learning_rate": 0.01,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "save_steps": 4,
            "save_total_limit": 3,
            "max_length": 128,
        },
        "eval": {"eval_steps": 10, "per_device_eval_batch_size": 2},
    }


@pytest.fixture(scope="session")
def spec_with(tree: Tree) -> Callable[..., RunSpec]:
    """The spec with some fields changed: `spec_with(train={"max_steps": 1})`."""

    def change(**sections: dict[str, Any]) -> RunSpec:
        changed = copy.deepcopy(tree)
        for section, fields in sections.items():
            changed.setdefault(section, {}).update(fields)
        return parse(changed)

    return change


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    """A home with nothing in it, and nobody at work when the test ends."""
    (tmp_path / "home").mkdir()
    found = Studio(Settings(home=tmp_path / "home", workspace=tmp_path, bench_idle_s=60))
    yield found
    found.close()


@pytest.fixture
def train_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Settings], int]:
    """Trains a run through the worker's own entry, but in this process."""
    from studio import worker

    def train(run: Any, settings: Settings) -> int:
        for name, value in env_of(settings).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("signal.signal", lambda number, handler: None)
        return worker.main(["train", str(run.path)])

    os.environ.setdefault("TQDM_DISABLE", "1")
    return train
