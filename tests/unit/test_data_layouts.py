"""Which layout rows have, and what each becomes."""

import json
from typing import Any

import pytest

from studio.data import Broken, Example, Layout, Row, RowError, detect
from studio.data.convert import to_example, unread_keys, with_system
from studio.data.layouts import kind_of
from studio.errors import StudioError
from studio.spec import DataSection, System

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHARE = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
CHAT = Example("chat", TURNS)
TOOL = {"name": "f", "parameters": {}}
OFFERED = [{"type": "function", "function": TOOL}]
CALLS = [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]


def pair(question: str, answer: str = "a") -> Example:
    """A question and its answer."""
    return Example(
        "chat",
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
    )


def read(row: Row, **fields: Any) -> tuple[Layout, Example]:
    """The row's layout and what it becomes."""
    section = DataSection(**fields)
    layout = detect([row], section)
    return layout, to_example(row, layout, section)


def wrong(row: Row, like: Row | None = None, **fields: Any) -> RowError:
    """The error of a row among rows that are laid out `like` another one."""
    section = DataSection(**fields)
    layout = detect([like or row], section)
    with pytest.raises(RowError) as caught:
        to_example(row, layout, section)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("row", "name", "example"),
    [
        ({"messages": TURNS}, "messages", CHAT),
        ({"conversations": TURNS}, "messages", CHAT),
        ({"Messages": TURNS, "id": 1}, "messages", CHAT),
        ({"conversations": SHARE}, "sharegpt", CHAT),
        ({"messages": SHARE}, "sharegpt", CHAT),
        ({"conversation": TURNS, "language": "English"}, "conversation", CHAT),
        ({"conversation": SHARE}, "sharegpt", CHAT),
        ({"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'},
         "messages", CHAT),
        ({"instruction": "i", "input": "n", "output": "a"}, "alpaca", pair("i\n\nn")),
        ({"instruction": "i", "input": "", "output": "a"}, "alpaca", pair("i")),
        ({"instruction": "i", "input": None, "output": "a"}, "alpaca", pair("i")),
        ({"instruction": "i", "output": "a"}, "alpaca", pair("i")),
        ({"instruction": "i", "context": "c", "response": "a", "category": "x"}, "dolly",
         pair("i\n\nc")),
        ({"prompt": "p", "completion": "a"}, "prompt_completion", pair("p")),
        ({"prompt": "p", "response": "a"}, "prompt_completion", pair("p")),
        ({"input": "p", "output": "a"}, "prompt_completion", pair("p")),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, "prompt_completion", CHAT),
        ({"question": "q", "answer": "a", "context": "c"}, "question_answer", pair("c\n\nq")),
        ({"question": "q", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}},
         "question_answer", pair("q")),
        ({"question": "q", "answers": ["a", "b"]}, "question_answer", pair("q")),
        ({"question": "q", "answers": [{"text": "a"}]}, "question_answer", pair("q")),
        ({"text": "t", "n": 1}, "text", Example("text", prompt="t")),
    ],
)  # fmt: skip
def test_each_layout_is_told_and_read(row: Row, name: str, example: Example) -> None:
    layout, made = read(row)
    assert layout.name == name and made == example
    assert "the row has `" in layout.reason
    assert kind_of(layout, DataSection()) == example.kind
    assert set(layout.columns.values()) <= set(row)


PROMPT, GOOD, BAD = TURNS[:1], TURNS[1:], [{"role": "assistant", "content": "b"}]
PREFERENCE = Example("preference", PROMPT, chosen=GOOD, rejected=BAD)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"question": "q", "chosen": "a", "rejected": "b"},
        {"prompt": PROMPT, "chosen": GOOD, "rejected": BAD},
        {"prompt": PROMPT, "chosen": GOOD[0], "rejected": BAD[0]},
        {"chosen": PROMPT + GOOD, "rejected": PROMPT + BAD},
        {"prompt": "q", "chosen": PROMPT + GOOD, "rejected": PROMPT + BAD, "messages": TURNS},
        {"conversations": SHARE[:1], "chosen": SHARE[1], "rejected": {"from": "gpt", "value": "b"}},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    ],
)
def test_a_preference_is_read_in_texts_messages_and_sharegpt(row: Row) -> None:
    layout, made = read(row)
    assert layout.name == "preference" and made == PREFERENCE


