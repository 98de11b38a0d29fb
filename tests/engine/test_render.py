"""What is learned of a conversation, template by template, shown as text."""

import copy
from typing import Any

import pytest
from tokenizers import processors

from studio.data import Example, Message, RowError
from studio.engine.encode import IGNORED, Encoder, Tokens

CHAT = [
    {"role": "user", "content": "What is your name?"},
    {"role": "assistant", "content": "My name is Bramble."},
    {"role": "user", "content": "How are you?"},
    {"role": "assistant", "content": "I am well."},
]


def encode(tokenizer: Any, chat: list[Message], train_on: str, length: int) -> Tokens:
    (tokens,) = Encoder(tokenizer, train_on, length).one(Example("chat", messages=chat)).sequences
    return tokens


def kept(tokens: Tokens) -> list[bool]:
    return [bool(label != IGNORED) for label in tokens.labels]


def learned(tokens: Tokens) -> str:
    """The learned pieces, with a bar where what is not learned lies between them."""
    marked, before = "", True
    for piece, trained in zip(tokens.pieces(), kept(tokens), strict=False):
        marked += ("" if before or not marked else "|") + piece if trained else ""
        before = trained
    return marked


def with_template(tokenizer: Any, template: str) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def test_answers_are_learned_with_their_end_and_nothing_else(tiny_tokenizer: Any) -> None:
    encoded = encode(tiny_tokenizer, CHAT, "assistant", 1000)
    assert learned(encoded) == "My name is Bramble.<|im_end|>|I am well.<|im_end|>"
    pairs = zip(encoded.labels, encoded.input_ids, strict=True)
    assert all(label in (IGNORED, token) for label, token in pairs)


def test_the_last_answer_alone_can_be_learned(tiny_tokenizer: Any) -> None:
    assert learned(encode(tiny_tokenizer, CHAT, "last", 1000)) == "I am well.<|im_end|>"


def test_everything_can_be_learned(tiny_tokenizer: Any) -> None:
    encoded = encode(tiny_tokenizer, CHAT, "everything", 1000)
    assert encoded.labels.tolist() == encoded.input_ids.tolist()
    assert learned(encoded) == encoded.text


def test_the_tokens_are_those_the_template_gives(tiny_tokenizer: Any) -> None:
    """The model reads in training what it reads in the chat, its first token not doubled."""
    encoded = encode(tiny_tokenizer, CHAT, "assistant", 1000)
    assert encoded.input_ids.tolist() == tiny_tokenizer.apply_chat_template(CHAT)["input_ids"]
    prompt = tiny_tokenizer.apply_chat_template(CHAT[:1], add_generation_prompt=True)["input_ids"]
    first = kept(encoded).index(True)
    assert encoded.input_ids[:first].tolist() == prompt


def test_the_templates_first_token_is_not_doubled(tiny_tokenizer: Any) -> None:
    """Many tokenizers put a first token before any text; the template has written it by then."""
    adding = copy.deepcopy(tiny_tokenizer)
    adding.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert adding("a")["input_ids"][0] == 0
    expected = encode(tiny_tokenizer, CHAT, "assistant", 1000)
    found = encode(adding, CHAT, "assistant", 1000)
    assert found.input_ids.tolist() == expected.input_ids.tolist()
    assert found.labels.tolist() == expected.labels.tolist()


@pytest.mark.parametrize("length", [1, 20, 45])
def test_what_is_too_long_is_cut_and_shown_as_cut(tiny_tokenizer: Any, length: int) -> None:
    whole = encode(tiny_tokenizer, CHAT, "assistant", 1000)
    cut = encode(tiny_tokenizer, CHAT, "assistant", length)
    assert cut.input_ids.tolist() == whole.input_ids[:length].tolist()
    assert cut.labels.tolist() == whole.labels[:length].tolist()
    assert "".join(cut.pieces()) == whole.text
    assert cut.cut == len(whole.input_ids) - length


@pytest.mark.parametrize(
    "text", ["naïve 😀👩‍👩‍👧 café", "日本語です。", "  two  spaces\n\n", "tab\tend ", "🏳️‍🌈"]
)
def test_pieces_joined_are_the_text(tiny_tokenizer: Any, text: str) -> None:
    chat = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    encoded = encode(tiny_tokenizer, chat, "assistant", 1000)
    assert "".join(encoded.pieces()) == encoded.text
    assert len(encoded.pieces()) == len(encoded.input_ids)
    assert learned(encoded) == text + "<|im_end|>"


