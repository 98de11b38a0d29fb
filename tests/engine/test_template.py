"""Chat templates: which one is used, what is wrong with it, and those that are stopped."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from studio.data import Example, RowError
from studio.engine import template
from studio.engine.encode import Encoder
from studio.engine.prompting import prompter
from studio.engine.render import Renderer
from studio.errors import StudioError
from studio.spec import DataSection
from tests.engine.test_encode import NAMED, PLAIN, TURNS, copy


@pytest.fixture
def tokenizer(tiny_tokenizer: Any) -> PreTrainedTokenizerBase:
    return copy(tiny_tokenizer)


def section(**values: Any) -> DataSection:
    return DataSection(**values)


def test_a_model_without_a_template_says_what_to_do(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = None
    template.apply(tokenizer, section())
    (finding,) = template.examine(tokenizer, section())
    assert (finding.id, finding.severity) == ("no_template", "stop")
    assert finding.remedy == {"field": "data.chat_template", "value": "chatml"}
    encoder = Encoder(tokenizer, "assistant", 64)
    (found,) = encoder.encode([Example("chat", messages=TURNS[:2])])
    assert isinstance(found, RowError) and "no chat template" in found.message and found.hint
    # Plain text needs none, neither to learn it nor to go on with it.
    assert encoder.one(Example("text", prompt="A story.")).learns
    assert prompter(tokenizer, section())([{"role": "user", "content": "Once"}]) == "Once"
    raw = section(prompt_template="Q: {{ question }}\n{{ context }}A:")
    assert "no_template" not in {f.id for f in template.examine(tokenizer, raw)}
    assert prompter(tokenizer, raw)(TURNS[:1]) == "Q: q1\nA:"


def test_loops_may_be_left_early(tokenizer: PreTrainedTokenizerBase) -> None:
    looping = (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% if loop.index > 4 %}{% break %}{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    custom = section(chat_template="custom", chat_template_jinja=looping)
    assert ids(tokenizer, custom) == {"pad_is_eos": "info"}
    assert Encoder(tokenizer, "assistant", 64).one(Example("chat", TURNS[:2])).learns


@pytest.mark.parametrize("deep", ["{{ " + "(" * 9999, "{% if a %}" * 999, "{{ a | nonsense }}"])
def test_a_template_too_deep_to_read_is_no_jinja(
    tokenizer: PreTrainedTokenizerBase, deep: str
) -> None:
    custom = section(chat_template="custom", chat_template_jinja=deep)

    def use() -> None:
        template.apply(tokenizer, custom)
        Encoder(tokenizer, "assistant", 64).one(Example("chat", TURNS[:2]))

    with pytest.raises(StudioError) as caught:
        use()
    assert caught.value.hint


@pytest.mark.parametrize("broken", ["{% for %}", "{{ a", "{% generation %}x"])
def test_a_template_that_is_no_jinja_is_told_with_its_line(
    tokenizer: PreTrainedTokenizerBase, broken: str
) -> None:
    with pytest.raises(StudioError, match="line 1"):
        template.apply(tokenizer, section(chat_template="custom", chat_template_jinja=broken))


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{{ 1 / 0 }}",
        "{{ messages[9].content.x.y }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}"
        "{% endfor %}{{ n.x }}",
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}"
        "{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=['ab']) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}"
        "{% endfor %}{{ n.x | tojson }}",
        "{{ 'ab'.join(['x' * 999] * 999) * 999 }}",
    ],
)
def test_a_template_that_reaches_for_more_is_stopped(
    tokenizer: PreTrainedTokenizerBase, hostile: str
) -> None:
    chosen = section(chat_template="custom", chat_template_jinja=hostile)

    def use() -> None:
        template.apply(tokenizer, chosen)
        Encoder(tokenizer, "assistant", 64).one(Example("chat", messages=TURNS[:2]))

    with pytest.raises(StudioError) as caught:
        use()
    assert caught.value.hint


def ids(tokenizer: PreTrainedTokenizerBase, chosen: DataSection, **more: Any) -> dict[str, str]:
    template.apply(tokenizer, chosen)
    return {f.id: f.severity for f in template.examine(tokenizer, chosen, **more)}


SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ raise_exception('Begin with a system.') }}{% endif %}"
)
ONCE = "{% if messages | length > 2 %}{{ raise_exception('One question only') }}{% endif %}"


@pytest.mark.parametrize("strict", [SYSTEM, ONCE])
def test_a_template_that_refuses_the_probe_is_no_fault(
    tokenizer: PreTrainedTokenizerBase, strict: str
) -> None:
    custom = section(chat_template="custom", chat_template_jinja=strict + PLAIN["strung"])
    found = ids(tokenizer, custom, tools=True, thoughts=True)
    assert found["unchecked"] == "warn" and "stop" not in found.values()
    (told,) = [f for f in template.examine(tokenizer, custom) if f.id == "unchecked"]
    assert "how an answer ends" in told.words and ("system" in told.words or "One" in told.words)
    said = [{"role": "system", "content": "s"}] if strict == SYSTEM else []
    assert Encoder(tokenizer, "assistant", 64).one(Example("chat", [*said, *TURNS[:2]])).learns


def test_two_marks_for_an_answer_are_right_where_all_answers_are_learned(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    marked = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% generation %}<|im_end|>"
        "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    )
    custom = {"chat_template": "custom", "chat_template_jinja": marked}
    assert "unchecked" not in ids(tokenizer, section(**custom))
    assert "end_of_turn" not in ids(tokenizer, section(**custom))
    assert ids(tokenizer, section(train_on="last", **custom))["unchecked"] == "warn"
    none = {**custom, "chat_template_jinja": PLAIN["strung"] + "{% if false %}"
            "{% generation %}{% endgeneration %}{% endif %}"}  # fmt: skip
    assert ids(tokenizer, section(**none))["end_of_turn"] == "stop"
    assert "end_of_turn" not in ids(tokenizer, section(train_on="everything", **none))


def test_what_is_wrong_with_a_template_is_found(tokenizer: PreTrainedTokenizerBase) -> None:
    assert ids(tokenizer, section()) == {"pad_is_eos": "info"}
    assert ids(tokenizer, section(), tools=True)["ignores_tools"] == "stop"
    assert "ignores_tools" not in ids(tokenizer, section(chat_template="chatml"), tools=True)
    assert ids(tokenizer, section(), thoughts=True)["ignores_thoughts"] == "warn"
    thinking = PLAIN["strung"].replace("{{ m.content", "{{ m.reasoning_content }}{{ m.content")
    custom = section(chat_template="custom", chat_template_jinja=thinking)
    assert "ignores_thoughts" not in ids(tokenizer, custom, thoughts=True)
    assert ids(tokenizer, section(chat_template="phi-3"))["new_tokens"] == "warn"
    endless = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    custom = section(chat_template="custom", chat_template_jinja=endless)
    assert ids(tokenizer, custom)["end_of_turn"] == "stop"
    twice = "{{ bos_token }}" + PLAIN["inst"]
    custom = section(chat_template="custom", chat_template_jinja=twice)
    assert ids(tokenizer, custom)["double_bos"] == "warn"
    (double,) = [f for f in template.examine(tokenizer, custom) if f.id == "double_bos"]
    assert double.remedy == {"field": "data.chat_template_jinja", "value": PLAIN["inst"]}
    mended = section(chat_template="custom", chat_template_jinja=PLAIN["inst"])
    assert "double_bos" not in ids(tokenizer, mended)
    shy = PLAIN["strung"].replace("{{ m.content }}", "{{ m.content if loop.last else '…' }}")
    custom = section(chat_template="custom", chat_template_jinja=shy)
    assert ids(tokenizer, custom)["unstable"] == "stop"


def test_missing_marks_become_tokens_and_the_end_is_learned(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    chosen = section(chat_template="phi-3", add_template_tokens=True)
    before = len(tokenizer)
    added = template.apply(tokenizer, chosen)
    assert added == ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    assert len(tokenizer) == before + 4 and tokenizer.eos_token == "<|end|>"
    assert template.examine(tokenizer, chosen) == []
    (tokens,) = Encoder(tokenizer, "last", 99).one(Example("chat", messages=TURNS[:2])).sequences
    assert tokens.encoding.ids[tokens.ranges[-1][1] - 1] == tokenizer.eos_token_id
    tokenizer.save_pretrained(tmp_path)
    assert "generation" in PreTrainedTokenizerFast.from_pretrained(tmp_path).chat_template


def test_every_named_template_is_a_file_and_every_file_is_named() -> None:
    from typing import get_args

    from studio.spec.data import Templates

    files = {p.stem for p in Path(template.__file__).with_name("templates").glob("*.jinja")}
    assert files == set(get_args(Templates)) - {"model", "custom"} == set(NAMED)
    for name, tools in product(NAMED, (False, True)):
        assert template.source(section(chat_template=name)), tools


def test_two_threads_do_not_get_each_others_marks(tokenizer: PreTrainedTokenizerBase) -> None:
    """transformers has one compiled template, and one list of marks, for the whole process."""
    from concurrent.futures import ThreadPoolExecutor

    template.apply(tokenizer, section(chat_template="chatml"))

    def marks(_: int) -> set[tuple[tuple[int, int], ...]]:
        renderer = Renderer(tokenizer)
        return {tuple(renderer.answers(TURNS[:2])[1]) for _ in range(300)}

    with ThreadPoolExecutor(4) as pool:
        assert len(set().union(*pool.map(marks, range(4)))) == 1


def test_marks_that_are_not_one_an_answer_are_told(tokenizer: PreTrainedTokenizerBase) -> None:
    halves = (
        "{% for m in messages %}<|im_start|>{% generation %}{{ m.role }}{% endgeneration %}"
        "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>{% endfor %}"
    )
    tokenizer.chat_template = halves
    example = Example("chat", messages=TURNS[:2])
    (tokens,) = Encoder(tokenizer, "assistant", 99).one(example).sequences
    assert len(tokens.ranges) == 4
    for train_on in ("last", "completion"):
        (found,) = Encoder(tokenizer, train_on, 99).encode([example])
        assert isinstance(found, RowError) and "marks 4 parts" in found.message and found.hint
