"""Code of a model's own runs only where somebody has consented to exactly these files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from studio.engine import structure
from studio.engine.load import Hardware, load_model
from studio.engine.source import resolve
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import ModelSection, parse
from tests.engine.helpers import Recorder

CPU = Hardware("cpu", torch.float32)
CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class MineConfig(LlamaConfig):
    model_type = "mine"


class Mine(LlamaForCausalLM):
    config_class = MineConfig
"""


@pytest.fixture
def own(tiny_model: Path, settings: Settings) -> Path:
    """A model of a kind that only its own file knows."""
    folder = Path(shutil.copytree(tiny_model, settings.workspace / "own"))
    (folder / "mine.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.Mine"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def section(settings: Settings) -> ModelSection:
    """The consent that a look at the files offers."""
    spec = parse({"model": {"name_or_path": "own"}})
    consent = structure.code(spec, settings, Recorder())["consent"]
    return ModelSection(name_or_path="own", trust_remote_code=True, trusted_files=consent)


def test_without_consent_nothing_of_it_runs(own: Path, settings: Settings) -> None:
    (own / "mine.py").write_text("raise SystemExit('run!')")
    with pytest.raises(StudioError, match="without your consent"):
        resolve(ModelSection(name_or_path="own"), settings, Recorder())
    # To look is not to run.
    shown = structure.code(parse({"model": {"name_or_path": "own"}}), settings, Recorder())
    assert [file["name"] for file in shown["files"]] == ["mine.py"]
    assert "run!" in shown["files"][0]["text"]


def test_with_consent_it_is_loaded(own: Path, settings: Settings) -> None:
    wanted = section(settings)
    folder = resolve(wanted, settings, Recorder())
    model = load_model(wanted, folder, CPU, Recorder())
    assert type(model).__name__ == "Mine"


def test_a_file_that_has_changed_asks_again(own: Path, settings: Settings) -> None:
    wanted = section(settings)
    (own / "mine.py").write_text(CODE + "\n# one more line\n")
    with pytest.raises(StudioError, match=r"mine\.py of own is not the file"):
        resolve(wanted, settings, Recorder())
    wanted = section(settings)
    (own / "more.py").write_text("x = 1")
    with pytest.raises(StudioError, match=r"would run more\.py"):
        resolve(wanted, settings, Recorder())


@pytest.mark.parametrize("kind", ["mine", "llama"])
def test_code_of_another_repository_is_refused_even_so(
    own: Path, settings: Settings, kind: str
) -> None:
    config = json.loads((own / "config.json").read_text())
    # Of a kind that transformers knows it would still take what the map names, once it may.
    config |= {"model_type": kind, "auto_map": {"AutoModelForCausalLM": "other/repo--mine.Mine"}}
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(StudioError, match="other/repo"):
        resolve(section(settings), settings, Recorder())


def test_without_consent_a_known_kind_needs_none_of_it(own: Path, settings: Settings) -> None:
    config = json.loads((own / "config.json").read_text())
    config |= {"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "other/repo--mine.Mine"}}
    (own / "config.json").write_text(json.dumps(config))
    plain = ModelSection(name_or_path="own")
    model = load_model(plain, resolve(plain, settings, Recorder()), CPU, Recorder())
    assert type(model).__module__.startswith("transformers.")


def test_pickles_are_opened_only_where_that_is_said(tiny_model: Path, settings: Settings) -> None:
    folder = Path(shutil.copytree(tiny_model, settings.workspace / "pickled"))
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(StudioError, match="pickle"):
        resolve(ModelSection(name_or_path="pickled"), settings, Recorder())
    allowed = ModelSection(name_or_path="pickled", use_safetensors=False)
    model = load_model(allowed, resolve(allowed, settings, Recorder()), CPU, Recorder())
    assert torch.equal(model.state_dict()["lm_head.weight"], weights["lm_head.weight"])
