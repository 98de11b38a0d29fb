"""What a person sees of a row that can't be trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from studio.data import RowError, open_data
from studio.settings import Settings
from studio.spec import DataSection

QUESTION = {"role": "user", "content": "What is on it?"}
ANSWER = {"role": "assistant", "content": "A cat."}


def seen(settings: Settings, path: Path, bad: Any, *good: Any) -> list[tuple[str, str]]:
    """The turns that are shown of the first row, which can't be used; the others can."""
    path.write_text("\n".join(json.dumps(row) for row in (bad, *good)), encoding="utf-8")
    data = open_data(DataSection(path=str(path), validation="0"), settings)
    (row,) = data.raw(0, 1)
    with pytest.raises(RowError):
        data.example(row)
    return [(turn["role"], turn["content"]) for turn in data.glimpse(row)]


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"type": "image", "image": "cat.png"}, "[an image (cat.png)]"),
        ({"type": "image_url", "image_url": {"url": "http://x/c.jpg"}}, "[an image (http://x/c.jpg)]"),
        ({"type": "input_audio", "input_audio": {"data": "A" * 999}}, "[an audio]"),
    ],
)  # fmt: skip
def test_pictures_are_named(
    settings: Settings, tmp_path: Path, part: dict[str, Any], name: str
) -> None:
    asked = {"role": "user", "content": [{"type": "text", "text": "What is on it?"}, part]}
    bad, good = {"messages": [asked, ANSWER]}, {"messages": [QUESTION, ANSWER]}
    assert seen(settings, tmp_path / "a.jsonl", bad, good) == [
        ("user", f"What is on it?\n{name}"),
        ("assistant", "A cat."),
    ]


def test_an_unknown_speaker_and_what_is_no_text_are_shown_as_they_are(
    settings: Settings, tmp_path: Path
) -> None:
    bad = {"messages": [{"role": "narrator", "content": "Once"}, {"role": "user", "content": 7}]}
    good = {"messages": [QUESTION, ANSWER]}
    assert seen(settings, tmp_path / "a.jsonl", bad, good) == [("narrator", "Once"), ("user", "7")]


def test_a_question_without_an_answer_is_shown(settings: Settings, tmp_path: Path) -> None:
    bad = {"response": "", "context": "Here", "instruction": "Why?", "category": "open"}
    good = {"response": "So.", "context": "", "instruction": "Why?", "category": "open"}
    assert seen(settings, tmp_path / "a.jsonl", bad, good, good) == [
        ("user", "Why?"), ("user", "Here"),
    ]  # fmt: skip


def test_of_a_broken_line_nothing_is_made_up(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n{"text"\n', encoding="utf-8")
    data = open_data(DataSection(path=str(path), validation="0"), settings)
    assert data.glimpse(data.raw(1, 1)[0]) == []