def test_the_templates_own_marks_come_first(tiny_tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
        "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    )
    tokenizer = with_template(tiny_tokenizer, template)
    assert learned(encode(tokenizer, CHAT, "assistant", 1000)) == "My name is Bramble.|I am well."
    assert learned(encode(tokenizer, CHAT, "last", 1000)) == "I am well."


def test_a_template_that_counts_the_turns_is_refused(tiny_tokenizer: Any) -> None:
    counting = "{{ messages | length }}: {% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    tokenizer = with_template(tiny_tokenizer, counting)
    with pytest.raises(RowError, match="not prefix-stable"):
        encode(tokenizer, CHAT, "assistant", 1000)
    # Where no answer has to be found, the template is as good as any.
    assert learned(encode(tokenizer, CHAT, "everything", 1000)).startswith("4: ")


def test_a_template_that_thinks_only_in_the_last_turn_is_understood(tiny_tokenizer: Any) -> None:
    thinking = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    encoded = encode(with_template(tiny_tokenizer, thinking), CHAT, "assistant", 1000)
    expected = "My name is Bramble.<|im_end|>|<think>\n\n</think>\n\nI am well.<|im_end|>"
    assert learned(encoded) == expected


def test_without_a_generation_prompt_the_header_is_the_models_to_write(tiny_tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}"
    )
    encoded = encode(with_template(tiny_tokenizer, template), CHAT[:2], "assistant", 1000)
    assert learned(encoded) == "<|im_start|>assistant\nMy name is Bramble.<|im_end|>"


def test_an_answer_that_nobody_asked_for(tiny_tokenizer: Any) -> None:
    chat = [{"role": "assistant", "content": "Good day."}, *CHAT[:2]]
    encoded = encode(tiny_tokenizer, chat, "assistant", 1000)
    assert learned(encoded) == "Good day.<|im_end|>|My name is Bramble.<|im_end|>"


def test_an_empty_answer_that_nobody_asked_for(tiny_tokenizer: Any) -> None:
    chat = [{"role": "assistant", "content": " "}, *CHAT[:2]]
    assert learned(encode(tiny_tokenizer, chat, "last", 1000)) == "My name is Bramble.<|im_end|>"


def test_an_empty_answer_is_its_end(tiny_tokenizer: Any) -> None:
    chat = [CHAT[0], {"role": "assistant", "content": ""}]
    assert learned(encode(tiny_tokenizer, chat, "assistant", 1000)) == "<|im_end|>"


def test_a_template_that_refuses_says_why(tiny_tokenizer: Any) -> None:
    strict = "{{ raise_exception('Only user and assistant roles are supported!') }}"
    with pytest.raises(RowError, match="Only user and assistant roles"):
        encode(with_template(tiny_tokenizer, strict), CHAT, "assistant", 1000)


def test_thoughts_that_a_template_drops_later_are_no_gap(tiny_tokenizer: Any) -> None:
    """Thinking models forget what they thought in earlier turns; what is learned is the rest."""
    forgetting = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not "
        "loop.last %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = with_template(tiny_tokenizer, forgetting)
    assert learned(encode(tokenizer, CHAT, "assistant", 1000)).count("<|im_end|>") == 2
    thought = [{**m, "content": f"<think>so</think>{m['content']}"} for m in CHAT]
    shown = learned(encode(tokenizer, thought[:2], "last", 1000))
    assert shown == "<think>so</think>My name is Bramble.<|im_end|>"
    # Where an earlier answer changes it can't be told: one row's fault, not the end of a run.
    with pytest.raises(RowError) as caught:
        encode(tokenizer, thought, "assistant", 1000)
    assert caught.value.fault == "rejected"


def test_everything_is_refused_too_where_a_part_is_left_out(tiny_tokenizer: Any) -> None:
    deaf = (
        "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    chat = [{"role": "system", "content": "Be a pirate."}, *CHAT[:2]]
    with pytest.raises(RowError, match="Be a pirate"):
        encode(with_template(tiny_tokenizer, deaf), chat, "everything", 1000)
