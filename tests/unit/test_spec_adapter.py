"""Methods of adapting: what goes together, what is hidden, and recipes from before there was a
choice."""

from typing import Any

import pytest

from bench.matrix import OUT, table
from studio.errors import SpecError
from studio.spec import DEFAULTS, METHODS, SECTIONS, RunSpec, diff, loads, parse, used


def told(tree: dict[str, Any]) -> dict[str, str]:
    """The problems by field, once the remedies are seen to mend them."""
    try:
        parse(tree)
        return {}
    except SpecError as error:
        found = error.problems
    mended = {section: dict(fields) for section, fields in tree.items()}
    for problem in found:
        for key, value in problem.changes.items():
            section, _, name = key.partition(".")
            mended.setdefault(section, {})[name] = value
    if all(problem.changes for problem in found):
        assert isinstance(parse(mended), RunSpec)
    return {problem.field: f"{problem.message} {problem.hint}" for problem in found}


@pytest.mark.parametrize(
    ("tree", "field"),
    [
        ({"adapter": {"method": "loha"}, "model": {"quantization": "nf4"}}, "adapter.method"),
        ({"adapter": {"method": "lokr"}, "model": {"quantization": "fp4"}}, "adapter.method"),
        ({"adapter": {"method": "none"}, "model": {"quantization": "int8"}}, "adapter.method"),
        (
            {"adapter": {"init_lora_weights": "pissa"}, "model": {"quantization": "nf4"}},
            "adapter.init_lora_weights",
        ),
        (
            {"adapter": {"init_lora_weights": "orthogonal"}, "model": {"quantization": "int8"}},
            "adapter.init_lora_weights",
        ),
        ({"adapter": {"init_lora_weights": "orthogonal", "r": 7}}, "adapter.r"),
        (
            {"adapter": {"init_lora_weights": "orthogonal", "rank_pattern": {"q_proj": 3}}},
            "adapter.rank_pattern",
        ),
        ({"adapter": {"init_lora_weights": "olora", "use_dora": True}}, "adapter.use_dora"),
        (
            {
                "adapter": {
                    "init_lora_weights": "pissa", "use_rslora": True, "alpha_pattern": {"a": 1},
                },
            },
            "adapter.use_rslora",
        ),
        (
            {"adapter": {"init_lora_weights": "pissa", "modules_to_save": ["lm_head"]}},
            "adapter.modules_to_save",
        ),
        (
            {"adapter": {"init_lora_weights": "pissa"}, "train": {"trainer": "dpo"}},
            "adapter.init_lora_weights",
        ),
        (
            {"adapter": {"init_lora_weights": "olora"}, "train": {"trainer": "kto"}},
            "adapter.init_lora_weights",
        ),
        (
            {
                "adapter": {"init_lora_weights": "pissa_niter_16"}, "train": {"trainer": "grpo"},
                "grpo": {"beta": 0.04},
            },
            "adapter.init_lora_weights",
        ),
        ({"adapter": {"bias": "all"}, "train": {"trainer": "dpo"}}, "adapter.bias"),
        (
            {
                "adapter": {"method": "vera"}, "vera": {"bias": "vera_only"},
                "train": {"trainer": "kto"},
            },
            "vera.bias",
        ),
        ({"adapter": {"target_modules": ["q_proj", "lm_head"]}}, "adapter.target_modules"),
        ({"adapter": {"target_modules": ["lm_head"]}}, "adapter.target_modules"),
        (
            {"adapter": {"target_modules": ["q_proj"], "modules_to_save": ["q_proj"]}},
            "adapter.modules_to_save",
        ),
        ({"adapter": {"method": "ia3", "target_modules": ["q_proj"]}}, "ia3.feedforward_modules"),
        ({"adapter": {"method": "adalora"}, "adalora": {"target_r": 16}}, "adalora.target_r"),
        (
            {
                "adapter": {"method": "adalora"}, "adalora": {"tinit": 5, "tfinal": 5},
                "train": {"max_steps": 10},
            },
            "adalora.tinit",
        ),
        (
            {"adapter": {"method": "lokr"}, "lokr": {"decompose_factor": 0}},
            "lokr.decompose_factor",
        ),
        ({"adapter": {"method": "p_tuning"}, "train": {"packing": True}}, "train.packing"),
        (
            {
                "adapter": {"method": "prefix_tuning"},
                "train": {"activation_checkpointing": True},
            },
            "train.activation_checkpointing",
        ),
        (
            {"adapter": {"method": "p_tuning"}, "p_tuning": {"num_virtual_tokens": 2000}},
            "p_tuning.num_virtual_tokens",
        ),
        (
            {"adapter": {"method": "prompt_tuning"}, "train": {"trainer": "orpo"}},
            "adapter.method",
        ),
        ({"adapter": {"method": "none"}, "model": {"dtype": "float16"}}, "model.dtype"),
        (
            {"adapter": {"method": "none"}, "train": {"trainer": "grpo"}, "grpo": {"beta": 0.04}},
            "grpo.beta",
        ),
        ({"model": {"device_map": "cpu", "dtype": "float16"}}, "model.dtype"),
        ({"model": {"trust_remote_code": True}}, "model.trust_remote_code"),
    ],
)  # fmt: skip
def test_what_can_not_go_together_is_told_at_its_field(tree: dict[str, Any], field: str) -> None:
    assert list(told(tree)) == [field]


