"""The form: what is in a box is what the spec gets, and what differs or is wrong is marked."""

from typing import Any, get_args

import gradio as gr
import pytest
from pydantic.fields import FieldInfo

from studio.errors import SpecError
from studio.spec import DEFAULTS, Meta, RunSpec, diff, fields, parse, show, tree
from studio.ui.form import LISTS, Form, Tree, field_id

FIELDS = [
    pytest.param(f"{section}.{name}", info, meta, id=f"{section}.{name}")
    for section, name, info, meta in fields()
]
# A value that is not the default, for what a field may hold.
OTHERS: dict[str, list[Any]] = {
    "model.name_or_path": ["owner/name", "C:/a b"],
    "model.revision": ["main", "0123456"],
    "data.path": ["a.jsonl"],
    "data.name": ["default"],
    "data.split": ["train[:10%]"],
    "data.revision": ["v1"],
    "data.encoding": ["utf-16", "windows-1252"],
    "data.also": [[{"path": "b.csv", "weight": 2.0}, {"path": "o/n", "split": "train[:10%]"}]],
    "data.columns": [{"prompt": "frage"}, {"prompt": "a", "completion": "b c"}],
    "data.prompt_template": ["[INST] {{ a }}\n{{ \"b\" }} # y", " a \n"],
    "data.completion_template": ["{{ b }}"],
    "data.chat_template_jinja": ["{{ messages[0] }}\n"],
    "data.steps": [[{"do": "shuffle", "seed": 1}, {"do": "filter", "column": "a, b = \"c\""}]],
    "data.validation": ["200", "[80%:90%]", "held.jsonl"],
    "data.test": ["5%"],
    "data.accepted": [["cut"], ["cut", "leaked"]],
    "adapter.target_modules": [["q_proj"], ["q_proj", "my_own"]],
    "train.learning_rate": [1e-7, 2.5e-5, 1.23456789e-4, 1e-3, 0.01, 0.3, 1.0],
    "train.neftune_noise_alpha": [5.0, 0.5],
    "generate.system_prompt": ["You are kind."],
}  # fmt: skip
# What a field can't be changed without.
WITH: dict[str, dict[str, Any]] = {
    "data.completion_template": {"prompt_template": "x"},
    "data.chat_template_jinja": {"chat_template": "custom"},
}


def spec_with(key: str, value: Any, default: Any) -> RunSpec:
    """The defaults but for this field, and what it can't be changed without."""
    section, name = key.split(".")
    return parse({section: {name: value, **(WITH.get(key, {}) if value != default else {})}})


def values_of(key: str, info: FieldInfo) -> list[Any]:
    """The default and other values that the field accepts."""
    others = OTHERS.get(key)
    if others is None:
        others = [c for c in get_args(info.annotation) if isinstance(c, str)]
        if isinstance(info.default, bool):
            others = [True, False]
        elif isinstance(info.default, int | float):
            others = [info.default + n for n in (-0.25, 0.25, 1, 25)]
    section, name = key.split(".")
    accepted = [info.default]
    for value in others:
        try:
            spec = spec_with(key, value, info.default)
        except SpecError:
            continue
        accepted.append(getattr(getattr(spec, section), name))
    assert any(a != info.default for a in accepted), "no second value to try"
    return accepted


@pytest.fixture(scope="module")
def form() -> Form:
    """A form with all fields, as the page makes them."""
    made = Form(DEFAULTS)
    with gr.Blocks():
        for _section, name, _info, meta in fields():
            if meta.basic:
                made.make(f"{_section}.{name}")
        made.advanced("model", "data", "adapter", "train", "dpo", "kto", "eval", "generate")
    return made


def tree_of(spec: RunSpec) -> Tree:
    return tree(spec)


@pytest.mark.parametrize(("key", "info", "meta"), FIELDS)
def test_a_value_comes_back_from_its_box_unchanged(
    form: Form, key: str, info: FieldInfo, meta: Meta
) -> None:
    component = form.components[key]
    for value in values_of(key, info):
        wanted = spec_with(key, value, info.default)
        boxes = form.fill(diff(wanted))
        shown = component.postprocess(boxes[component])
        sent = shown.root if hasattr(shown, "root") else shown
        assert form.spec({**boxes, component: component.preprocess(sent)}) == wanted


@pytest.mark.parametrize(("key", "info", "meta"), FIELDS)
def test_a_field_is_shown_with_its_words(form: Form, key: str, info: FieldInfo, meta: Meta) -> None:
    component = form.components[key]
    assert component.label == meta.label and component.info == info.description
    listed = meta.widget in LISTS
    assert component.elem_id == ("v" + field_id(key)[1:] if listed else field_id(key))
    assert "field" in component.elem_classes and (component.visible == "hidden") == listed
    assert component.interactive


