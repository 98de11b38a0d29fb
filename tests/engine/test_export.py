"""What is taken out of a run works elsewhere, and is the model that was trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from studio.engine.export import export
from studio.errors import StudioError
from studio.runs import Run
from studio.settings import Settings
from tests.engine.helpers import Recorder, ended, start_worker

IDS = torch.arange(40)[None] + 3


def tuned_logits(run: Run) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(run.spec().model.name_or_path, dtype=torch.float32)
    with torch.inference_mode():
        return PeftModel.from_pretrained(base, str(run.adapter)).eval()(IDS).logits


def merged_logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return model(IDS).logits


def test_the_merged_model_is_the_tuned_one(trained: Run, merged: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(trained.spec().model.name_or_path)
    assert torch.allclose(merged_logits(merged), tuned_logits(trained), atol=1e-4)
    assert not torch.allclose(merged_logits(merged), base(IDS).logits, atol=1e-2)


def test_the_merged_folder_is_a_plain_model(merged: Path, tiny_model: Path) -> None:
    names = {path.name for path in merged.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert not any("adapter" in name for name in names)
    with safe_open(merged / "model.safetensors", "pt") as file:
        assert not any("lora" in key for key in file.keys())  # noqa: SIM118 - no dictionary
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (merged, tiny_model))
    assert ours.chat_template == theirs.chat_template
    assert ours.pad_token == theirs.pad_token
    generation = "generation_config.json"
    assert (merged / generation).read_text() == (tiny_model / generation).read_text()


# peft warns of what is tried here, and parts the two as they are merged.
@pytest.mark.filterwarnings(
    "ignore:Model has `tie_word_embeddings:UserWarning",
    "ignore:Input and output embeddings are no longer tied:UserWarning",
)
@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_a_head_that_was_tied_is_its_own_once_one_side_was_trained(
    new_run: Callable[..., Run],
    train_here: Callable[[Run], int],
    settings: Settings,
    tiny_model: Path,
    tmp_path: Path,
    module: str,
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "tied"))
    torch.manual_seed(0)
    tied = LlamaConfig.from_pretrained(tiny_model, tie_word_embeddings=True)
    LlamaForCausalLM(tied).save_pretrained(folder)
    run = new_run(
        model={"name_or_path": str(folder)},
        adapter={"modules_to_save": [module]},
        train={"max_steps": 2},
    )
    assert train_here(run) == 0, ended(run)
    export(run, "merged", tmp_path / "out", settings, Recorder())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert torch.allclose(merged_logits(tmp_path / "out"), tuned_logits(run), atol=1e-4)


@pytest.mark.parametrize(
    "sections",
    [{"model": {"quantization": "nf4"}}, {"adapter": {"use_dora": True}}],
    ids=["nf4", "dora"],
)
def test_what_was_trained_otherwise_merges_into_the_plain_base(
    new_run: Callable[..., Run],
    train_here: Callable[[Run], int],
    settings: Settings,
    sections: dict[str, Any],
    tmp_path: Path,
) -> None:
    run = new_run(train={"max_steps": 2}, **sections)
    assert train_here(run) == 0
    export(run, "merged", tmp_path / "out", settings, Recorder())
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert torch.allclose(merged_logits(tmp_path / "out"), tuned_logits(run), atol=1e-3)


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_base_in_bfloat16_stays_in_bfloat16(
    new_run: Callable[..., Run],
    train_here: Callable[[Run], int],
    settings: Settings,
    tiny_model: Path,
    tmp_path: Path,
    use_dora: bool,
) -> None:
    small, out = tmp_path / "bf16", tmp_path / "out"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(small)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(small)
    run = new_run(
        model={"name_or_path": str(small)}, train={"max_steps": 2}, adapter={"use_dora": use_dora}
    )
    assert train_here(run) == 0
    export(run, "merged", out, settings, Recorder())
    with safe_open(out / "model.safetensors", "pt") as file:
        kinds = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118 - as above
    assert kinds == {torch.bfloat16}
    # Rounded once, not twice: each weight is the nearest to the exact sum.
    exact = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32)
    exact = PeftModel.from_pretrained(exact, str(run.adapter)).merge_and_unload()
    rounded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    for (name, right), ours in zip(exact.named_parameters(), rounded.parameters(), strict=True):
        assert torch.equal(right.data.bfloat16().float(), ours.data), name


def test_an_adapter_is_copied_whole(
    trained: Run, session_settings: Settings, tmp_path: Path
) -> None:
    export(trained, "adapter", tmp_path / "out", session_settings, Recorder())
    for path in trained.adapter.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_a_run_without_an_adapter_exports_nothing(
    new_run: Callable[..., Run], settings: Settings, tmp_path: Path
) -> None:
    for kind in ("adapter", "merged"):
        with pytest.raises(StudioError, match="no adapter"):
            export(new_run(), kind, tmp_path / "out", settings, Recorder())
    assert not (tmp_path / "out").exists()


def test_the_worker_tells_how_an_export_goes(
    trained: Run, session_settings: Settings, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    arguments = ("export", str(trained.path), "--format", "adapter", "--out", str(out))
    worker = start_worker(session_settings, *arguments)
    output, _ = worker.communicate(timeout=90)
    assert worker.returncode == 0, output
    log = Run(tmp_path / "deep")
    (tmp_path / "deep" / "out.events.jsonl").rename(log.events)
    assert ended(log)["status"] == "finished"
    assert (out / "adapter_config.json").is_file()


def test_an_export_that_fails_leaves_nothing_half_written(
    trained: Run, session_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        export(trained, "merged", tmp_path / "out", session_settings, Recorder())
    assert list(tmp_path.iterdir()) == []