def test_what_both_continuations_begin_with_belongs_to_the_prompt() -> None:
    more = [*TURNS, {"role": "user", "content": "q2"}]
    _, made = read({"chosen": [*more, *GOOD], "rejected": [*more, *BAD]})
    assert (made.messages, made.chosen, made.rejected) == (more, GOOD, BAD)
    row = {
        "prompt": PROMPT,
        "chosen": [*GOOD, *more[2:], *GOOD],
        "rejected": [*GOOD, *more[2:], *BAD],
    }
    _, made = read(row)
    assert (made.messages, made.chosen, made.rejected) == (more, GOOD, BAD)


@pytest.mark.parametrize("label", [True, 1, "true", "True", "1"])
@pytest.mark.parametrize(
    "row",
    [{"messages": TURNS}, {"conversations": SHARE}, {"prompt": "q", "completion": "a"},
     {"prompt": PROMPT, "completion": GOOD}],
)  # fmt: skip
def test_a_judged_answer_is_read(row: Row, label: Any) -> None:
    layout, made = read({**row, "label": label})
    assert layout.name == "kto"
    assert made == Example("unpaired", PROMPT, chosen=GOOD, label=True)
    assert read({**row, "label": 0})[1].label is False


def test_a_class_is_no_judgement() -> None:
    assert read({"messages": TURNS, "label": "sports"})[0].name == "messages"
    assert read({"text": "t", "label": 1})[0].name == "text"


def test_tools_their_calls_and_their_answers_are_read_from_sharegpt() -> None:
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": '{"y": 2}'},
        {"from": "gpt", "value": "a"},
    ]
    _, made = read({"conversations": turns, "tools": '[{"name": "f", "parameters": {}}]'})
    assert made.tools == OFFERED
    assert made.messages == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": CALLS},
        {"role": "tool", "content": '{"y": 2}'},
        {"role": "assistant", "content": "a"},
    ]


