"""Every field of the spec: described, bounded, and named as the libraries name it."""

import math
import re
from typing import Any, cast, get_args

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from studio.errors import Problem, SpecError
from studio.spec import DEFAULTS, REWARDS, SECTIONS, Meta, fields, parse, used
from tests.unit.libraries import METHODS

FIELDS = [
    pytest.param(section, name, info, meta, id=f"{section}.{name}")
    for section, name, info, meta in fields()
]
NUMBERS = [
    pytest.param(section, name, info, id=f"{section}.{name}")
    for section, name, info, _meta in fields()
    if {info.annotation, *get_args(info.annotation)} & {int, float}
]


def problems(tree: dict[str, Any]) -> dict[str, str]:
    """What `parse` says is wrong, by field."""
    try:
        parse(tree)
    except SpecError as error:
        found = error.problems
    else:
        return {}
    assert len({p.field for p in found}) == len(found), "a field is told once"
    return {p.field: f"{p.message} {p.hint}" for p in found}


def test_there_are_fields_in_every_section() -> None:
    assert {p.values[0] for p in FIELDS} == set(SECTIONS)
    assert len(FIELDS) > 40


@pytest.mark.parametrize(("section", "name", "info", "meta"), FIELDS)
def test_a_field_has_a_label_a_group_and_one_or_two_sentences_of_help(
    section: str, name: str, info: FieldInfo, meta: Meta
) -> None:
    assert meta.label.strip() and meta.group.strip()
    words = info.description or ""
    assert words.endswith(".") and words[0].isupper()
    assert 20 <= len(words) <= 220 and len(re.findall(r"[.!?](?= |$)", words)) <= 3
    assert not meta.link or meta.link.startswith("https://")


@pytest.mark.parametrize(("section", "name", "info", "meta"), FIELDS)
def test_a_default_is_accepted_when_it_is_said_aloud(
    section: str, name: str, info: FieldInfo, meta: Meta
) -> None:
    assert parse({section: {name: info.default}}) == DEFAULTS


@pytest.mark.parametrize(("section", "name", "info"), NUMBERS)
def test_a_number_has_bounds_and_what_lies_outside_is_refused(
    section: str, name: str, info: FieldInfo
) -> None:
    low = next((m for m in info.metadata if isinstance(m, Ge | Gt)), None)
    assert low is not None, "a number needs a lower bound"
    below = cast(float, low.ge) - 1 if isinstance(low, Ge) else low.gt
    assert list(problems({section: {name: below}})) == [f"{section}.{name}"]
    high = next((m for m in info.metadata if isinstance(m, Le | Lt)), None)
    if high is not None:
        above = cast(float, high.le) + 1 if isinstance(high, Le) else high.lt
        assert list(problems({section: {name: above}})) == [f"{section}.{name}"]


@pytest.mark.parametrize(("section", "name", "info"), NUMBERS)
def test_what_is_no_finite_number_is_refused(section: str, name: str, info: FieldInfo) -> None:
    for value in (math.nan, math.inf, -math.inf, "nan", "inf", True, "many", [1]):
        found = problems({section: {name: value}})
        assert list(found) == [f"{section}.{name}"], value
        assert "The default is" in found[f"{section}.{name}"]


