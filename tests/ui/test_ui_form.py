"""The form: what is in a box is what the spec gets, and what differs or is wrong is marked."""

from typing import Any

import gradio as gr
import pytest
from pydantic.fields import FieldInfo

from studio.spec import DEFAULTS, SECTIONS, Meta, RunSpec, diff, fields, parse, show, tree
from studio.ui.form import LISTS, Form, Tree, field_id
from tests.alternatives import pairs

FIELDS = [
    pytest.param(f"{section}.{name}", info, meta, id=f"{section}.{name}")
    for section, name, info, meta in fields()
]


@pytest.fixture(scope="module")
def form() -> Form:
    """A form with all fields, as the page makes them."""
    made = Form(DEFAULTS)
    with gr.Blocks():
        for _section, name, _info, meta in fields():
            if meta.basic:
                made.make(f"{_section}.{name}")
        made.advanced(*SECTIONS)
    return made


def marked(form: Form, tree: Tree, base: RunSpec) -> dict[str, dict[str, str]]:
    """The marks, but for those of fields that are merely not used."""
    marks = form.marks(tree, base)
    kept = {key: {k: v for k, v in mark.items() if k != "unused"} for key, mark in marks.items()}
    return {key: mark for key, mark in kept.items() if mark}


def tree_of(spec: RunSpec) -> Tree:
    return tree(spec)


@pytest.mark.parametrize(("key", "info", "meta"), FIELDS)
def test_a_value_comes_back_from_its_box_unchanged(
    form: Form, key: str, info: FieldInfo, meta: Meta
) -> None:
    component = form.components[key]
    tried = list(pairs(key))
    assert tried, "no second value to try"
    for wanted in (spec for pair in tried for spec in pair):
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
    assert marked(form, form.tree(filled), DEFAULTS) == {}
    base = parse(
        {
            "train": {"learning_rate": 1e-3, "packing": True},
            "data": {"steps": [{"do": "take", "rows": 5}]},
        }
    )
    assert marked(form, form.tree(form.fill(tree_of(base))), base) == {}


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
    assert marked(form, form.tree(filled), base) == {
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
        assert marked(form, form.tree(filled), DEFAULTS) == {}
    filled[form.components["adapter.r"]] = 16.0
    assert marked(form, form.tree(filled), DEFAULTS) == {}


def test_every_wrong_field_is_marked_at_once(form: Form) -> None:
    filled = form.fill(tree_of(DEFAULTS))
    wrong: dict[str, Any] = {
        "train.learning_rate": "fast", "adapter.r": 0, "train.max_length": 10.5,
        "train.num_train_epochs": None, "model.name_or_path": "", "adapter.target_modules": [],
        "train.max_steps": 0, "data.steps": "[{", "data.columns": "prompt = ",
    }  # fmt: skip
    filled.update({form.components[key]: value for key, value in wrong.items()})
    marks = marked(form, form.tree(filled), DEFAULTS)
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