@pytest.mark.parametrize(
    "call",
    [
        {"tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]},
        {"tool_calls": [{"name": "f", "arguments": {"x": 1}}]},
        {"tool_calls": '[{"name": "f", "parameters": {"x": 1}}]'},
        {"function_call": {"name": "f", "arguments": '{"x": 1}'}, "tool_calls": None},
    ],
)
def test_calls_are_read_from_messages_however_they_are_written(call: dict[str, Any]) -> None:
    turns = [TURNS[0], {"role": "assistant", "content": None, **call},
             {"role": "function", "name": "f", "content": {"y": "é"}}, TURNS[1]]  # fmt: skip
    made = read({"messages": turns, "tools": OFFERED})[1]
    assert made.messages[1] == {"role": "assistant", "content": "", "tool_calls": CALLS}
    assert made.messages[2] == {"role": "tool", "content": '{"y": "é"}', "name": "f"}
    assert made.tools == OFFERED


def test_what_stands_beside_the_words_of_a_turn_is_kept() -> None:
    call = [{"id": "c1", "function": {"name": "f", "arguments": {"x": 1}}}]
    turns = [
        {**TURNS[0], "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": call, "thinking": "Look.",
         "refusal": None},
        {"role": "tool", "name": "f", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "no", "weight": 0},
        {"role": "assistant", "content": "a", "reasoning_content": "Hm.", "weight": 1},
        {"role": "assistant", "content": "b", "weight": 0.5, "thinking": ""},
    ]  # fmt: skip
    layout, made = read({"messages": turns})
    assert made.messages[1:] == [
        {"role": "assistant", "content": "", "tool_calls": [{**CALLS[0], "id": "c1"}],
         "reasoning_content": "Look."},
        {"role": "tool", "name": "f", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "no", "weight": 0},
        {"role": "assistant", "content": "a", "reasoning_content": "Hm."},
        {"role": "assistant", "content": "b"},
    ]  # fmt: skip
    assert unread_keys({"messages": turns}, layout) == {"name", "weight"}
    for plain in (turns[1:5], json.dumps(turns[1:5]), "[", "words", None, turns[2], [7]):
        assert unread_keys({"messages": plain}, layout) == set()
    assert unread_keys({"messages": json.dumps(turns)}, layout) == {"name", "weight"}
    share = [*SHARE, {"from": "function_call", "value": CALLS, "weight": 0, "train": False}]
    layout, made = read({"conversations": share})
    assert made.messages[2]["weight"] == 0
    assert unread_keys({"conversations": share}, layout) == {"train"}


HISTORY = [["q1", "a1"], ["q2", "a2"]]


@pytest.mark.parametrize("history", [HISTORY, json.dumps(HISTORY)])
def test_the_history_of_alpaca_is_what_was_said_before(history: Any) -> None:
    row = {"instruction": "i", "input": "", "output": "a", "system": "s", "history": history}
    layout, made = read(row)
    assert layout.name == "alpaca"
    assert [m["content"] for m in made.messages] == ["s", "q1", "a1", "q2", "a2", "i", "a"]
    assert [m["role"] for m in made.messages] == ["system", *("user", "assistant") * 3]
    for none in ([], None, "[]", ""):
        assert read({**row, "history": none})[1].messages[1:] == pair("i").messages
    for odd in ("before", 7, [["q"]], ["q", "a"], [["q", 7]], [["q", ""]]):
        assert wrong({**row, "history": odd}, like=row).message


def test_a_call_keeps_its_id() -> None:
    call = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": None}}]
    turns = [TURNS[0], {"role": "assistant", "tool_calls": call}]
    (made,) = read({"messages": turns})[1].messages[1]["tool_calls"]
    assert made == {"type": "function", "function": {"name": "f", "arguments": {}}, "id": "c1"}


@pytest.mark.parametrize("nothing", [None, "", "[]", []])
def test_no_tools_are_no_tools(nothing: Any) -> None:
    assert read({"messages": TURNS, "tools": nothing})[1].tools is None


def test_a_system_message_may_have_a_column_of_its_own() -> None:
    row = {"system": "s", "instruction": "i", "output": "a"}
    assert read(row)[1].messages[0] == {"role": "system", "content": "s"}
    own = {"system": "s", "messages": [{"role": "system", "content": "own"}, *TURNS]}
    assert read(own)[1].messages == own["messages"]


def test_parts_of_a_message_are_joined_and_pictures_are_named() -> None:
    said = {
        "role": "user",
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
    }
    assert read({"messages": [said, TURNS[1]]})[1].messages[0]["content"] == "a\nb"
    seen = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "cat.png"}}]}
    error = wrong({"messages": [seen, TURNS[1]]})
    assert error.fault == "unreadable" and "an image (cat.png)" in error.message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"instruction": "i"}, "The column `output` is missing"),
        ({"instruction": 5, "output": "a"}, "`instruction` is a number, not text"),
        ({"instruction": True, "output": "a"}, "`instruction` is true, not text"),
        ({"instruction": "i", "output": {"x": 1}}, "`output` is an object, not text"),
    ],
)
def test_a_column_that_changes_its_type_or_vanishes_makes_the_row_unreadable(
    row: Row, words: str
) -> None:
    error = wrong(row, like={"instruction": "i", "output": "a"})
    assert error.fault == "unreadable" and words in error.message


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        (None, "not a list of turns"),
        ([], "not a list of turns"),
        ("text", "not a list of turns"),
        ([*TURNS, "text"], "Turn 3 of `messages` does not say who speaks"),
        ([*TURNS, {"content": "x"}], "Turn 3 of `messages` does not say who speaks"),
        ([{"role": "user"}, TURNS[1]], "Turn 1 of `messages` lacks `content`"),
        ([{"role": "narrator", "content": "x"}, TURNS[1]], "spoken by 'narrator'"),
        ([{"role": "user", "content": 7}, TURNS[1]], "is a number, not text"),
        (TURNS[:1], "no answer to learn from"),
        ([{"role": "system", "content": "s"}, *TURNS[:1]], "no answer to learn from"),
        ([TURNS[0], {"from": "function_call", "value": "f(x)"}], "the call is not JSON"),
        ([TURNS[0], {"from": "function_call", "value": "{}"}], "without its name"),
        ([TURNS[0], {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}],
         "the arguments of f is not JSON"),
        ([TURNS[0], {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}],
         "the arguments of f are no object"),
    ],
)  # fmt: skip
def test_turns_that_are_none_make_the_row_unreadable(turns: Any, words: str) -> None:
    error = wrong({"messages": turns}, like={"messages": TURNS})
    assert error.fault == "unreadable" and words in error.message


