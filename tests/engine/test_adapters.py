"""Every setting of every method arrives at peft, and each gets what it needs of a trainer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from torch import nn
from torch.optim import SGD
from transformers import AutoModelForCausalLM, GPTQConfig

from studio.engine.adapters import CONFIGS, adapter_config, steps_of
from studio.engine.export import export
from studio.errors import SpecError, StudioError
from studio.runs import Run, events
from studio.settings import Settings
from studio.spec import METHODS, SECTIONS, RunSpec, parse
from tests.alternatives import pairs
from tests.engine.helpers import Recorder, ended

OURS = ("adapter.method", "adapter.loraplus_lr_ratio")
OWN = [name for name in METHODS if name in SECTIONS]
KEYS = [
    f"{section}.{name}"
    for section in ("adapter", *OWN)
    for name in SECTIONS[section].model_fields
    if f"{section}.{name}" not in OURS
]
IDS = torch.arange(20)[None] + 3


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


def config_of(spec: RunSpec, model: Any) -> Any:
    return adapter_config(spec, model, {}, folder=Path("somewhere"))


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_arrives_under_its_own_name(model: Any, key: str) -> None:
    name = key.partition(".")[2]
    before, after = next(pairs(key))
    told = [getattr(config_of(spec, model), name) for spec in (before, after)]
    assert told[0] != told[1]
    section = key.partition(".")[0]
    wanted = getattr(getattr(after, section), name)
    # peft keeps module names as a set.
    assert (sorted(told[1]) if isinstance(told[1], set) else told[1]) == wanted


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_the_one_of_its_name(model: Any, method: str) -> None:
    config = config_of(parse({"adapter": {"method": method}}), model)
    assert config is None if method == "none" else type(config) is CONFIGS[method]


def test_layers_are_counted_where_all_linear_ones_are_meant(model: Any) -> None:
    spec = parse({"adapter": {"layers_to_transform": [1]}})
    config = config_of(spec, model)
    assert config.layers_to_transform == [1]
    assert sorted(config.target_modules) == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    ]  # fmt: skip


class Packed(nn.Module):
    """A linear layer as GPTQ and AWQ hold it: no nn.Linear, and its weight packed."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("qweight", torch.zeros(1, dtype=torch.int32))


@pytest.fixture
def packed(tiny_model: Path) -> Any:
    """The tiny model as it looks when it came in GPTQ's form."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings():
            model.set_submodule(name, Packed(module))
    model.config.quantization_config = GPTQConfig(bits=4)
    return model


def test_packed_layers_are_linear_ones_too(packed: Any) -> None:
    config = config_of(parse({}), packed)
    assert sorted(config.target_modules) == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    ]  # fmt: skip
    with pytest.raises(SpecError, match=r"adapter\.method"):
        config_of(parse({"adapter": {"method": "ia3"}}), packed)
    assert config_of(parse({"adapter": {"method": "prompt_tuning"}}), packed) is not None


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"adapter": {"target_modules": ["query"]}}, "no module query, which target_modules"),
        ({"adapter": {"modules_to_save": ["head"]}}, "no module head, which modules_to_save"),
        ({"adapter": {"layers_to_transform": [0, 7]}}, "no layer 7"),
        ({"adapter": {"method": "oft"}, "oft": {"oft_block_size": 24}}, "does not divide the 64"),
        (
            {"adapter": {"method": "adalora"}, "adalora": {"tinit": 10**7}},
            "peft refuses these settings of adalora",
        ),
    ],
)
def test_what_the_model_lacks_is_told(model: Any, tree: dict[str, Any], says: str) -> None:
    with pytest.raises(StudioError, match=says):
        config_of(parse(tree), model)


def test_tokens_that_were_added_are_learned_by_lora_alone(model: Any) -> None:
    new = {"embed_tokens": [400]}
    assert adapter_config(parse({}), model, new).trainable_token_indices == new
    for method in ("loha", "prompt_tuning"):
        with pytest.raises(StudioError, match="can't learn them"):
            adapter_config(parse({"adapter": {"method": method}}), model, new, folder=Path("x"))


@pytest.mark.parametrize(
    ("train", "rows", "steps"),
    [
        ({"max_steps": 7}, 100, 7),
        ({"num_train_epochs": 3, "per_device_train_batch_size": 8}, 20, 9),
        ({"num_train_epochs": 1.5, "gradient_accumulation_steps": 2}, 20, 3),
    ],
)
def test_the_steps_over_which_ranks_are_pruned(
    train: dict[str, Any], rows: int, steps: int
) -> None:
    assert steps_of(parse({"train": train}), rows) == steps


def test_lora_plus_gives_b_its_own_rate(tiny_model: Path) -> None:
    from peft import get_peft_model

    from studio.engine.trainers import Sft

    spec = parse({})
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    trainer = Sft.__new__(Sft)
    trainer.model = get_peft_model(base, adapter_config(spec, base, {}))
    trainer.optimizer, trainer.loraplus_lr_ratio = None, 16.0
    trainer.args = type("Arguments", (), {"weight_decay": 0.1})()
    trainer.get_optimizer_cls_and_kwargs = lambda args, model: (SGD, {"lr": 0.5})
    names = {id(p): n for n, p in trainer.model.named_parameters()}
    seen = {}
    for group in trainer.create_optimizer().param_groups:
        for parameter in group["params"]:
            seen[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    assert {rate for n, (rate, _) in seen.items() if "lora_A" in n} == {0.5}
    assert {rate for n, (rate, _) in seen.items() if "lora_B" in n} == {8.0}
    assert {decay for _, decay in seen.values()} == {0.1}


def watched(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Where the logits of what was trained will be, from before it is saved."""
    from studio.engine import train

    found: list[torch.Tensor] = []
    save = train.save_result

    def look(trainer: Any, *rest: Any) -> None:
        with torch.inference_mode():
            found.append(trainer.model.eval()(input_ids=IDS).logits)
        save(trainer, *rest)

    monkeypatch.setattr(train, "save_result", look)
    return found