def test_the_form_as_it_opens_is_the_spec_it_started_from(form: Form) -> None:
    filled = form.fill(tree_of(DEFAULTS))
    assert form.spec({c: filled[c] for c in form.components.values()}) == DEFAULTS
    assert {c: c.value for c in form.components.values()} == filled


def test_a_recipe_fills_its_fields_and_sets_all_others_to_their_defaults(form: Form) -> None:
    recipe = parse({"train": {"learning_rate": 1e-3, "max_steps": 7}, "adapter": {"r": 4}})
    filled = form.fill(diff(recipe))
    assert set(filled) == set(form.components.values())
    assert form.spec(filled) == recipe
    assert filled[form.components["train.learning_rate"]] == "1e-3"


def test_a_draft_with_wrong_and_unknown_values_is_shown_as_it_was_left(form: Form) -> None:
    draft: dict[str, Any] = {"train": {"learning_rate": "fast", "gone": 1}, "gone": {"a": 2}}
    filled = form.fill(draft)
    assert filled[form.components["train.learning_rate"]] == "fast"
    assert filled[form.components["train.seed"]] == DEFAULTS.train.seed


def test_an_emptied_box_means_none_where_there_is_a_none(form: Form) -> None:
    for key in (
        "model.revision",
        "data.prompt_template",
        "train.neftune_noise_alpha",
    ):
        section, name = key.split(".")
        filled = form.fill(tree_of(DEFAULTS))
        for empty in ("", "  ", None):
            filled[form.components[key]] = empty
            assert getattr(getattr(form.spec(filled), section), name) is None


def test_nothing_is_marked_where_nothing_differs(form: Form) -> None:
    filled = form.fill(tree_of(DEFAULTS))
    assert form.marks(form.tree(filled), DEFAULTS) == {}
    base = parse(
        {
            "train": {"learning_rate": 1e-3, "packing": True},
            "data": {"steps": [{"do": "take", "rows": 5}]},
        }
    )
    assert form.marks(form.tree(form.fill(tree_of(base))), base) == {}


def test_a_changed_field_is_marked_with_the_way_back(form: Form) -> None:
    base = parse({"train": {"learning_rate": 1e-3}})
    filled = form.fill(tree_of(base))
    changes = {
        "train.learning_rate": "2e-4", "train.packing": True, "data.validation": "7",
        "adapter.r": 8.0,
        "adapter.target_modules": ["q_proj"], "model.quantization": "nf4",
        "data.steps": '[{"do": "shuffle"}]',
    }  # fmt: skip
    filled.update({form.components[key]: value for key, value in changes.items()})
    assert form.marks(form.tree(filled), base) == {
        "train.learning_rate": {"changed": "1e-3"},
        "train.packing": {"changed": "off"},
        "data.validation": {"changed": "10%"},
        "data.steps": {"changed": ""},
        "adapter.r": {"changed": "16"},
        "adapter.target_modules": {"changed": "all-linear"},
        "model.quantization": {"changed": "none"},
    }
    for key in changes:
        filled.update(form.reset(key, base))
    assert form.spec(filled) == base


def test_the_same_number_written_otherwise_is_not_a_change(form: Form) -> None:
    filled = form.fill(tree_of(DEFAULTS))
    for written in ("0.0002", "2e-4", " 2E-4 ", "2.0e-04"):
        filled[form.components["train.learning_rate"]] = written
        assert form.marks(form.tree(filled), DEFAULTS) == {}
    filled[form.components["adapter.r"]] = 16.0
    assert form.marks(form.tree(filled), DEFAULTS) == {}


def test_every_wrong_field_is_marked_at_once(form: Form) -> None:
    filled = form.fill(tree_of(DEFAULTS))
    wrong: dict[str, Any] = {
        "train.learning_rate": "fast", "adapter.r": 0, "train.max_length": 10.5,
        "train.num_train_epochs": None, "model.name_or_path": "", "adapter.target_modules": [],
        "train.max_steps": 0, "data.steps": "[{", "data.columns": "prompt = ",
    }  # fmt: skip
    filled.update({form.components[key]: value for key, value in wrong.items()})
    marks = form.marks(form.tree(filled), DEFAULTS)
    assert set(marks) == set(wrong)
    assert all(mark["problem"] and "changed" in mark for mark in marks.values())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (2e-4, "2e-4"), (1.5e-5, "1.5e-5"), (1e-3, "1e-3"), (0.03, "0.03"), (0.0, "0"), (3.0, "3"),
        (16, "16"), (True, "on"), (False, "off"), (None, ""), (["a", "b"], "a, b"), ("x", "x"),
        (-1, "-1"), (1.0, "1"), (1.23456789e-4, "1.23456789e-4"), (-2e-5, "-2e-5"),
    ],
)  # fmt: skip
def test_values_are_written_as_people_write_them(value: object, words: str) -> None:
    assert show(value) == words