@pytest.mark.parametrize("trainer", ["sft", "orpo", "reward", "grpo"])
def test_a_changed_base_is_fine_where_nothing_is_compared_with_it(trainer: str) -> None:
    adapter = {"init_lora_weights": "pissa", "bias": "all"}
    assert told({"adapter": adapter, "train": {"trainer": trainer}}) == {}


@pytest.mark.parametrize("method", METHODS)
def test_only_the_fields_of_the_method_are_used(method: str) -> None:
    tree = {"adapter": {"method": method}}
    shown = {s for s in METHODS if s in SECTIONS and used(f"{s}.{first(s)}", tree)}
    assert shown == ({method} if method in SECTIONS else set())
    assert used("adapter.r", tree) == (method == "lora")
    assert used("adapter.target_modules", tree) == (
        method in ("lora", "adalora", "ia3", "loha", "lokr", "oft", "vera")
    )


def first(section: str) -> str:
    return next(iter(SECTIONS[section].model_fields))


def test_a_field_of_a_field_is_used_with_it_alone() -> None:
    tree: dict[str, Any] = {"adapter": {"method": "oft"}}
    assert not used("oft.eps", tree)
    assert used("oft.eps", {**tree, "oft": {"coft": True}})
    assert not used("oft.eps", {"oft": {"coft": True}})


def test_recipes_from_before_there_was_a_choice_are_lora() -> None:
    old = loads("adapter: {r: 8, lora_alpha: 16, target_modules: [q_proj], use_dora: true}")
    assert old.adapter.method == "lora" and old.adapter.r == 8
    assert diff(old) == {
        "adapter": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "use_dora": True}
    }
    assert DEFAULTS.adapter.method == "lora"


@pytest.mark.parametrize(
    ("written", "meant"),
    [("0, 2-4", [0, 2, 3, 4]), ([1, "5"], [1, 5]), ("", []), ("7", [7])],
)
def test_layers_are_read_as_people_write_them(written: object, meant: list[int]) -> None:
    assert parse({"adapter": {"layers_to_transform": written}}).adapter.layers_to_transform == meant


@pytest.mark.parametrize("wrong", ["a", "3-x", [-1], [1.5]])
def test_what_is_no_layer_is_refused(wrong: object) -> None:
    assert list(told({"adapter": {"layers_to_transform": wrong}})) == [
        "adapter.layers_to_transform"
    ]


def test_the_document_of_what_trains_on_what_is_the_one_that_is_made() -> None:
    assert OUT.read_text(encoding="utf-8") == table()