@pytest.mark.parametrize("start", ["olora", "pissa", "pissa_niter_16"])
@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_that_took_a_part_of_the_base_goes_on_the_base_as_it_was(
    new_run: Callable[..., Run],
    train_here: Callable[[Run], int],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    start: str,
    rslora: bool,
) -> None:
    trained = watched(monkeypatch)
    adapter = {"init_lora_weights": start, "use_rslora": rslora, "rank_pattern": {}}
    run = new_run(adapter=adapter, train={"max_steps": 2})
    assert train_here(run) == 0, ended(run)
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert config["r"] == 8 and config["init_lora_weights"] is True
    folder = run.spec().model.name_or_path
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    plain = base(IDS).logits
    tuned = PeftModel.from_pretrained(base, str(run.adapter)).eval()
    with torch.inference_mode():
        assert (tuned(IDS).logits - trained[0]).abs().max() < 1e-3
        with tuned.disable_adapter():
            assert torch.equal(tuned(IDS).logits, plain)
    export(run, "merged", tmp_path / "out", settings, Recorder())
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert (merged(IDS).logits - tuned(IDS).logits).abs().max() < 1e-4


@pytest.mark.parametrize("trainer", ["sft", "dpo"])
def test_the_weight_of_right_angles_moves_the_gradient_and_not_what_is_told(
    new_run: Callable[..., Run], train_here: Callable[[Run], int], tmp_path: Path, trainer: str
) -> None:
    rows = [{"prompt": f"{n}?", "chosen": f"{n}.", "rejected": "The tea."} for n in range(8)]
    if trainer == "sft":
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    losses, norms = [], []
    for weight, parts in ((0.0, 1), (50.0, 1), (50.0, 2)):
        run = new_run(
            data={"path": str(path), "validation": "0"},
            adapter={"method": "adalora"},
            adalora={"orth_reg_weight": weight},
            train={
                "trainer": trainer, "max_steps": 2, "per_device_train_batch_size": 8 // parts,
                "gradient_accumulation_steps": parts,
            },
        )  # fmt: skip
        assert train_here(run) == 0, ended(run)
        log = next(event for event in events.tail(run.events)[0] if event["type"] == "log")
        losses.append(log["loss"])
        norms.append(log["grad_norm"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)
    # In two batches the step is the same one.
    assert norms[1] > 1.5 * norms[0] and norms[2] == pytest.approx(norms[1], rel=1e-3)


def test_adalora_takes_ranks_away_and_is_loaded_as_it_was(
    new_run: Callable[..., Run],
    train_here: Callable[[Run], int],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    trained = watched(monkeypatch)
    own = {"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 1}
    run = new_run(adapter={"method": "adalora"}, adalora=own, train={"max_steps": 5})
    assert train_here(run) == 0, ended(run)
    with safe_open(run.adapter / "adapter_model.safetensors", "pt") as file:
        kept = [len(file.get_tensor(k)) for k in file.keys() if "lora_E" in k]  # noqa: SIM118
    # 14 layers share what is left; those that matter least have given up the most.
    assert len(kept) == 14 and sum(kept) == 14 * 2 and len(set(kept)) > 1
    base = AutoModelForCausalLM.from_pretrained(run.spec().model.name_or_path, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, str(run.adapter)).eval()
    with torch.inference_mode():
        assert (tuned(IDS).logits - trained[0]).abs().max() < 1e-3
    export(run, "merged", tmp_path / "out", settings, Recorder())
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert (merged(IDS).logits - trained[0]).abs().max() < 1e-3


def test_a_model_that_was_trained_whole_is_what_is_exported(
    new_run: Callable[..., Run],
    train_here: Callable[[Run], int],
    settings: Settings,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    run = new_run(adapter={"method": "none"}, train={"max_steps": 2})
    assert train_here(run) == 0, ended(run)
    names = {path.name for path in run.adapter.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    generation = "generation_config.json"
    assert (run.adapter / generation).read_text() == (tiny_model / generation).read_text()
    assert "AutoModelForCausalLM" in (run.adapter / "README.md").read_text()
    export(run, "merged", tmp_path / "out", settings, Recorder())
    for path in run.adapter.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(StudioError, match="there is no adapter"):
        export(run, "adapter", tmp_path / "other", settings, Recorder())
