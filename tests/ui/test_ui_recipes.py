"""Recipes on the page: shown by group, loaded, compared, shared, taken from elsewhere, deleted."""

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from studio.errors import SpecError, StudioError
from studio.runs import RunStore
from studio.settings import PROJECT, Settings
from studio.spec import DEFAULTS, diff, dump, load, loads, parse, tree
from studio.ui.context import OWN, recipes
from studio.ui.recipes import (
    bring_back,
    compared,
    delete,
    read,
    settings_at,
    shared,
    shown,
    sides,
    taken,
)
from tests.ui.conftest import write
from tests.ui.test_ui_wiring import Page, served, spec_of  # noqa: F401

BUNDLED = sorted((PROJECT / "presets").glob("*.yaml"))


def own(settings: Settings, name: str = "mine") -> Path:
    return write(settings.recipes / f"{name}.yaml", "# Why I made it.\ntrain:\n  seed: 9\n")


def test_every_bundled_recipe_is_shown_with_what_it_is_for(settings: Settings) -> None:
    page = unescape(shown(settings, "persona"))
    assert BUNDLED
    for path in BUNDLED:
        about = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert recipes(settings)[path.stem].about == about
        assert f"<b>{path.stem}</b><br><span class='soft'>{about}</span>" in page


def test_they_stand_under_their_groups_in_order(settings: Settings) -> None:
    own(settings)
    heads = re.findall(r"<h4>(.*?)</h4>", shown(settings, ""))
    assert heads == ["Start here", "Trainers", "Hardware", "Write-ups", "Yours"]
    groups = {name: recipe.group for name, recipe in recipes(settings).items()}
    assert groups["trainer-dpo"] == "Trainers" and groups["hardware-t4"] == "Hardware"
    assert groups["seed-llama-code"] == "Write-ups" and groups["mine"] == OWN


def test_only_ones_own_can_be_deleted_and_that_is_undone(settings: Settings) -> None:
    path = own(settings)
    page = shown(settings, "persona")
    assert page.count("Delete mine") and page.count('"do": "delete"'.replace('"', "&quot;")) == 1
    text = path.read_text(encoding="utf-8")
    delete(settings, "mine")
    assert "mine" not in recipes(settings) and not path.exists()
    bring_back(settings, "mine")
    assert path.read_text(encoding="utf-8") == text
    for name in ("persona", "gone", "../persona"):
        with pytest.raises(StudioError, match="no recipe of yours"):
            delete(settings, name)
    assert (PROJECT / "presets" / "persona.yaml").is_file()


def test_what_was_deleted_is_brought_back_only_where_it_overwrites_nothing(
    settings: Settings,
) -> None:
    own(settings)
    own(settings, "other")
    delete(settings, "mine")
    own(settings)
    with pytest.raises(StudioError, match="brought back"):
        bring_back(settings, "mine")
    delete(settings, "other")
    for name in ("never", "../../x", "mine"):
        with pytest.raises(StudioError, match="brought back"):
            bring_back(settings, name)
    bring_back(settings, "other")
    assert {"mine", "other"} <= set(recipes(settings))


def test_a_studio_that_only_looks_deletes_nothing(settings: Settings) -> None:
    path = own(settings)
    looking = replace(settings, looks_only="Somebody else is at work.")
    for act in (delete, bring_back):
        with pytest.raises(StudioError, match="at work"):
            act(looking, "mine")
    assert path.exists()


def test_two_recipes_are_compared_in_what_differs_alone() -> None:
    left = tree(parse({"train": {"learning_rate": 2e-3, "seed": 7}, "data": {"path": "<b>x"}}))
    right = tree(parse({"train": {"learning_rate": 1e-3, "seed": 7}}))
    table = compared(left, right, ("one", "two"))
    assert "<th>one</th><th>two</th>" in table and "2 settings differ." in table
    assert "<td title='train.learning_rate'>Learning rate</td><td>2e-3</td><td>1e-3</td>" in table
    assert "<td>&lt;b&gt;x</td><td>persona</td>" in table
    assert table.count("<td title=") == 2 and "seed" not in table
    assert "the same" in compared(left, left, ("one", "two"))
    other = tree(parse({"train": {"learning_rate": 1e-3}}))
    assert "1 setting differs." in compared(other, right, ("one", "two"))


def test_recipes_runs_and_the_form_can_be_compared(settings: Settings, store: RunStore) -> None:
    run = store.create(parse({"train": {"seed": 5}}), "first")
    keys = [key for _words, key in sides(settings, store)]
    assert keys[0] == "form" and f"run/{run.id}" in keys and "recipe/trainer-kto" in keys
    form = tree(DEFAULTS)
    for key in keys:
        assert set(settings_at(key, form, settings, store)) == set(form)
    assert settings_at(f"run/{run.id}", form, settings, store)["train"]["seed"] == 5
    for key in ("recipe/gone", "run/gone", "run/../x"):
        with pytest.raises(StudioError):
            settings_at(key, form, settings, store)


