"""The layouts of conversations, each told from its columns and turned into messages."""

from typing import Any

import pytest

from studio.data import detect, to_messages
from studio.errors import StudioError

Q: dict[str, str] = {"role": "user", "content": "Q"}
A: dict[str, str] = {"role": "assistant", "content": "A"}
S: dict[str, str] = {"role": "system", "content": "S"}
KNOWN: list[tuple[str, dict[str, Any], list[dict[str, str]]]] = [
    ("messages", {"messages": [S, Q, A, Q, A]}, [S, Q, A, Q, A]),
    (
        "ShareGPT",
        {
            "conversations": [
                {"from": "system", "value": "S"},
                {"from": "human", "value": "Q"},
                {"from": "gpt", "value": "A"},
            ]
        },
        [S, Q, A],
    ),
    ("conversation", {"conversation": [Q, A]}, [Q, A]),
    ("alpaca", {"instruction": "Q", "input": "", "output": "A"}, [Q, A]),
    ("dolly", {"instruction": "Q", "context": None, "response": "A", "category": "x"}, [Q, A]),
    ("prompt and completion", {"prompt": "Q", "completion": "A"}, [Q, A]),
    ("question and answer", {"id": 7, "question": "Q", "answer": "A"}, [Q, A]),
]


def wrong(row: dict[str, Any]) -> str:
    """What turning the row into messages ends in."""
    with pytest.raises(StudioError) as caught:
        to_messages(row, detect([row]))
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize(("name", "row", "messages"), KNOWN, ids=[k[0] for k in KNOWN])
def test_a_layout_is_known_and_becomes_messages(
    name: str, row: dict[str, Any], messages: list[dict[str, str]]
) -> None:
    layout = detect([row, {"anything": 1}])
    assert layout.name == name and layout.reason
    assert to_messages(row, layout) == messages


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Q", "input": "more", "output": "A"},
        {"instruction": "Q", "context": "more", "response": "A"},
        {"question": "Q", "context": "more", "answer": "A"},
    ],
)
def test_what_goes_with_a_question_is_put_below_it(row: dict[str, Any]) -> None:
    assert to_messages(row, detect([row]))[0]["content"] == "Q\n\nmore"


def test_messages_win_over_other_columns() -> None:
    assert detect([{"prompt": "", "completion": "", "messages": []}]).name == "messages"


def test_a_system_prompt_takes_the_place_of_the_rows_own() -> None:
    row: dict[str, Any] = {"messages": [S, Q, A]}
    layout = detect([row])
    assert to_messages(row, layout, "Be kind.") == [{"role": "system", "content": "Be kind."}, Q, A]
    assert to_messages(row, layout, "") == to_messages(row, layout, None) == [S, Q, A]
    assert row == {"messages": [S, Q, A]}


@pytest.mark.parametrize("row", [{"text": "x"}, {}, {"instruction": "x"}, {1: 2, "b": 3}])
def test_an_unknown_layout_is_answered_with_its_columns_and_all_known_ones(
    row: dict[Any, Any],
) -> None:
    with pytest.raises(StudioError, match="no layout that is known") as caught:
        detect([row])
    assert all(str(column) in caught.value.message for column in row)
    assert "prompt + completion" in caught.value.hint


def test_no_rows_have_no_layout() -> None:
    with pytest.raises(StudioError, match="no rows"):
        detect([])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": "Q"}, "not a list of turns"),
        ({"messages": []}, "not a list of turns"),
        ({"messages": None}, "not a list of turns"),
        ({"messages": [Q, "A"]}, "Turn 2 of `messages`"),
        ({"messages": [Q, {"role": "assistant"}]}, "Turn 2 of `messages` lacks"),
        ({"messages": [Q, {"role": "robot", "content": "A"}]}, "spoken by 'robot'"),
        ({"messages": [{"role": ["user"], "content": "Q"}]}, "spoken by"),
        ({"messages": [Q, {"role": "assistant", "content": ["A"]}]}, "`content` is list"),
        (
            {"messages": [Q, A, Q, {**A, "content": " \n"}]},
            "Turn 4 of `messages` is an empty answer",
        ),
        ({"messages": [Q, {**A, "content": None}]}, "Turn 2 of `messages` is an empty answer"),
        (
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": ""}]},
            "Turn 2 of `conversations` is an empty answer",
        ),
        ({"question": "Q", "answer": " "}, "`answer` is an empty answer"),
        ({"instruction": "Q", "output": None}, "`output` is an empty answer"),
        (
            {"messages": [Q, {"role": "assistant", "tool_calls": [{"id": 1}]}]},
            "Turn 2 of `messages` calls a tool, which is not trained here yet",
        ),
        (
            {"messages": [Q, {**A, "tool_calls": [{"id": 1}]}]},
            "Turn 2 of `messages` calls a tool",
        ),
        ({"messages": [Q, A], "tools": [{"type": "function"}]}, "offers tools"),
        ({"messages": [Q, A], "tools": '[{"type": "function"}]'}, "offers tools"),
        ({"messages": [S, Q]}, "no answer to learn from"),
        ({"conversations": [{"from": "human", "value": 5}]}, "`value` is int"),
        ({"question": "Q", "answer": 42}, "`answer` is int"),
        ({"question": {"a": 1}, "answer": "A"}, "`question` is dict"),
        ({"question": "Q", "answer": "half \ud83d of it"}, "half a character"),
    ],
)
def test_a_row_that_is_wrong_is_told_in_a_sentence(row: dict[str, Any], words: str) -> None:
    assert words in wrong(row)


@pytest.mark.parametrize("none", [None, [], "", "[]"])
def test_columns_for_tools_that_are_empty_do_no_harm(none: Any) -> None:
    row = {"messages": [Q, {**A, "tool_calls": none}], "tools": none}
    assert to_messages(row, detect([row])) == [Q, A]
