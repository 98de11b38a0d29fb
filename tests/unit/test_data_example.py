"""What is odd about an example, and by what examples are compared."""

from typing import Any

import pytest

from studio.data import Broken, Example, RowError, likeness, soft_faults, texts
from studio.data.example import Message

CALL = [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]


def chat(roles: str) -> Example:
    """A conversation; s, u, a, t and c (a call of a tool) are who speaks."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool", "c": "assistant"}
    turns: list[Message] = [
        {"role": names[role], "content": "x", **({"tool_calls": CALL} if role == "c" else {})}
        for role in roles
    ]
    return Example("chat", turns)


@pytest.mark.parametrize("roles", ["ua", "sua", "uaua", "ucta", "ucttcta", "uc", "suauctaua"])
def test_roles_that_take_turns_are_in_order(roles: str) -> None:
    assert soft_faults(chat(roles)) == set()


@pytest.mark.parametrize(
    "roles", ["a", "u", "uu", "uua", "uaa", "usa", "uasua", "uau", "uat", "ucu", "ucua", "uct",
              "tua", "ssua", "s", "au", "ucaa"],
)  # fmt: skip
def test_roles_that_do_not_take_turns_are_a_fault(roles: str) -> None:
    assert soft_faults(chat(roles)) == {"role_order"}


def test_the_order_counts_over_prompt_and_answer() -> None:
    user, answer = chat("u").messages, chat("a").messages
    same = Example("preference", user, chosen=answer, rejected=answer)
    assert soft_faults(same) == {"same_pair"}
    assert soft_faults(Example("preference", user, chosen=answer, rejected=user))
    assert not soft_faults(Example("unpaired", user, chosen=answer, label=True))
    assert soft_faults(Example("unpaired", user + answer, chosen=answer, label=True))
    assert not soft_faults(Example("text", prompt="x"))


def mojibake(text: str) -> str:
    """The text's UTF-8 read as Windows-1252, as browsers do it."""
    return "".join(
        chr(b) if b in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else bytes([b]).decode("cp1252")
        for b in text.encode()
    )


@pytest.mark.parametrize(
    "text", ["Spaß”", "café…”", "« oui »", "سلام", "日本", "“MAÇÃ”", "a—b", "Å 5 °C", "😀", "Â, Ã"]
)
def test_text_in_any_language_is_well_encoded(text: str) -> None:
    assert soft_faults(Example("text", prompt=f"so {text} there")) == set()


@pytest.mark.parametrize(
    "text",
    ["a\ufffd", "a\x00", "\ud83d", *map(mojibake, ["é", "’", "سلام", "日本", "😀", "\ufeff", "«"])],
)
def test_text_that_was_read_wrongly_is_a_fault(text: str) -> None:
    assert soft_faults(Example("text", prompt=f"so {text} there")) == {"bad_encoding"}
    assert soft_faults(Example("completion", prompt="q", completion=text)) == {"bad_encoding"}


def test_both_faults_are_told() -> None:
    turns: list[Message] = [{"role": "assistant", "content": "\ufffd"}]
    assert soft_faults(Example("chat", turns)) == {"role_order", "bad_encoding"}


def test_every_text_is_looked_at() -> None:
    example = Example(
        "preference",
        [{"role": "user", "content": "q"}],
        chosen=[{"role": "assistant", "content": "", "tool_calls": CALL}],
        rejected=[{"role": "assistant", "content": "r"}],
    )
    assert texts(example) == ["q", "", '[{"function": {"arguments": {"x": 1}, "name": "f"}, '
                              '"type": "function"}]', "r"]  # fmt: skip


def test_rows_are_compared_by_what_is_said() -> None:
    def with_system(text: str, **more: Any) -> Example:
        return Example("chat", [{"role": "system", "content": text}, *chat("ua").messages], **more)

    assert likeness(with_system("one")) == likeness(with_system("two", tools=CALL)) == "x\x1ex"
    good, bad = (Example("unpaired", chosen=chat("a").messages, label=x) for x in (True, False))
    assert likeness(good) != likeness(bad)
    assert likeness(Example("completion", prompt="p", completion="c")) == "p\x1ec"


def test_a_broken_row_becomes_an_error_of_that_name() -> None:
    error = Broken("It is not JSON.", "Mend it.").error()
    assert isinstance(error, RowError)
    assert (error.fault, error.message, error.hint) == ("broken", "It is not JSON.", "Mend it.")
