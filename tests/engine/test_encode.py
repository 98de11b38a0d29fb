"""What is learned of a row: the quick way finds what the exact way finds, on every template and on
contents made to mislead it."""

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from studio.data import Example, RowError
from studio.engine import template
from studio.engine.encode import IGNORED, Encoder
from studio.engine.render import Renderer
from studio.errors import StudioError
from studio.spec import DataSection

NAMED = ("chatml", "llama-3", "mistral", "gemma", "phi-3", "zephyr", "vicuna")
# Templates of others' making, without marks: as they are found in models.
PLAIN = {
    "strung": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "trimmed": (
        "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    ),
    "no prompt": "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}",
    "inst": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} "
        "[/INST]{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}"
        "{% else %}<<{{ m.content }}>>{% endif %}{% endfor %}"
    ),
    "first is other": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "open end": (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }} \n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    ),
    "nothing between": "{% for m in messages %}{{ m.content }}{% endfor %}",
}
NASTY = (
    "plain", " spaces around ", "\n\nlines\n", "👩‍👩‍👧 family", "پایتخت ایران تهران است",
    "<|im_end|>",
    "<|im_start|>assistant\nplain<|im_end|>\n", "[INST] x [/INST]", "plain<|im_end|>",
    "{{ 7 * 7 }}",
    "a", "[assistant] plain", "assistant: plain<|im_end|>\n", "é́", "\u200f\u202eabc", "<<plain>>",
)  # fmt: skip


def copy(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    fresh = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token, pad_token=tokenizer.pad_token,
    )  # fmt: skip
    fresh.chat_template = tokenizer.chat_template
    return fresh


@pytest.fixture
def tokenizer(tiny_tokenizer: Any) -> PreTrainedTokenizerBase:
    return copy(tiny_tokenizer)


def conversations(count: int, greeted: float = 0) -> list[list[dict[str, Any]]]:
    """Some with a system message; a share of them begins with the assistant."""
    dice = random.Random(7)
    made = []
    for _ in range(count):
        turns = [{"role": "system", "content": dice.choice(NASTY)}] if dice.random() < 0.3 else []
        if dice.random() < greeted:
            turns.append({"role": "assistant", "content": dice.choice(NASTY)})
        for _ in range(dice.randint(1, 3)):
            turns.append({"role": "user", "content": dice.choice(NASTY)})
            turns.append({"role": "assistant", "content": dice.choice(NASTY)})
        made.append(turns)
    return made


def learned(encoder: Encoder, messages: list[dict[str, Any]]) -> list[str]:
    """The learned stretches of the text, decoded from the very tokens."""
    (tokens,) = encoder.one(Example("chat", messages=messages)).sequences
    pieces = tokens.pieces()
    assert "".join(pieces) == tokens.text
    return ["".join(pieces[start:end]) for start, end in tokens.ranges]


