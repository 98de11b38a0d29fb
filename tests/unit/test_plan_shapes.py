"""Weights told from a config alone: as many as are published, by the names that files have."""

import json
from pathlib import Path
from typing import Any

import pytest

from studio.errors import StudioError
from studio.plan.estimate import plan
from studio.plan.gpus import with_gpu
from studio.plan.known import KNOWN, known_config
from studio.plan.lengths import Rows
from studio.plan.machine import Machine
from studio.plan.model import outline, planned, summarize
from studio.plan.shapes import shapes, unfit, unknown
from studio.settings import Settings
from studio.spec import DEFAULTS, with_values

# As the models' pages and papers give them.
PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "TinyLlama/TinyLlama-1.1B": 1_100_048_384,
    "meta-llama/Llama-2-7b": 6_738_415_616,
    "meta-llama/Llama-2-13b": 13_015_864_320,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "microsoft/Phi-3-mini-4k": 3_821_079_552,
    "microsoft/phi-4": 14_659_507_200,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_model_has_as_many_parameters_as_is_published(name: str) -> None:
    config = known_config(name)
    assert config is not None
    assert outline(name, config).parameters == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-8B"),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Llama-3.1-8B"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistralai/Mistral-7B-v0.1"),
    ],
)
def test_a_tuned_model_has_the_sizes_of_its_base(name: str, same: str) -> None:
    assert known_config(name) == known_config(same) is not None


def test_the_names_and_sizes_are_those_of_the_files(tiny_model: Path, settings: Settings) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    held = {(s.name, s.dims) for s in summarize(str(tiny_model), settings).shapes}
    assert {(s.name, s.dims) for s in shapes(config)} == held


def test_a_folder_with_nothing_but_a_config_can_be_planned(settings: Settings) -> None:
    folder = settings.workspace / "only-config"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(known_config("Qwen/Qwen3-0.6B")))
    assert planned("only-config", settings).parameters == PUBLISHED["Qwen/Qwen3-0.6B"]
    with pytest.raises(StudioError, match="safetensors"):
        summarize("only-config", settings)
    (folder / "config.json").write_text('{"model_type": "mamba", "hidden_size": 8}')
    with pytest.raises(StudioError, match=r"config\.json alone"):
        planned("only-config", settings)


GEMMA3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 34, "sliding_window": 1024,
    },
}  # fmt: skip


def test_the_decoder_of_a_model_for_more_than_text_is_planned_as_what_it_is() -> None:
    found = outline("gemma-3-4b", GEMMA3_4B)
    assert (found.layers, found.hidden_size, found.vocab_size) == (34, 2560, 262_208)
    # As its paper counts them: 675 million in the embedding, 3,209 million in the layers.
    assert found.parameters == pytest.approx(3.88e9, rel=0.01)
    spec = with_values(DEFAULTS, {"train.max_length": 4096, "train.packing": True,
                                  "train.per_device_train_batch_size": 16})  # fmt: skip
    gpu = with_gpu(Machine(8, int(64e9), int(60e9), ()), "4090")
    assert gpu is not None
    made = plan(spec, found, gpu, Rows(900, 0, (4000,) * 50))
    assert made.engine == "plain" and not made.fits
    assert made.parts is not None and made.parts.activations > 50e9 and made.parts.logits > 0


@pytest.mark.parametrize(
    "changes", [{"model_type": "phi"}, {"attention_dropout": 0.1}, {"model_type": "olmo2"}]
)
def test_what_the_fast_path_may_not_fit_is_planned_the_plain_way(changes: dict[str, Any]) -> None:
    config = {**(known_config("Qwen/Qwen3-8B") or {}), **changes}
    assert unfit(config) or unknown(config)
    # Only what is sure is refused by name.
    assert bool(unfit(config)) == ("attention_dropout" in changes)


def test_a_mixture_of_experts_is_not_guessed() -> None:
    config = known_config("Qwen/Qwen3-8B")
    assert config is not None
    assert shapes({**config, "num_experts": 128}) == ()
    assert shapes({"text_config": config}) == shapes(config) != ()