@pytest.mark.parametrize(
    ("tree", "field"),
    [
        ({"train": {"max_steps": 0}}, "train.max_steps"),
        ({"train": {"warmup_steps": 1.5}}, "train.warmup_steps"),
        ({"train": {"warmup_steps": 10, "max_steps": 10}}, "train.warmup_steps"),
        (
            {"adapter": {"use_dora": True}, "model": {"quantization": "int8"}},
            "adapter.use_dora",
        ),
        ({"model": {"name_or_path": "weights/pytorch_model.BIN"}}, "model.name_or_path"),
        ({"model": {"name_or_path": ""}}, "model.name_or_path"),
        ({"adapter": {"target_modules": []}}, "adapter.target_modules"),
        ({"adapter": {"target_modules": [1, 2]}}, "adapter.target_modules"),
        ({"model": {"quantization": False}}, "model.quantization"),
        ({"data": {"chat_template": "custom"}}, "data.chat_template_jinja"),
        ({"data": {"chat_template_jinja": "{{ 1 }}"}}, "data.chat_template_jinja"),
        ({"data": {"completion_template": "{{ a }}"}}, "data.completion_template"),
        ({"data": {"prompt_template": "x", "chat_template": "chatml"}}, "data.chat_template"),
        ({"data": {"prompt_template": "x"}, "train": {"trainer": "dpo"}}, "data.prompt_template"),
        ({"data": {"encoding": "utf-9"}}, "data.encoding"),
        ({"data": {"validation": "95%"}}, "data.validation"),
        ({"data": {"test": ".95"}}, "data.test"),
        ({"data": {"test": "[1-2]"}}, "data.test"),
        ({"data": {"validation": True}}, "data.validation"),
        ({"data": {"steps": [{"do": "take"}]}}, "data.steps"),
        ({"data": {"steps": [{"do": "fly"}]}}, "data.steps"),
        ({"data": {"steps": [{}]}}, "data.steps"),
        ({"data": {"steps": ["take"]}}, "data.steps"),
        ({"data": {"steps": [{"do": "take", "rows": True}]}}, "data.steps"),
        ({"data": {"steps": [{"do": "take", "rows": 5, "row": 1}]}}, "data.steps"),
        ({"data": {"steps": [{"do": "filter", "column": "a", "keep": "longer"}]}}, "data.steps"),
        (
            {"data": {"steps": [{"do": "filter", "column": "a", "keep": "matches", "value": "("}]}},
            "data.steps",
        ),
        (
            {"data": {"steps": [{"do": "filter", "column": "a", "keep": "absent", "value": "x"}]}},
            "data.steps",
        ),
        ({"data": {"steps": [{"do": "drop", "what": "cut", "threshold": 0.9}]}}, "data.steps"),
        ({"data": {"also": [{"path": ""}]}}, "data.also"),
        ({"data": {"also": [{"path": "a", "weight": 0}]}}, "data.also"),
        ({"data": {"columns": {"prompt": 1}}}, "data.columns"),
        ({"train": {"trainer": "dpo", "packing": True}}, "train.packing"),
        ({"train": {"trainer": "kto"}, "data": {"train_on": "last"}}, "data.train_on"),
        ({"train": {"trainer": "dpo"}, "dpo": {"loss_type": "robust"}}, "dpo.label_smoothing"),
        (
            {"train": {"trainer": "kto", "per_device_train_batch_size": 1}},
            "train.per_device_train_batch_size",
        ),
        ({"train": {"trainer": "orpo", "packing": True}}, "train.packing"),
        ({"train": {"trainer": "cpt"}, "data": {"train_on": "last"}}, "data.train_on"),
        (
            {"train": {"lr_scheduler_type": "reduce_lr_on_plateau", "warmup_steps": 258}},
            "train.warmup_steps",
        ),
        ({"train": {"lr_scheduler_type": "constant", "warmup_steps": 0.1}}, "train.warmup_steps"),
        ({"train": {"lr_scheduler_kwargs": {"num_cycles": 2}}}, "train.lr_scheduler_kwargs"),
        (
            {"train": {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"power": 2}}},
            "train.lr_scheduler_kwargs",
        ),
        ({"train": {"lr_scheduler_type": "warmup_stable_decay"}}, "train.lr_scheduler_kwargs"),
        ({"train": {"lr_scheduler_type": "cosine_with_min_lr"}}, "train.lr_scheduler_kwargs"),
        (
            {
                "train": {
                    "lr_scheduler_type": "cosine_warmup_with_min_lr",
                    "lr_scheduler_kwargs": {"min_lr": 1e-6, "min_lr_rate": 0.1},
                },
            },
            "train.lr_scheduler_kwargs",
        ),
        (
            {
                "train": {"lr_scheduler_type": "greedy"},
                "data": {"validation": "0"},
            },
            "train.lr_scheduler_type",
        ),
        (
            {"eval": {"load_best_model_at_end": True}, "data": {"validation": "0%"}},
            "eval.load_best_model_at_end",
        ),
        (
            {"eval": {"early_stopping_patience": 2, "eval_strategy": "no"}},
            "eval.early_stopping_patience",
        ),
        (
            {"train": {"save_strategy": "best"}, "eval": {"eval_strategy": "no"}},
            "train.save_strategy",
        ),
        (
            {
                "train": {"save_strategy": "steps"},
                "eval": {"load_best_model_at_end": True, "eval_strategy": "epoch"},
            },
            "train.save_strategy",
        ),
        (
            {"train": {"save_steps": 25}, "eval": {"load_best_model_at_end": True}},
            "train.save_steps",
        ),
        ({"eval": {"metric_for_best_model": "eval_reward"}}, "eval.metric_for_best_model"),
        ({"train": {"trainer": "grpo"}, "grpo": {"pattern_weight": 1}}, "grpo.pattern"),
        ({"train": {"trainer": "grpo"}, "grpo": {"pattern": "("}}, "grpo.pattern"),
        (
            {"train": {"trainer": "grpo"}, "grpo": {"exact_match_weight": 0}},
            "grpo.exact_match_weight",
        ),
        (
            {"train": {"trainer": "grpo"}, "grpo": {"reward_model_weight": 0.5}},
            "grpo.reward_model",
        ),
        (
            {"train": {"trainer": "grpo", "per_device_train_batch_size": 6}},
            "train.per_device_train_batch_size",
        ),
        (
            {"train": {"trainer": "grpo"}, "eval": {"per_device_eval_batch_size": 6}},
            "eval.per_device_eval_batch_size",
        ),
        (
            {
                "train": {"trainer": "grpo"},
                "data": {"validation": "0", "test": "10%"},
                "eval": {"eval_strategy": "no", "per_device_eval_batch_size": 6},
            },
            "eval.per_device_eval_batch_size",
        ),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_at_their_field(
    tree: dict[str, Any], field: str
) -> None:
    assert list(problems(tree)) == [field]


def test_the_evaluation_batch_counts_where_only_test_rows_are_measured() -> None:
    tree: dict[str, Any] = {"eval": {"eval_strategy": "no", "per_device_eval_batch_size": 6}}
    assert used("eval.per_device_eval_batch_size", tree)
    assert problems({**tree, "train": {"trainer": "grpo"}}) == {}


@pytest.mark.parametrize("loss", get_args(SECTIONS["dpo"].model_fields["loss_type"].annotation))
def test_only_the_loss_robust_has_labels_smoothed(loss: str) -> None:
    assert used(
        "dpo.label_smoothing", {"train": {"trainer": "dpo"}, "dpo": {"loss_type": loss}}
    ) == (loss == "robust")


def mended(tree: dict[str, Any]) -> list[Problem]:
    """The problems, each of which has a change that mends it."""
    try:
        parse(tree)
    except SpecError as error:
        found = error.problems
    else:
        return []
    assert all(p.changes for p in found)
    return found


@pytest.mark.parametrize(
    "tree",
    [
        {"train": {"max_steps": 0, "packing": True, "trainer": "dpo", "warmup_steps": 1.5}},
        {
            "train": {"lr_scheduler_type": "reduce_lr_on_plateau", "save_strategy": "best"},
            "eval": {"load_best_model_at_end": True, "early_stopping_patience": 2},
            "data": {"validation": "0"},
        },
        {
            "train": {"trainer": "grpo", "per_device_train_batch_size": 3, "save_steps": 33},
            "eval": {"load_best_model_at_end": True, "per_device_eval_batch_size": 1},
            "grpo": {"exact_match_weight": 0, "pattern_weight": 1, "reward_model_weight": 1},
        },
        {"train": {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 20, "max_steps": 9}},
        {"train": {"trainer": "kto", "per_device_train_batch_size": 1}},
        {"train": {"trainer": "dpo"}, "dpo": {"loss_type": "robust"}},
        {
            "train": {
                "lr_scheduler_type": "cosine_with_min_lr",
                "lr_scheduler_kwargs": {"min_lr": 1e-6, "min_lr_rate": 0.1, "power": 2},
            },
        },
    ],
)
def test_the_changes_that_come_with_problems_mend_them(tree: dict[str, Any]) -> None:
    """All buttons pressed, one after the other, leave a spec that is right."""
    for _ in range(12):
        found = mended(tree)
        if not found:
            return
        for key, value in found[0].changes.items():
            section, _, name = key.partition(".")
            tree.setdefault(section, {})[name] = value
    raise AssertionError(tree)


def test_a_wrong_step_is_named_by_its_place_and_part() -> None:
    steps: list[dict[str, Any]] = [{"do": "shuffle"}, {"do": "filter"}]
    said = problems({"data": {"steps": steps}})["data.steps"]
    assert said.startswith("item 2, column: is missing.")
    steps = [{"do": "shuffle"}, {"do": "filter", "column": "a", "keep": "matches", "value": "("}]
    assert problems({"data": {"steps": steps}})["data.steps"].startswith("step 2 (filter): '('")


@pytest.mark.parametrize(
    ("written", "meant"), [(200, "200"), (0, "0"), (0.1, "0.1"), ("10%", "10%"), ("a.csv", "a.csv")]
)
def test_parts_are_read_as_numbers_and_as_text(written: object, meant: str) -> None:
    assert parse({"data": {"validation": written}}).data.validation == meant


def test_a_warmup_in_whole_steps_below_the_length_is_fine() -> None:
    assert problems({"train": {"warmup_steps": 9, "max_steps": 10}}) == {}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("q_proj, v_proj", ["q_proj", "v_proj"]),
        (["q_proj", " v_proj ", ""], ["q_proj", "v_proj"]),
        ("all-linear", "all-linear"),
        (["q_proj", "all-linear"], "all-linear"),
    ],
)
def test_target_modules_are_read_as_people_write_them(written: object, meant: object) -> None:
    assert parse({"adapter": {"target_modules": written}}).adapter.target_modules == meant


def test_a_spec_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        DEFAULTS.train.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("sections", "library", "ours"),
    [
        (
            ("train", "eval"),
            "SFTConfig",
            {"trainer", "engine", "early_stopping_patience", "early_stopping_threshold"},
        ),
        (("dpo",), "DPOConfig", set()),
        (("kto",), "KTOConfig", set()),
        (("orpo",), "ORPOConfig", set()),
        (("reward",), "RewardConfig", set()),
        (("grpo",), "GRPOConfig", {*REWARDS.values(), "pattern", "length", "reward_model"}),
        (("adapter",), "LoraConfig", {"method", "loraplus_lr_ratio"}),
        *(((method,), name, set()) for name, method in METHODS.items() if method != "lora"),
        (("generate",), "GenerationConfig", {"system_prompt", "seed"}),
    ],
)
def test_names_are_those_of_the_installed_library(
    libraries: dict[str, Any], sections: tuple[str, ...], library: str, ours: set[str]
) -> None:
    names = {name for section in sections for name in SECTIONS[section].model_fields}
    assert names
    assert names - set(libraries[library]) == ours
