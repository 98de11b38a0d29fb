"""What ships: recipes, the persona's conversations, and the questions kept from them."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from studio.data import BUNDLED, locate, open_data
from studio.settings import PROJECT, Settings
from studio.spec import DEFAULTS, TRAINERS, diff, load

PRESETS = sorted((PROJECT / "presets").glob("*.yaml"))
DATA = PROJECT / "presets" / "data"
PERSONA = DATA / "persona.jsonl"
HELD_OUT = DATA / "persona_heldout.jsonl"


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


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
    return read("persona_heldout.jsonl")


def test_there_are_recipes_and_the_main_one_is_among_them() -> None:
    assert PROJECT / "presets" / "persona.yaml" in PRESETS


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_a_recipe_loads_and_says_why_it_is_there(path: Path) -> None:
    spec = load(path)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and len(first) > 20
    assert diff(spec), "a recipe that changes nothing"


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_a_recipe_says_why_of_each_value(path: Path) -> None:
    """In a comment above it or behind it; nothing in it points to a machine or a site."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for _section, body in yaml.compose(text).value:
        for key, _value in body.value:
            number = key.start_mark.line
            above, own = lines[number - 1].lstrip(), lines[number]
            assert above.startswith("# ") or "  # " in own, own
    assert not re.search(r"https?://|/home/|/root|/tmp|~/", text)


def test_each_trainer_has_a_recipe_that_works_with_bundled_rows() -> None:
    for trainer in TRAINERS:
        spec = load(PROJECT / "presets" / f"trainer-{trainer}.yaml")
        assert spec.train.trainer == trainer
        assert spec.data.path in BUNDLED
        assert spec.model.name_or_path == DEFAULTS.model.name_or_path


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


def test_of_a_pair_each_question_is_its_own_and_the_answers_differ() -> None:
    pairs = read("persona_pairs.jsonl")
    assert 40 <= len(pairs) == len({normalised(pair["prompt"]) for pair in pairs})
    assert all(normalised(pair["chosen"]) != normalised(pair["rejected"]) for pair in pairs)
    assert len({pair["chosen"] for pair in pairs}) == len(pairs)


def test_as_many_answers_are_marked_good_as_bad() -> None:
    marks = read("persona_marks.jsonl")
    assert len({normalised(row["prompt"]) for row in marks}) == len(marks)
    assert set(Counter(row["label"] for row in marks).values()) == {len(marks) // 2}


def test_the_answers_of_the_sums_are_right() -> None:
    sums = read("workshop_sums.jsonl")
    assert len({row["prompt"] for row in sums}) == len(sums) >= 40
    for row in sums:
        first, second = map(int, re.findall(r"\d+", row["prompt"]))
        away = "taken away" in row["prompt"]
        assert int(row["completion"]) == (first - second if away else first + second)


def test_no_held_out_question_is_in_another_bundled_set(held_out: list[dict[str, Any]]) -> None:
    asked = {normalised(row["question"]) for row in held_out}
    for name in ("persona_pairs.jsonl", "persona_marks.jsonl", "workshop_sums.jsonl"):
        assert not asked & {normalised(row["prompt"]) for row in read(name)}