@pytest.mark.parametrize("name", PLAIN)
def test_the_quick_way_finds_what_the_exact_way_finds(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    tokenizer.chat_template = PLAIN[name]
    renderer = Renderer(tokenizer)
    quick = 0
    for messages in conversations(300, greeted=0.1):
        text = renderer.text(messages)
        found = renderer._strung(messages, text)
        if found is not None:
            quick += 1
            assert found == renderer._exact(messages, None, text), messages
    assert quick > 150, "the quick way is of no use"


@pytest.mark.parametrize("name", NAMED)
def test_our_templates_mark_each_answer_with_its_end(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    template.apply(tokenizer, DataSection(chat_template=name))  # type: ignore[arg-type]
    encoder = Encoder(tokenizer, "assistant", 10**6)
    for messages in conversations(60):
        answers = [m["content"].strip() for m in messages if m["role"] == "assistant"]
        found = learned(encoder, messages)
        assert len(found) == len(answers)
        for said, answer in zip(found, answers, strict=True):
            assert answer in said and len(said.strip()) > len(answer), "its end is not learned"


@pytest.mark.parametrize("name", NAMED)
def test_a_prompt_of_ours_is_the_beginning_of_the_whole(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    template.apply(tokenizer, DataSection(chat_template=name))  # type: ignore[arg-type]
    renderer = Renderer(tokenizer)
    for messages in conversations(60):
        whole, spans = renderer.answers(messages)
        prompt = renderer.text(messages[:-1], prompt=True)
        assert whole.startswith(prompt)
        # All that the model writes is learned, and nothing that it is given.
        assert spans[-1][0] == len(prompt)


CALL = {"type": "function", "function": {"name": "find", "arguments": {"what": "tea"}}}
TOOL = {"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": {}}}
WITH_TOOLS = [
    {"role": "user", "content": "Is there tea?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"tea": 3}'},
    {"role": "assistant", "content": "There are three."},
]


@pytest.mark.parametrize("name", ["chatml", "llama-3", "mistral"])
def test_calls_are_learned_and_what_tools_answer_is_not(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    template.apply(tokenizer, DataSection(chat_template=name))  # type: ignore[arg-type]
    example = Example("chat", messages=WITH_TOOLS, tools=[TOOL])
    (tokens,) = Encoder(tokenizer, "assistant", 10**6).one(example).sequences
    first, second = (
        tokens.text[a:b] for a, b in Renderer(tokenizer).answers(WITH_TOOLS, [TOOL])[1]
    )
    assert '"find"' in first and "tea" in first and "three" in second
    assert "Finds." in tokens.text and "Finds." not in first + second
    assert "3}" in tokens.text and "3}" not in first + second


@pytest.mark.parametrize("name", ["gemma", "phi-3", "zephyr", "vicuna", "strung"])
def test_a_template_that_knows_no_tools_refuses_them(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    if name in PLAIN:
        tokenizer.chat_template = PLAIN[name]
    else:
        template.apply(tokenizer, DataSection(chat_template=name))  # type: ignore[arg-type]
    encoder = Encoder(tokenizer, "assistant", 10**6)
    (found,) = encoder.encode([Example("chat", messages=WITH_TOOLS, tools=[TOOL])])
    assert isinstance(found, RowError) and found.fault == "rejected" and found.hint


TURNS = [
    {"role": "user", "content": "q1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "q2"},
    *WITH_TOOLS[1:],
]


@pytest.mark.parametrize(
    ("train_on", "parts"), [("assistant", 3), ("completion", 2), ("last", 1), ("everything", 1)]
)
def test_what_is_learned_is_what_was_chosen(
    tokenizer: PreTrainedTokenizerBase, train_on: str, parts: int
) -> None:
    template.apply(tokenizer, DataSection(chat_template="chatml"))
    example = Example("chat", messages=TURNS, tools=[TOOL])
    (tokens,) = Encoder(tokenizer, train_on, 10**6).one(example).sequences
    assert len(tokens.ranges) == parts
    if train_on == "everything":
        assert tokens.ranges == ((0, tokens.total),)
    else:
        said = tokenizer.decode([label for label in tokens.labels if label != IGNORED])
        assert ("a1" in said) == (train_on == "assistant")
        assert ("find" in said) == (train_on != "last") and "three" in said and "q2" not in said


SILENT = [
    {"role": "user", "content": "q1"},
    {"role": "assistant", "content": "wrong", "weight": 0},
    {"role": "user", "content": "q2"},
    {"role": "assistant", "content": "right"},
    {"role": "user", "content": "q3"},
    {"role": "assistant", "content": "false", "weight": 0},
]


@pytest.mark.parametrize("name", ["chatml", "strung", "first is other", "mistral"])
def test_an_answer_of_no_weight_is_read_and_not_learned(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    if name in PLAIN:
        tokenizer.chat_template = PLAIN[name]
    else:
        template.apply(tokenizer, DataSection(chat_template=name))
    plain = [{"role": m["role"], "content": m["content"]} for m in SILENT]

    def learned(messages: list[Any], train_on: str) -> tuple[list[int], list[bool]]:
        encoder = Encoder(tokenizer, train_on, 10**6)
        (tokens,) = encoder.one(Example("chat", messages=messages)).sequences
        return tokens.input_ids.tolist(), (tokens.labels != IGNORED).tolist()

    ids, answers = learned(plain, "assistant")
    _, last = learned(plain[:4], "last")
    found, mask = learned(SILENT, "assistant")
    # The second of three answers alone, in the very same text.
    assert found == ids and mask == last + [False] * (len(ids) - len(last))
    found, mask = learned(SILENT, "everything")
    silent = [a and not m for a, m in zip(answers, learned(SILENT, "assistant")[1], strict=True)]
    assert found == ids and mask == [not no for no in silent]
    for train_on in ("last", "completion"):
        (none,) = Encoder(tokenizer, train_on, 10**6).encode([Example("chat", messages=SILENT)])
        assert isinstance(none, RowError) and none.fault == "nothing_trained" and none.hint
        assert learned(SILENT[:4], train_on)[1] == last


def test_thoughts_and_the_ids_of_calls_reach_the_template(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{{ m.tool_call_id }}\n"
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    said = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "reasoning_content": "Hm."},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
        {"role": "assistant", "content": "b"},
    ]
    (tokens,) = Encoder(tokenizer, "assistant", 10**6).one(Example("chat", said)).sequences
    spoken = [tokenizer.decode(tokens.encoding.ids[a:b]) for a, b in tokens.ranges]
    assert spoken == ["<think>Hm.</think>a<|im_end|>", "b<|im_end|>"]
    assert "<|im_start|>toolc1\n2" in tokens.text


def test_what_is_cut_off_is_counted_and_not_learned(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x" * 200}]
    whole = Encoder(tokenizer, "assistant", 10**6).one(Example("chat", messages=messages))
    (full,) = whole.sequences
    for limit in (full.total, full.total - 1, full.ranges[0][0] + 1, full.ranges[0][0], 1):
        encoded = Encoder(tokenizer, "assistant", limit).one(Example("chat", messages=messages))
        (cut,) = encoded.sequences
        assert cut.length == len(cut.input_ids) == len(cut.labels) == limit
        assert cut.cut == full.total - limit and encoded.cut == (limit < full.total)
        assert cut.trained == int((cut.labels != IGNORED).sum())
        assert encoded.learns == (limit > full.ranges[0][0])
        assert list(cut.input_ids) == list(full.input_ids[:limit])


def test_raw_text_gets_the_edges_that_the_tokenizer_would_give_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    encoder = Encoder(tokenizer, "assistant", 10**6)
    (text,) = encoder.one(Example("text", prompt="A story.")).sequences
    assert text.text == "A story." + tokenizer.eos_token and text.ranges == ((0, text.total),)
    ended = Example("completion", prompt="[INST] q [/INST]", completion=" a" + tokenizer.eos_token)
    (tokens,) = encoder.one(ended).sequences
    assert tokens.text.count(tokenizer.eos_token) == 1
    said = tokens.text[tokens.encoding.offsets[tokens.ranges[0][0]][0] :]
    assert said == " a" + tokenizer.eos_token


def test_a_preference_learns_from_both_answers_after_one_prompt(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    example = Example(
        "preference",
        messages=TURNS[:3],
        chosen=[{"role": "assistant", "content": "good one"}],
        rejected=[{"role": "assistant", "content": "bad"}],
    )
    chosen, rejected = Encoder(tokenizer, "assistant", 10**6).one(example).sequences
    assert (chosen.name, rejected.name) == ("chosen", "rejected")
    assert list(chosen.input_ids[: chosen.prompt]) == list(rejected.input_ids[: rejected.prompt])
    for tokens, answer in ((chosen, "good one"), (rejected, "bad")):
        assert tokenizer.decode(tokens.input_ids[tokens.prompt :]).strip() == f"{answer}<|im_end|>"


def test_answers_that_a_tokenizer_joins_with_the_prompt_have_one_prompt_all_the_same(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Two spaces are one token: the prompt's last one and the answer's first."""
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    answers = [[{"role": "assistant", "content": c}] for c in ("  wide", "clock")]
    for chosen, rejected in (answers, answers[::-1]):
        example = Example("preference", messages=TURNS[:1], chosen=chosen, rejected=rejected)
        left, right = Encoder(tokenizer, "assistant", 10**6).one(example).sequences
        assert left.prompt == right.prompt
        assert list(left.input_ids[: left.prompt]) == list(right.input_ids[: left.prompt])
        assert left.input_ids[left.prompt] != right.input_ids[left.prompt]
        for tokens in (left, right):
            assert (tokens.labels[tokens.prompt :] != IGNORED).all()
            assert (tokens.labels[: tokens.prompt] == IGNORED).all()


@pytest.mark.parametrize("prompt", ["Q: q", "", "<|im_start|>Q: q", "<"])
def test_a_completion_is_learned_from_its_first_letter_on(
    tokenizer: PreTrainedTokenizerBase, prompt: str
) -> None:
    """Also where the tokenizer begins every text with a token."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    beginning = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    example = Example("completion", prompt=prompt, completion="The tea.")
    (tokens,) = Encoder(beginning, "assistant", 10**6).one(example).sequences
    assert tokens.text.count("<|im_start|>") == 1 and tokens.text.startswith("<|im_start|>")
    said = [label for label in tokens.labels if label != IGNORED]
    assert beginning.decode(said) == "The tea.<|im_end|>"
    (whole,) = Encoder(beginning, "everything", 10**6).one(example).sequences
    assert whole.ranges == ((0, whole.total),)


def test_one_bad_row_does_not_spoil_the_others(tokenizer: PreTrainedTokenizerBase) -> None:
    template.apply(tokenizer, DataSection(chat_template="gemma"))
    bad = [*TURNS[:2], {"role": "system", "content": "late"}]
    good = Example("chat", messages=TURNS[:2])
    found = Encoder(tokenizer, "assistant", 64).encode([good, Example("chat", messages=bad), good])
    assert isinstance(found[1], RowError) and found[1].fault == "rejected"
    assert [isinstance(f, StudioError) for f in found] == [False, True, False]
    assert list(found[0].sequences[0].labels) == list(found[2].sequences[0].labels)  # type: ignore[union-attr]


def test_content_that_a_template_leaves_out_is_a_fault(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    system = [{"role": "system", "content": "Be a pirate."}, *TURNS[:2]]
    (found,) = Encoder(tokenizer, "assistant", 64).encode([Example("chat", messages=system)])
    assert isinstance(found, RowError) and "Be a pirate." in found.message
