"""Models from the Hub, played by a server of our own."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from studio.engine.hub import fetch
from studio.errors import StudioError
from studio.settings import PROJECT, Settings
from tests.engine.helpers import Recorder, child_env, start_worker
from tests.engine.hub_server import hub

_RESOLVE = """
import json, sys
from pathlib import Path
from studio.engine.source import resolve
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import ModelSection
from tests.engine.helpers import Recorder

settings = Settings(home=Path(sys.argv[1]), workspace=Path(sys.argv[1]), hub_timeout_s=2)
answers = []
for name, revision, weights in json.loads(sys.argv[2]):
    report = Recorder()
    try:
        section = ModelSection(name_or_path=name, revision=revision)
        folder = resolve(section, settings, report, weights=weights)
        answers.append({"files": sorted(p.name for p in folder.iterdir()), "counts": report.counts})
    except StudioError as error:
        answers.append({"error": error.message, "hint": error.hint})
print(json.dumps(answers))
"""
Ask = tuple[str, str | None, bool]


@pytest.fixture
def repo(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model as a repository, with files that must not be fetched."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "repo"))
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('run!')")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"another copy")
    return folder


def resolve_all(settings: Settings, endpoint: str, *asks: Ask) -> list[dict[str, Any]]:
    """Resolves in a process of its own: the Hub's address is read at the library's import."""
    env = child_env(
        settings,
        HF_ENDPOINT=endpoint,
        HF_HUB_OFFLINE="0",
        HF_HOME=str(settings.home / "hf"),
        HF_HUB_DISABLE_XET="1",
        PYTHONPATH=str(PROJECT),
    )
    command = [sys.executable, "-c", _RESOLVE, str(settings.home), json.dumps(asks)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_what_the_hub_says_no_to_is_said_in_words(settings: Settings, repo: Path) -> None:
    asks: list[tuple[Ask, str, str]] = [
        (("no/where", None, True), "has no model no/where", "spelling"),
        (("gated/model", None, True), "is gated", "hf auth login"),
        (("me/tiny", "nope", True), "no revision nope", "branch"),
        (("broken/model", None, True), "can't be reached", "network"),
    ]
    with hub({"me/tiny": repo}) as (address, _):
        answers = resolve_all(settings, address, *[ask for ask, *_ in asks])
    for answer, (_, says, hint) in zip(answers, asks, strict=True):
        assert says in str(answer["error"])
        assert hint in str(answer["hint"])


def test_a_hub_model_comes_without_pickles_and_code(settings: Settings, repo: Path) -> None:
    with hub({"me/tiny": repo}) as (address, asked):
        ask: Ask = ("me/tiny", None, True)
        tokenizer_only, whole = resolve_all(settings, address, ("me/tiny", None, False), ask)
    assert "model.safetensors" not in str(tokenizer_only["files"])
    assert "tokenizer.json" in str(tokenizer_only["files"])
    assert "model.safetensors" in str(whole["files"])
    assert not any(path.endswith((".bin", ".py")) or "onnx" in path for path in asked)
    # The bytes are counted to the end.
    done, total = whole["counts"][-1]
    assert done == total == (repo / "model.safetensors").stat().st_size
    # Once it is here, no Hub is needed.
    (again,) = resolve_all(settings, "http://127.0.0.1:9", ask)
    assert again["files"] == whole["files"]
    (other,) = resolve_all(settings, "http://127.0.0.1:9", ("me/other", None, True))
    assert "can't be reached" in str(other["error"])


def test_files_that_break_off_are_told_in_words(settings: Settings, repo: Path) -> None:
    with hub({"me/tiny": repo}, files_break=True) as (address, _):
        (answer,) = resolve_all(settings, address, ("me/tiny", None, True))
    assert "The Hub broke off while sending me/tiny" in str(answer["error"]) and answer["hint"]


@pytest.mark.parametrize(
    ("error", "from_the_network"),
    [
        (httpx2.ConnectError("no route"), True),
        (httpx2.ReadError("cut"), True),
        (httpx2.ConnectTimeout("late"), True),
        (OSError(errno.ECONNRESET, "reset"), True),
        (OSError(errno.ETIMEDOUT, "timed out"), True),
        (OSError(errno.ENOSPC, "full"), False),
        (OSError(errno.EDQUOT, "quota"), False),
        (OSError(errno.EACCES, "not yours"), False),
        (OSError(errno.EROFS, "read-only"), False),
        (ValueError("a bug"), False),
    ],
)
def test_the_networks_errors_become_words_and_the_disks_stay(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    from_the_network: bool,
) -> None:
    def break_off(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", break_off)
    with pytest.raises(StudioError if from_the_network else type(error)):
        fetch("me/tiny", None, settings, Recorder())


def test_setup_takes_the_original_where_the_hub_answers(settings: Settings, repo: Path) -> None:
    with hub({"HuggingFaceTB/SmolLM2-135M-Instruct": repo}) as (address, _):
        worker = start_worker(
            settings, "setup", HF_ENDPOINT=address, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1"
        )
        output, _ = worker.communicate(timeout=90)
    assert worker.returncode == 0, output
    assert "fetching HuggingFaceTB/SmolLM2-135M-Instruct" in output
    folder = settings.models / "SmolLM2-135M-Instruct"
    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (repo / weights).read_bytes()
    assert json.loads((folder / "origin.json").read_text())["source"] == "hub"
    assert not (folder / "pytorch_model.bin").exists()
    # Ready means ready: nobody is asked again.
    worker = start_worker(settings, "setup")
    output, _ = worker.communicate(timeout=60)
    assert (worker.returncode, output) == (0, "SmolLM2-135M-Instruct is ready.\n")
