"""Tokens that a template adds: trained, saved, talked to and merged, whether the model's head is
its embeddings or not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from studio.engine.chat import Chat
from studio.engine.export import export
from studio.engine.load import fit_embeddings
from studio.runs import Run
from studio.settings import Settings
from studio.spec import GenerateSection
from tests.engine.helpers import Recorder, ended

HI = [{"role": "user", "content": "What is your name? 3"}]
PHI = {"chat_template": "phi-3", "add_template_tokens": True}
MARKS = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]


@pytest.fixture(scope="module", params=[False, True], ids=["apart", "tied"])
def model(
    request: pytest.FixtureRequest, tiny_model: Path, tiny_tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """The tiny model, and one whose head is its embeddings."""
    if not request.param:
        return tiny_model
    folder = tmp_path_factory.mktemp("tied")
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(tiny_model, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tuned(new_run: Callable[..., Run], train_here: Callable[[Run], int], model: Path) -> Run:
    run = new_run(model={"name_or_path": str(model)}, data=PHI, train={"max_steps": 3})
    assert train_here(run) == 0, ended(run)
    return run


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(ids).logits


def test_new_tokens_are_trained_saved_merged_and_spoken(
    tuned: Run, model: Path, settings: Settings, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tuned.adapter)
    new = tokenizer.convert_tokens_to_ids(MARKS)
    before = LlamaConfig.from_pretrained(model).vocab_size
    assert new == list(range(before, before + 4)) and tokenizer.eos_token == "<|end|>"

    # Saved are the rows of the new tokens, of each matrix there is, and not all the others.
    weights = load_file(tuned.adapter / "adapter_model.safetensors")
    rows = {k: v for k, v in weights.items() if "trainable_tokens" in k}
    tied = LlamaConfig.from_pretrained(model).tie_word_embeddings
    assert len(rows) == (1 if tied else 2)
    assert all(len(v) == 4 for v in rows.values())
    assert not any(len(v) >= before for v in weights.values())

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    fit_embeddings(base, len(tokenizer))
    for name, trained in rows.items():
        module = base.lm_head if "lm_head" in name else base.model.embed_tokens
        assert not torch.equal(trained, module.weight.data[new]), f"{name} was not trained"

    ids = torch.tensor([tokenizer.apply_chat_template(HI, add_generation_prompt=True)["input_ids"]])
    assert new[1] in ids and new[2] in ids
    untuned = logits(base, ids)
    loaded = PeftModel.from_pretrained(base, str(tuned.adapter))
    adapted = logits(loaded, ids)
    assert not torch.allclose(untuned, adapted, atol=1e-3)
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded, ids), untuned)

    export(tuned, "merged", tmp_path / "merged", settings, Recorder())
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.allclose(logits(merged, ids), adapted, atol=1e-4)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert theirs.eos_token == "<|end|>" and "<|assistant|>" in theirs.chat_template
    # Whoever generates with it elsewhere stops where its answers end.
    assert new[3] in merged.generation_config.eos_token_id


def test_both_sides_are_themselves_in_the_chat(tuned: Run, settings: Settings) -> None:
    """In one batch too: the base's rows must not see what was trained."""
    chat = Chat(settings)
    export(tuned, "merged", tuned.export / "merged", settings, Recorder())

    def said(*sides: str) -> dict[str, str]:
        spec = tuned.spec().model_copy(update={"generate": GenerateSection(max_new_tokens=10)})
        return dict(chat.answer(spec, tuned, dict.fromkeys(sides, HI), Recorder()).text)

    alone = {**said("base"), **said("tuned")}
    assert said("base", "tuned") == alone
    assert said("merged")["merged"] == alone["tuned"]
    chat.release()


def test_a_model_that_has_the_tokens_gets_no_more(
    new_run: Callable[..., Run], train_here: Callable[[Run], int]
) -> None:
    run = new_run(
        data={"chat_template": "chatml", "add_template_tokens": True}, train={"max_steps": 1}
    )
    assert train_here(run) == 0, ended(run)
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert not config["trainable_token_indices"]


def test_new_rows_begin_as_the_mean_and_the_same_each_time(model: Path) -> None:
    made = []
    for _ in range(2):
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        before = base.model.embed_tokens.weight.data.clone()
        fit_embeddings(base, len(before) + 2)
        weight = base.model.embed_tokens.weight.data
        assert torch.equal(weight[: len(before)], before)
        assert torch.allclose(weight[len(before) :], before.mean(dim=0).expand(2, -1), atol=1e-6)
        assert len(base.lm_head.weight) == len(weight) == base.config.vocab_size
        made.append(weight)
    assert torch.equal(*made)