@pytest.mark.parametrize("tools", ["{", '[{"x": 1}]', [1]])
def test_tools_that_are_none_make_the_row_unreadable(tools: Any) -> None:
    assert wrong({"messages": TURNS, "tools": tools}).fault == "unreadable"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [TURNS[0], {"role": "assistant", "content": " \n"}]},
        {"messages": [TURNS[0], {"role": "assistant", "content": None}]},
        {"messages": [TURNS[0], {"role": "assistant", "content": ""}, *TURNS]},
        {"instruction": "i", "output": ""},
        {"prompt": "q", "completion": " "},
        {"question": "q", "answer": ""},
        {"question": "q", "answers": {"text": []}},
        {"text": "  "},
        {"prompt": "q", "chosen": "a", "rejected": ""},
        {"prompt": "q", "completion": "", "label": True},
    ],
)
def test_an_empty_answer_is_a_fault_of_its_own(row: Row) -> None:
    assert wrong(row).fault == "empty_answer"


def test_that_a_column_is_empty_is_an_empty_answer_where_it_holds_the_answer() -> None:
    like = {"instruction": "i", "output": "a"}
    assert wrong({"instruction": "i", "output": None}, like=like).fault == "empty_answer"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": TURNS, "label": "maybe"}, "neither true nor false"),
        ({"messages": TURNS[:1], "label": True}, "does not end with an answer"),
        ({"messages": [*TURNS, TURNS[0]], "label": True}, "does not end with an answer"),
    ],
)
def test_a_judgement_that_is_none_makes_the_row_unreadable(row: Row, words: str) -> None:
    error = wrong(row, like={"messages": TURNS, "label": False})
    assert error.fault == "unreadable" and words in error.message


def test_continuations_without_a_prompt_make_the_row_unreadable() -> None:
    assert "have no prompt" in wrong({"chosen": "a", "rejected": "b"}).message


def test_half_a_character_is_replaced_so_that_it_can_be_seen_and_encoded() -> None:
    made = read({"prompt": "q", "completion": "a \ud83d b"})[1]
    assert made.messages[1]["content"] == "a \ufffd b"
    whole = read({"prompt": "q", "completion": "\ud83d\ude00"})[1]
    assert whole.messages[1]["content"] == "😀"


def test_several_rows_are_looked_at_and_the_odd_one_does_not_decide() -> None:
    rows: list[Row | Broken] = [
        Broken("x"),
        {"messages": None, "text": "t"},
        *[{"messages": TURNS, "text": "t"}] * 3,
    ]
    layout = detect(rows, DataSection())
    assert layout.name == "messages"
    assert layout.reason == ("3 of the first 4 rows have `messages`; text would be possible too")
    assert detect([{"messages": None, "text": "t"}] * 3 + rows, DataSection()).name == "text"


