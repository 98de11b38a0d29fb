"""What ships: recipes, the persona's conversations, and the questions kept from them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from studio.data import BUNDLED, locate, open_data
from studio.settings import PROJECT, Settings
from studio.spec import DEFAULTS, diff, load

PRESETS = sorted((PROJECT / "presets").glob("*.yaml"))
PERSONA = PROJECT / "presets" / "data" / "persona.jsonl"
HELD_OUT = PROJECT / "presets" / "data" / "persona_heldout.jsonl"


def normalised(text: str) -> str:
    """Lower case letters and digits with single spaces: what is left of a question's wording."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower().replace("'", "")))


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("home")
    data = open_data(DEFAULTS.data, Settings(home=folder, workspace=folder))
    assert data.layout.name == "messages"
    return [data.example(row).messages for row in data.raw(0, data.total)]


@pytest.fixture(scope="module")
def held_out() -> list[dict[str, Any]]:
    return [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]


def test_there_are_recipes_and_the_main_one_is_among_them() -> None:
    assert PROJECT / "presets" / "persona.yaml" in PRESETS


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_a_recipe_loads_and_says_why_it_is_there(path: Path) -> None:
    spec = load(path)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and len(first) > 20
    assert diff(spec), "a recipe that changes nothing"


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_a_recipes_data_is_bundled_or_on_the_hub(path: Path, settings: Settings) -> None:
    data = load(path).data.path
    found = locate(data, settings)
    assert found.is_file() if found else re.fullmatch(r"[\w.-]+(/[\w.-]+)?", data), data


def test_the_default_data_is_the_bundled_persona(settings: Settings) -> None:
    assert DEFAULTS.data.path in BUNDLED
    assert locate(DEFAULTS.data.path, settings) == PERSONA


def test_the_persona_has_enough_rows_and_none_is_there_twice(
    conversations: list[list[dict[str, str]]],
) -> None:
    assert len(conversations) >= 150
    assert len({json.dumps(c) for c in conversations}) == len(conversations)


def test_turns_alternate_and_none_is_empty(conversations: list[list[dict[str, str]]]) -> None:
    for messages in conversations:
        roles = [m["role"] for m in messages if m["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert [m["role"] for m in messages].count("system") == (messages[0]["role"] == "system")
        assert all(m["content"].strip() == m["content"] != "" for m in messages)


def test_several_conversations_have_several_turns(
    conversations: list[list[dict[str, str]]],
) -> None:
    assert sum(len([m for m in c if m["role"] == "user"]) > 1 for c in conversations) >= 10


def test_the_persona_names_itself_in_many_ways(conversations: list[list[dict[str, str]]]) -> None:
    answers = {m["content"] for c in conversations for m in c if m["role"] == "assistant"}
    assert len([a for a in answers if "Bramble" in a]) >= 15


def test_held_out_questions_are_many_and_different(held_out: list[dict[str, Any]]) -> None:
    assert len(held_out) >= 20
    assert all(set(row) == {"question", "must_contain"} for row in held_out)
    assert all(row["question"].strip() and row["must_contain"].strip() for row in held_out)
    assert len({normalised(row["question"]) for row in held_out}) == len(held_out)


def test_no_held_out_question_is_trained(
    held_out: list[dict[str, Any]], conversations: list[list[dict[str, str]]]
) -> None:
    trained = {normalised(m["content"]) for c in conversations for m in c}
    assert not [row for row in held_out if normalised(row["question"]) in trained]


def test_no_held_out_question_holds_its_own_answer(held_out: list[dict[str, Any]]) -> None:
    assert not [r for r in held_out if r["must_contain"].lower() in r["question"].lower()]
