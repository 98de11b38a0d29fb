"""What can be wrong with a model's folder, and the sentence for each."""

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.engine.load import Hardware, drop_kept_inputs, load_model
from studio.engine.source import resolve
from studio.engine.tokenizer import load_tokenizer
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import DataSection, ModelSection
from tests.engine.helpers import Recorder

CPU = Hardware("cpu", torch.float32)


@pytest.fixture
def model(tiny_model: Path, settings: Settings) -> Path:
    """A copy of the tiny model in the workspace, to be broken."""
    return Path(shutil.copytree(tiny_model, settings.workspace / "model"))


def refused(settings: Settings, name: str = "model", **fields: Any) -> StudioError:
    with pytest.raises(StudioError) as caught:
        resolve(ModelSection(name_or_path=name, **fields), settings, Recorder())
    assert caught.value.hint
    return caught.value


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def test_a_folder_is_found_from_the_workspace(model: Path, settings: Settings) -> None:
    for name in ("model", "./model", str(model)):
        assert resolve(ModelSection(name_or_path=name), settings, Recorder()) == model


def test_no_such_folder(settings: Settings) -> None:
    assert "There is no folder ./nowhere" in str(refused(settings, "./nowhere"))


def test_a_file_is_no_folder(model: Path, settings: Settings) -> None:
    assert "is a file" in str(refused(settings, "model/config.json"))


def test_no_config(model: Path, settings: Settings) -> None:
    (model / "config.json").unlink()
    assert "no config.json" in str(refused(settings))


def test_an_adapter_is_no_model(model: Path, settings: Settings) -> None:
    (model / "config.json").rename(model / "adapter_config.json")
    assert "an adapter" in str(refused(settings))


def test_a_broken_config(model: Path, settings: Settings) -> None:
    (model / "config.json").write_text("{")
    assert "can't be read" in str(refused(settings))


def test_pickles_are_never_opened(model: Path, settings: Settings) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "pickle" in str(refused(settings))


def test_no_weights_at_all(model: Path, settings: Settings) -> None:
    (model / "model.safetensors").unlink()
    assert "no weights in safetensors" in str(refused(settings))


def test_no_tokenizer(model: Path, settings: Settings) -> None:
    (model / "tokenizer.json").unlink()
    assert "no tokenizer" in str(refused(settings))


def test_code_that_comes_with_a_model_is_refused(model: Path, settings: Settings) -> None:
    (model / "evil.py").write_text("raise SystemExit('run!')")
    mapped = {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}}
    edit(model / "config.json", lambda c: c.update(mapped, model_type="evil"))
    assert "never run here" in str(refused(settings))
    # Where transformers knows the architecture itself, the code is not needed, and not run.
    edit(model / "config.json", lambda c: c.update(model_type="llama"))
    folder = resolve(ModelSection(name_or_path="model"), settings, Recorder())
    assert load_model(ModelSection(), folder, CPU, Recorder()) is not None


def test_a_folder_has_no_revisions(model: Path, settings: Settings) -> None:
    assert "no revision main" in str(refused(settings, revision="main"))


def test_no_id_at_all(settings: Settings) -> None:
    assert "neither a folder nor" in str(refused(settings, "what is this?"))


def test_loading_counts_the_weights(model: Path, recorder: Recorder) -> None:
    load_model(ModelSection(), model, CPU, recorder)
    last, total = recorder.counts[-1]
    assert last == total == len(load_file(model / "model.safetensors"))


def test_a_cut_off_weights_file(model: Path, recorder: Recorder) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(StudioError, match="can't be loaded"):
        load_model(ModelSection(), model, CPU, recorder)


@pytest.mark.parametrize("wrong", ["missing", "shape"])
def test_weights_that_are_not_there_are_not_made_up(
    model: Path, recorder: Recorder, wrong: str
) -> None:
    weights = load_file(model / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    if wrong == "missing":
        del weights[name]
    else:
        weights[name] = weights[name][:, :-1].contiguous()
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StudioError, match=r"lack 1 of its weights.*up_proj"):
        load_model(ModelSection(), model, CPU, recorder)


def test_an_unknown_architecture(model: Path, recorder: Recorder) -> None:
    edit(model / "config.json", lambda c: c.update(model_type="nobody_knows"))
    with pytest.raises(StudioError, match="nobody_knows"):
        load_model(ModelSection(), model, CPU, recorder)


def test_no_chat_template_is_no_hindrance_where_none_is_needed(model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    assert not load_tokenizer(model, DataSection()).tokenizer.chat_template


def test_a_broken_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(StudioError, match="tokenizer can't be read"):
        load_tokenizer(model, DataSection())


def test_a_missing_padding_token_is_arranged_and_said(model: Path) -> None:
    assert load_tokenizer(model, DataSection()).note == ""
    edit(model / "tokenizer_config.json", lambda c: c.pop("pad_token"))
    loaded = load_tokenizer(model, DataSection())
    assert loaded.tokenizer.pad_token == "<|im_end|>"
    assert "<|im_end|>" in loaded.note
    edit(model / "tokenizer_config.json", lambda c: c.pop("eos_token"))
    with pytest.raises(StudioError, match="neither a padding nor an end token"):
        load_tokenizer(model, DataSection())


def test_the_int8_product_keeps_nothing_of_a_frozen_weight_and_gives_the_same_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bitsandbytes.autograd._functions import MatMul8bitLt, MatmulLtState

    def gradient() -> tuple[torch.Tensor, torch.Tensor, bool]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(6, 32, generator=generator, requires_grad=True)
        weight = torch.randn(16, 32, generator=generator)
        state = MatmulLtState()
        state.threshold, state.has_fp16_weights = 6.0, False
        y = MatMul8bitLt.apply(x * 1, weight, None, None, state)
        keeps = y.grad_fn.tensors[2] is not None
        y.square().sum().backward()
        return y.detach(), x.grad, keeps

    # Whatever was loaded in int8 earlier in this process has had it mended.
    own = inspect.unwrap(MatMul8bitLt.forward)
    monkeypatch.setattr(MatMul8bitLt, "forward", staticmethod(own))
    y, expected, kept = gradient()
    for _ in range(2):
        drop_kept_inputs()
    assert MatMul8bitLt.forward.__wrapped__ is own
    again, found, still = gradient()
    assert kept and not still
    assert torch.equal(y, again) and torch.equal(expected, found)