def test_what_is_shared_reads_back_the_same() -> None:
    spec = parse({"data": {"path": "</pre><script>", "prompt_template": "{{ a }}\n#%&'"}})
    page = shared(spec, "my-own")
    assert "<script>" not in page and "download='my-own.yaml'" in page
    (url,) = re.findall(r"href='data:text/yaml;charset=utf-8,([^']*)'", page)
    assert loads(unquote(url)) == spec
    (text,) = re.findall(r"<pre class='code'>(.*?)</pre>", page, re.DOTALL)
    assert unescape(text) == dump(spec)


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_a_bundled_recipe_can_be_taken_from_its_text(path: Path) -> None:
    found, told = taken(path.read_text(encoding="utf-8"))
    assert parse(found) == load(path) and told == []


def test_every_wrong_field_of_a_text_is_named() -> None:
    text = "train:\n  learning_rate: fast\n  sed: 1\nadapter:\n  r: 0\nmodle: {}\n"
    with pytest.raises(SpecError) as caught:
        taken(text)
    named = {problem.field for problem in caught.value.problems}
    assert named == {"train.learning_rate", "train.sed", "adapter.r", "modle"}
    with pytest.raises(StudioError, match="not valid YAML"):
        taken("train: [")
    with pytest.raises(StudioError, match="not a recipe"):
        taken("hello")


def test_whoever_sends_a_recipe_cannot_consent_for_the_reader() -> None:
    """No code of a model runs, and no pickle is opened, because a recipe says so."""
    text = (
        "model:\n  name_or_path: some/model\n  trust_remote_code: true\n"
        "  trusted_files: [modeling.py=0123456789abcdef]\n  use_safetensors: false\n"
    )
    found, told = taken(text)
    assert diff(parse(found)) == {"model": {"name_or_path": "some/model"}}
    assert len(told) == 3
    assert all("yours to decide" in words for words in told)


def test_a_file_that_is_no_text_or_too_large_is_told(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.yaml", "train: {}\n")) == "train: {}\n"
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudioError, match="no text"):
        read(tmp_path / "b.yaml")
    write(tmp_path / "c.yaml", "x" * 300_000)
    with pytest.raises(StudioError, match="too large"):
        read(tmp_path / "c.yaml")


def pressed(page: Page, act: Any, values: dict[str, Any]) -> dict[str, Any]:
    return page.fire("acts-recipe", "select", values, data={"act": json.dumps(act)})


def test_the_buttons_of_the_list(served: Page, home: Settings) -> None:  # noqa: F811
    opened = served.fire("page", "load")
    answer = pressed(served, {"do": "load", "name": "trainer-dpo"}, opened)
    assert spec_of(answer) == load(PROJECT / "presets" / "trainer-dpo.yaml")
    assert answer["recipe"]["value"] == "trainer-dpo"
    answer = pressed(served, {"do": "compare", "name": "trainer-dpo"}, opened)
    assert "<td>dpo</td><td>sft</td>" in answer["recipes-differ"]
    path = own(home)
    answer = pressed(served, {"do": "delete", "name": "mine"}, opened)
    assert "Deleted mine" in answer["recipes-said"] and not path.exists()
    answer = pressed(served, {"do": "undo", "name": "mine"}, opened)
    assert "mine is back" in answer["recipes-said"] and "mine" in answer["recipes-list"]
    path.unlink()
    for act in ({"do": "load", "name": "gone"}, {"do": "delete", "name": "persona"}):
        assert "problem" in pressed(served, act, opened)["recipes-said"]
    assert not {"recipe", "f-train-seed"} & set(pressed(served, {"do": "format"}, opened))


def test_a_pasted_recipe_fills_the_form_or_says_why_not(served: Page) -> None:  # noqa: F811
    opened = served.fire("page", "load")
    answer = served.fire("recipe-take", "click", {**opened, "recipe-text": "train: {seed: 31}"})
    assert spec_of(answer) == parse({"train": {"seed": 31}})
    assert "Loaded" in answer["recipe-taken"] and answer["recipe"]["value"] is None
    wrong = {**opened, "recipe-text": "train: {sed: 31}\nadapter: {r: 0}"}
    answer = served.fire("recipe-take", "click", wrong)
    assert "train.sed" in answer["recipe-taken"] and "adapter.r" in answer["recipe-taken"]
    assert not {"recipe", "f-train-seed"} & set(answer)


def test_the_table_follows_the_two_boxes(served: Page) -> None:  # noqa: F811
    opened = served.fire("page", "load")
    values = {
        **opened,
        "compare-left": "recipe/trainer-sft",
        "compare-right": "recipe/trainer-dpo",
    }
    answer = served.fire("compare-left", "input", values)
    assert "recipe trainer-sft" in answer["recipes-differ"]
    assert "<td>persona</td><td>persona-pairs</td>" in answer["recipes-differ"]
    values["compare-right"] = "run/gone"
    assert "problem" in served.fire("compare-right", "input", values)["recipes-differ"]