def test_the_reason_names_columns_that_go_by_another_name() -> None:
    layout = detect([{"input": "p", "response": "a"}] * 2, DataSection())
    assert layout.reason == (
        "each of the first 2 rows has `input` and `response`; `input` is the prompt; "
        "`response` is the completion"
    )


def test_columns_may_be_named_and_tell_the_layout() -> None:
    columns = {"question": "frage", "answer": "antwort"}
    layout, made = read({"frage": "q", "antwort": "a", "n": 1}, columns=columns)
    assert layout == Layout("question_answer", layout.reason, columns) and made == pair("q")


def test_a_layout_that_is_chosen_is_taken() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "messages": TURNS}
    layout, made = read(row, layout="messages")
    assert (layout.name, layout.reason, made) == ("messages", "you chose it", CHAT)
    assert read({"a": "t"}, layout="text", columns={"text": "a"})[1].prompt == "t"
    assert read({"messages": TURNS, "label": 1}, layout="messages")[1] == CHAT


@pytest.mark.parametrize(
    ("row", "fields", "words"),
    [
        ({"a": "1", "b": "2"}, {}, "The columns a, b are no layout"),
        ({}, {}, "The columns (none) are no layout"),
        ({"a": "1"}, {"layout": "alpaca"}, "needs `instruction` and `output`"),
        ({"a": "1"}, {"columns": {"text": "b"}}, "The column `b`, which is to be the text"),
        ({"a": "1"}, {"columns": {"nonsense": "a"}}, "No layout has the parts nonsense"),
        ({"a": "1"}, {"layout": "text", "columns": {"answer": "a"}}, "has no part `answer`"),
    ],
)
def test_what_can_not_be_laid_out_is_told(row: Row, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(StudioError) as caught:
        detect([row], DataSection(**fields))
    assert words in caught.value.message and caught.value.hint


def test_rows_of_which_none_can_be_read_are_told() -> None:
    with pytest.raises(StudioError, match="no rows"):
        detect([], DataSection())
    with pytest.raises(StudioError, match=r"None of the first rows can be read: It is no JSON"):
        detect([Broken("It is no JSON.")], DataSection())


def test_a_prompt_template_takes_the_place_of_a_layout() -> None:
    row = {"a": "x", "b": "y"}
    layout, made = read(row, prompt_template="[{{ a }}]", completion_template=" {{ b }}")
    assert layout.name == "template" and set(layout.columns) == {"a", "b"}
    assert made == Example("completion", prompt="[x]", completion=" y")
    layout, made = read(row, prompt_template="[{{ a }}]")
    assert made == Example("text", prompt="[x]")
    with pytest.raises(StudioError, match=r"asks for `c`") as caught:
        read(row, prompt_template="{{ c }}")
    assert "a, b" in caught.value.hint


def test_a_template_for_a_row_without_the_column_makes_that_row_unreadable() -> None:
    error = wrong({"b": "y"}, like={"a": "x"}, prompt_template="[{{ a }}]")
    assert error.fault == "unreadable" and "'a' is undefined" in error.message
    empty = wrong({"a": ""}, prompt_template="q", completion_template="{{ a }}")
    assert empty.fault == "empty_answer"


def test_the_systems_message_is_set_always_or_where_it_is_missing() -> None:
    bare, own = CHAT, Example("chat", [{"role": "system", "content": "own"}, *TURNS])
    always, missing = System(text="new"), System(text="new", when="missing")
    wanted = [{"role": "system", "content": "new"}, *TURNS]
    assert with_system(bare, always).messages == with_system(own, always).messages == wanted
    assert with_system(bare, missing).messages == wanted
    assert with_system(own, missing) == own
    assert with_system(PREFERENCE, always).messages[0]["content"] == "new"
