"""The module tree is what `print(model)` prints, and what is counted is what peft counts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from studio.engine import structure
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import METHODS, parse
from tests.engine.helpers import Recorder


def printed(lines: list[dict[str, Any]]) -> list[str]:
    """The lines without the brackets that `print` closes."""
    return [
        "  " * line["depth"] + (f"{line['name']}: " if line["name"] else "") + line["text"]
        for line in lines
    ]


def expected(model: Any) -> list[str]:
    found = [line.removesuffix("(") for line in repr(model).splitlines()]
    return [line for line in found if line.strip() != ")"]


def test_the_tree_is_the_printed_one(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    found = [vars(line) for line in structure.lines(model)]
    assert printed(found) == expected(model)
    assert [line["target"] for line in found if line["target"]] == [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ]  # fmt: skip


def test_layers_that_differ_stand_apart_and_other_linear_kinds_are_targets() -> None:
    config = GPT2Config(n_layer=3, n_embd=8, n_head=2, vocab_size=20)
    model = GPT2LMHeadModel(config)
    model.transformer.h[1].mlp.dropout = torch.nn.Dropout(0.5)
    found = [vars(line) for line in structure.lines(model)]
    assert printed(found) == expected(model)
    assert {line["target"] for line in found if line["target"]} == {"c_attn", "c_proj", "c_fc"}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_is_counted_without_weights(
    settings: Settings, tiny_model: Path, method: str
) -> None:
    from studio.plan.model import summarize
    from studio.plan.trained import trainable

    tree = {"model": {"name_or_path": str(tiny_model)}, "adapter": {"method": method}}
    spec = parse(tree)
    shown = structure.show(spec, settings, Recorder())
    summary = summarize(str(tiny_model), settings)
    assert shown["parameters"] == summary.parameters
    assert shown["trained"] == trainable(spec, summary) > 0
    assert all(
        p.device.type == "meta" for p in structure.shapes(tiny_model, spec.model).parameters()
    )


def test_a_layer_that_is_not_there_is_told(settings: Settings, tiny_model: Path) -> None:
    tree = {"model": {"name_or_path": str(tiny_model)}, "adapter": {"target_modules": ["query"]}}
    with pytest.raises(StudioError, match="no module query"):
        structure.show(parse(tree), settings, Recorder())
