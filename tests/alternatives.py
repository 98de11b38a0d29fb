"""For every field of the spec another legal value, with what it takes to be used at all.

A field of a plain kind needs no entry here: a number moves, a choice becomes the next one. What is
listed by hand are texts, lists, and fields that only others give a meaning.
"""

import copy
from collections.abc import Iterator
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt

from studio.errors import SpecError
from studio.spec import DEFAULTS, SECTIONS, RunSpec, meta_of, parse

Tree = dict[str, dict[str, Any]]
# Values that are not the default, for fields that hold neither a number nor a choice, and where
# the next number or choice would not do.
OTHERS: dict[str, list[Any]] = {
    "model.name_or_path": ["owner/name", "C:/a b"],
    "model.revision": ["main", "0123456"],
    "model.quantization": ["int8", "nf4", "fp4"],
    "model.trusted_files": [["modeling.py=0123456789abcdef"]],
    "data.path": ["a.jsonl"],
    "data.name": ["default"],
    "data.split": ["train[:10%]"],
    "data.revision": ["v1"],
    "data.encoding": ["utf-16", "windows-1252"],
    "data.also": [[{"path": "b.csv", "weight": 2.0}, {"path": "o/n", "split": "train[:10%]"}]],
    "data.columns": [{"prompt": "frage"}, {"prompt": "a", "completion": "b c"}],
    "data.prompt_template": ["[INST] {{ a }}\n{{ \"b\" }} # y", " a \n"],
    "data.completion_template": ["{{ b }}"],
    "data.chat_template": ["chatml", "llama-3"],
    "data.chat_template_jinja": ["{{ messages[0] }}\n"],
    "data.steps": [[{"do": "shuffle", "seed": 1}, {"do": "filter", "column": "a, b = \"c\""}]],
    "data.validation": ["200", "[80%:90%]", "held.jsonl"],
    "data.test": ["5%"],
    "data.accepted": [["cut"], ["cut", "leaked"]],
    "adapter.target_modules": [["q_proj"], ["q_proj", "my_own"]],
    "adapter.layers_to_transform": [[0], [0, 1]],
    "adapter.modules_to_save": [["lm_head"]],
    "adapter.rank_pattern": [{"q_proj": 3}],
    "adapter.alpha_pattern": [{"q_proj": 3}],
    "adapter.method": ["adalora", "ia3", "loha", "lokr", "oft", "vera"],
    "ia3.feedforward_modules": [["up_proj"]],
    "oft.oft_block_size": [16, 64],
    "prompt_tuning.prompt_tuning_init_text": ["Be kind."],
    "multitask_prompt_tuning.prompt_tuning_init_text": ["Be kind."],
    "train.trainer": ["cpt", "dpo", "kto", "orpo", "reward", "grpo"],
    "train.learning_rate": [1e-7, 2.5e-5, 1.23456789e-4, 1e-3, 0.01, 0.3, 1.0],
    "train.neftune_noise_alpha": [5.0, 0.5],
    "train.adam_epsilon": [1e-6],
    "train.lr_scheduler_kwargs": [{"num_cycles": 2.5}],
    "train.report_to": [["tensorboard"], ["trackio", "wandb"]],
    "train.per_device_train_batch_size": [4, 16],
    "reward.center_rewards_coefficient": [0.01, 1.0],
    "grpo.pattern": ["^a+$", "(x|y) , z"],
    "grpo.reward_model": ["20261125-101010-scorer"],
    "grpo.num_generations": [2, 8],
    "fast.tokens": [64, 4096],
    "eval.early_stopping_patience": [1, 3],
    "eval.per_device_eval_batch_size": [4, 16],
    "generate.system_prompt": ["You are kind."],
}  # fmt: skip
# What else has to be set for the field to have an effect, beyond what its conditions say.
WITH: dict[str, Tree] = {
    "model.trust_remote_code": {"model": {"trusted_files": ["modeling.py=0123456789abcdef"]}},
    "model.trusted_files": {"model": {"trusted_files": ["old.py=0"]}},
    "data.completion_template": {"data": {"prompt_template": "x"}},
    "data.chat_template_jinja": {"data": {"chat_template": "custom", "chat_template_jinja": "x"}},
    "train.warmup_steps": {"train": {"max_steps": 100}},
    "train.lr_scheduler_kwargs": {"train": {"lr_scheduler_type": "cosine"}},
    "dpo.label_smoothing": {
        "train": {"trainer": "dpo"},
        "dpo": {"loss_type": "robust", "label_smoothing": 0.1},
    },
    "grpo.pattern": {"grpo": {"pattern_weight": 1.0, "pattern": "b"}},
    "grpo.pattern_weight": {"grpo": {"pattern": "a"}},
    "grpo.length": {"grpo": {"length_weight": 1.0}},
    "grpo.reward_model": {"grpo": {"reward_model_weight": 1.0, "reward_model": "one"}},
    "grpo.reward_model_weight": {"grpo": {"reward_model": "one"}},
    "grpo.exact_match_weight": {"grpo": {"json_weight": 1.0}},
    "eval.load_best_model_at_end": {"eval": {"eval_steps": 50}, "train": {"save_steps": 100}},
    "eval.early_stopping_threshold": {"eval": {"early_stopping_patience": 2}},
    "generate.temperature": {"generate": {"do_sample": True}},
    "generate.top_p": {"generate": {"do_sample": True}},
    "generate.top_k": {"generate": {"do_sample": True}},
    "generate.seed": {"generate": {"do_sample": True}},
    "generate.length_penalty": {"generate": {"num_beams": 2}},
    "generate.early_stopping": {"generate": {"num_beams": 2}},
}


