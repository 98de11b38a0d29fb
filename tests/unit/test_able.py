"""What this machine can't load or train is told before the start, at its field, with a remedy."""

from typing import Any

import pytest

from studio.plan import able
from studio.plan.machine import Gpu, Machine
from studio.spec import METHODS, PROMPTS, parse

CPU = Machine(cores=2, total=16 * 10**9, available=12 * 10**9, gpus=())
GPU = Machine(2, CPU.total, CPU.available, (Gpu("H100", 80 * 10**9, 10**9, 9.0),))


def told(tree: dict[str, Any], machine: Machine = CPU, config: Any = None) -> dict[str, str]:
    found = list(able.model_problems(parse(tree), machine, config))
    for problem in found:
        # What a remedy sets is legal, and no longer complained of.
        for key, value in problem.changes.items():
            section, _, name = key.partition(".")
            tree = {**tree, section: {**tree.get(section, {}), name: value}}
    left = {p.field for p in able.model_problems(parse(tree), machine, config)}
    assert not left & {p.field for p in found if p.changes}
    return {p.field: f"{p.message} {p.hint}" for p in found}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The modules that are installed, beside which nothing is."""
    modules: set[str] = set()
    monkeypatch.setattr(able, "here", lambda module: module in modules)
    return modules


def test_the_usual_settings_are_fine_everywhere() -> None:
    assert told({}) == told({}, GPU) == {}


def test_a_gpu_that_is_not_there() -> None:
    tree = {"model": {"device_map": "cuda"}}
    assert "no" in told(tree)["model.device_map"] and told(tree, GPU) == {}


@pytest.mark.parametrize("kind", ["flash_attention_2", "flex_attention"])
def test_attention_that_needs_a_gpu(installed: set[str], kind: str) -> None:
    tree = {"model": {"attn_implementation": kind}}
    assert "needs a GPU" in told(tree)["model.attn_implementation"]
    if kind == "flash_attention_2":
        assert "flash_attn is not installed" in told(tree, GPU)["model.attn_implementation"]
        installed.add("flash_attn")
    assert told(tree, GPU) == {}


def test_flash_attention_is_not_computed_in_float32(installed: set[str]) -> None:
    installed.add("flash_attn")
    model = {"attn_implementation": "flash_attention_2", "dtype": "float32"}
    assert "float32" in told({"model": model}, GPU)["model.attn_implementation"]
    assert told({"model": {**model, "dtype": "bfloat16"}}, GPU) == {}


def test_quantizers_that_are_not_installed(installed: set[str]) -> None:
    tree = {"model": {"quantization": "torchao"}}
    assert "torchao is not installed" in told(tree)["model.quantization"]
    installed.add("torchao")
    assert told(tree) == {}


def test_hqq_is_refused_everywhere(installed: set[str]) -> None:
    installed.add("hqq")
    for machine in (CPU, GPU):
        made = told({"model": {"quantization": "hqq"}}, machine)
        assert "transformers 5.23 can't load" in made["model.quantization"]
        came = told({}, machine, {"quantization_config": {"quant_method": "hqq"}})
        assert "transformers 5.23 can't load" in came["model.name_or_path"]


@pytest.mark.parametrize("stored", ["gptq", "awq"])
def test_a_checkpoint_that_is_quantized_already(installed: set[str], stored: str) -> None:
    config = {"quantization_config": {"quant_method": stored, "bits": 4, "group_size": 128}}
    assert able.quantized_as(config) == stored
    assert able.kernel_settings(config) == {"bits": "4", "group_size": "128"}
    assert "gptqmodel" in told({}, config=config)["model.name_or_path"]
    installed.add("gptqmodel")
    assert told({}, config=config) == {}
    again = told({"model": {"quantization": "nf4"}}, config=config)
    assert "can't be quantized again" in again["model.quantization"]
    full = told({"adapter": {"method": "none"}}, config=config)
    assert "can't be trained themselves" in full["adapter.method"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stored", ["gptq", "awq"])
def test_methods_for_which_peft_has_no_packed_layer(
    installed: set[str], stored: str, method: str
) -> None:
    installed.add("gptqmodel")
    able = {"lora", "oft", "vera", *PROMPTS} | ({"adalora"} if stored == "gptq" else set())
    config = {"quantization_config": {"quant_method": stored}}
    found = told({"adapter": {"method": method}}, config=config)
    assert list(found) == ([] if method in able else ["adapter.method"])


def test_what_of_lora_needs_weights_that_are_not_packed(installed: set[str]) -> None:
    installed.add("gptqmodel")
    config = {"quantization_config": {"quant_method": "gptq"}}
    adapter = {"use_dora": True, "init_lora_weights": "orthogonal"}
    found = told({"adapter": adapter}, config=config)
    assert list(found) == ["adapter.use_dora", "adapter.init_lora_weights"]
    assert told({"adapter": {"init_lora_weights": "gaussian"}}, config=config) == {}


def test_a_checkpoint_on_which_nothing_is_trained() -> None:
    config = {"quantization_config": {"quant_method": "mxfp4"}}
    assert "peft trains nothing" in told({}, config=config)["model.name_or_path"]


def test_plain_checkpoints_are_told_from_quantized_ones() -> None:
    assert able.quantized_as(None) is None and able.quantized_as({}) is None
    assert able.quantized_as({"quantization_config": {"load_in_4bit": True}}) == "bitsandbytes"


def test_layers_that_the_model_does_not_have() -> None:
    tree = {"adapter": {"layers_to_transform": [0, 2]}}
    assert (
        "no layer 2" in told(tree, config={"num_hidden_layers": 2})["adapter.layers_to_transform"]
    )
    assert told(tree, config={"num_hidden_layers": 3}) == told(tree) == {}
    # It is no setting of IA3.
    unused = {"adapter": {"method": "ia3", "layers_to_transform": [9]}}
    assert told(unused, config={"num_hidden_layers": 2}) == {}
