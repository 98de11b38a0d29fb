"""Steps in words, made from boxes, and the buttons that change the form."""

import json
from html import unescape
from typing import Any

import gradio as gr
import pytest

from studio.spec import DEFAULTS, parse, plain, tree
from studio.ui import acts, steps
from studio.ui.form import Form

BOXES: dict[str, Any] = {
    "column": "category", "keep": "equals", "text": "open_qa", "when": False, "number": 100.0,
    "skip": 0.0, "fault": "duplicate",
}  # fmt: skip
STEPS: list[dict[str, Any]] = [
    {"do": "shuffle"},
    {"do": "take", "rows": 10},
    {"do": "drop", "what": "cut"},
]


@pytest.fixture(scope="module")
def form() -> Form:
    made = Form(DEFAULTS)
    with gr.Blocks():
        made.basic("data")
        made.basic("train")
        made.advanced("data", "train")
    return made


@pytest.mark.parametrize(
    ("kind", "boxes", "step", "words"),
    [
        (
            "filter",
            {},
            {"do": "filter", "column": "category", "value": "open_qa"},
            "Keep rows whose category is open_qa",
        ),
        (
            "filter",
            {"keep": "longer", "text": "20"},
            {"do": "filter", "column": "category", "keep": "longer", "value": "20"},
            "Keep rows whose category is longer than 20 characters",
        ),
        (
            "filter",
            {"keep": "present", "text": ""},
            {"do": "filter", "column": "category", "keep": "present"},
            "Keep rows whose category is there",
        ),
        (
            "system",
            {"text": " Be kind. ", "when": True},
            {"do": "system", "text": "Be kind.", "when": "missing"},
            "System message where there is none: Be kind.",
        ),
        (
            "drop_columns",
            {"text": "a, b,"},
            {"do": "drop_columns", "columns": ["a", "b"]},
            "Forget the columns a, b",
        ),
        (
            "shuffle",
            {"number": 7.0},
            {"do": "shuffle", "seed": 7},
            "Shuffle with the seed 7",
        ),
        (
            "take",
            {"number": 5000.0, "skip": 20.0},
            {"do": "take", "rows": 5000, "skip": 20},
            "Take 5,000 rows, after the first 20",
        ),
        (
            "drop",
            {"fault": "leaked"},
            {"do": "drop", "what": "leaked"},
            "Leave out rows that are in the evaluation or test too",
        ),
    ],
)
def test_the_boxes_make_a_step_that_the_spec_takes_and_words_tell(
    kind: str, boxes: dict[str, Any], step: dict[str, Any], words: str
) -> None:
    made = steps.made(kind, {**BOXES, **boxes})
    (held,) = parse({"data": {"steps": [made]}}).data.steps
    assert plain(held) == step
    assert steps.words(made) == words == steps.words(step) == steps.words(held.model_dump())


def test_every_kind_and_every_fault_of_the_spec_can_be_chosen() -> None:
    assert {kind for _, kind in steps.KINDS} == set(steps.BOXES)
    for _, fault in steps.FAULTS:
        parse({"data": {"steps": [{"do": "drop", "what": fault}]}})
    for _, keep in steps.KEEPS:
        value = "1" if keep in ("longer", "shorter") else ""
        step = {"do": "filter", "column": "a", "keep": keep, "value": value}
        parse({"data": {"steps": [step]}})


@pytest.mark.parametrize("odd", ["x", 3, None, {}, {"do": "fly"}, {"do": "drop", "what": []}])
def test_a_step_that_is_none_is_shown_all_the_same(odd: Any) -> None:
    assert isinstance(steps.listed([odd]), str)
    assert isinstance(steps.sources([odd]), str)


def held_acts(drawn: str) -> list[dict[str, Any]]:
    parts = drawn.split("data-act='")[1:]
    return [json.loads(unescape(part.partition("'")[0])) for part in parts]


def test_the_list_can_take_each_step_back_and_move_it(form: Form) -> None:
    held = tree(parse({"data": {"steps": STEPS}}))
    found = held_acts(steps.listed(STEPS))
    assert [a["do"] for a in found] == ["remove", "move", "remove", "move", "remove"]
    changed = [acts.changes(a, held, form)["data.steps"] for a in found]
    first, second, third = STEPS
    assert changed == [
        [second, third],
        [second, first, third],
        [first, third],
        [first, third, second],
        [first, second],
    ]


def test_a_source_can_be_removed(form: Form) -> None:
    held = tree(parse({"data": {"also": [{"path": "a.csv"}, {"path": "b.csv"}]}}))
    (_, second) = held_acts(steps.sources(held["data"]["also"]))
    assert acts.changes(second, held, form) == {"data.also": [{"path": "a.csv"}]}


def test_a_remedy_is_added_once(form: Form) -> None:
    step = {"do": "drop", "what": "leaked"}
    held = tree(DEFAULTS)
    assert acts.changes({"do": "add", "step": step}, held, form) == {"data.steps": [step]}
    held["data"]["steps"] = [step]
    assert acts.changes({"do": "add", "step": step}, held, form) == {}


def test_a_field_is_set_and_a_finding_accepted(form: Form) -> None:
    held = tree(DEFAULTS)
    wanted = {"do": "set", "field": "train.max_length", "value": 2048}
    assert acts.changes(wanted, held, form) == {"train.max_length": 2048}
    assert form.set({"train.max_length": 2048}) == {form.components["train.max_length"]: 2048}
    assert acts.changes({"do": "accept", "finding": "cut"}, held, form) == {
        "data.accepted": ["cut"]
    }


@pytest.mark.parametrize(
    "act",
    [
        {},
        {"do": "set", "field": "model.nix", "value": 1},
        {"do": "set", "field": "__class__", "value": 1},
        {"do": "set"},
        {"do": "remove", "field": "data.path", "at": 0},
        {"do": "remove", "field": "data.steps", "at": 3},
        {"do": "remove", "field": "data.steps", "at": -1},
        {"do": "remove", "field": "data.steps", "at": "0"},
        {"do": "move", "field": "data.steps", "at": 0, "by": -1},
        {"do": "move", "field": "data.steps", "at": 0, "by": 2},
        {"do": "add", "step": None},
        {"do": "eval", "code": "1"},
    ],
)
def test_what_is_no_act_changes_nothing(form: Form, act: dict[str, Any]) -> None:
    assert acts.changes(act, tree(parse({"data": {"steps": STEPS}})), form) == {}


@pytest.mark.parametrize("sent", [None, "", "[1]", "{", "3", '"x"'])
def test_what_the_browser_sends_otherwise_is_no_act(sent: Any) -> None:
    class Event:
        act = sent

    assert acts.read(Event()) == {}
    assert acts.read(object()) == {}