def keys() -> list[str]:
    """Every field, as the form names it."""
    return [f"{s}.{n}" for s, cls in SECTIONS.items() for n in cls.model_fields]


def needed(key: str, seen: frozenset[str] = frozenset()) -> Tree:
    """The least that has to be set for the field to be used."""
    section, _, name = key.partition(".")
    cls = SECTIONS[section]
    tree: Tree = {}
    for other, values in (*cls.used_when, *meta_of(cls.model_fields[name]).when):
        of, _, field = other.partition(".")
        if getattr(getattr(DEFAULTS, of), field) not in values and other not in seen:
            _merge(tree, needed(other, seen | {key}))
            _merge(tree, {of: {field: values[0]}})
    _merge(tree, WITH.get(key, {}))
    return tree


def pairs(key: str) -> Iterator[tuple[RunSpec, RunSpec]]:
    """Specs that differ in this field alone, and in what is not its default."""
    section, _, name = key.partition(".")
    base = needed(key)
    before = parse(base)
    for value in others(key):
        try:
            after = parse(_merge(copy.deepcopy(base), {section: {name: value}}))
        except SpecError:
            continue
        if getattr(getattr(after, section), name) != getattr(getattr(before, section), name):
            yield before, after


def others(key: str) -> list[Any]:
    """Values to try; some may not be legal."""
    if key in OTHERS:
        return OTHERS[key]
    section, _, name = key.partition(".")
    info = SECTIONS[section].model_fields[name]
    default = info.default
    if isinstance(default, bool):
        return [not default]
    if choices := [c for c in get_args(info.annotation) if isinstance(c, str)]:
        return [choice for choice in choices if choice != default]
    if isinstance(default, int | float):
        steps = [default + n for n in (1, -1, 0.25, -0.25, 25, 4)]
        return [*steps, default * 0.5, *_between(info)]
    return []


def _between(info: Any) -> list[Any]:
    """A number in the middle of the field's bounds."""
    low = next(
        (m.ge if isinstance(m, Ge) else m.gt for m in info.metadata if isinstance(m, Ge | Gt)), 0
    )
    high = next(
        (m.le if isinstance(m, Le) else m.lt for m in info.metadata if isinstance(m, Le | Lt)), 1
    )
    return [(low + high) / 2]


def _merge(tree: Tree, more: Tree) -> Tree:
    for section, fields in more.items():
        tree.setdefault(section, {}).update(fields)
    return tree
