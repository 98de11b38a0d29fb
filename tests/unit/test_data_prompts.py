"""Prompt templates: what they may do, and how they are stopped from doing more."""

import time
from typing import Any

import pytest
from jinja2.exceptions import SecurityError

from studio.data import FORMATS, RowError
from studio.data.prompts import render, variables
from studio.data.sandbox import Budget, Sandbox, budget
from studio.errors import StudioError

ROW: dict[str, Any] = {
    "instruction": "Add.",
    "input": "1 and 2",
    "context": "",
    "n": None,
    "messages": [{"role": "user", "content": "q"}],
    "five": 5,
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("[INST] {{ instruction }} [/INST]", "[INST] Add. [/INST]"),
        ("{{ instruction }}\n", "Add.\n"),
        ("{% if context %}C: {{ context }}{% endif %}{{ input }}", "1 and 2"),
        ("a\n{% if input %}\nb\n{% endif %}\nc", "a\nb\nc"),
        ("{{ n }}{{ five }}{{ messages }}", '5[{"role": "user", "content": "q"}]'),
        ("{% for m in messages %}{{ m.role }}: {{ m['content'] | upper }}{% endfor %}", "user: Q"),
        ("{{ input.replace('and', '&') ~ '!' }}", "1 & 2!"),
        ("{{ input | replace('and', '&') | trim }}", "1 & 2"),
        ("{{ ['a', n, 'b'] | join('-') }}{{ ', '.join(['c', 'd']) }}", "a--bc, d"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(five) }}{{ 2 * five + 1 }}", "<5>11"),
        ("{% if x is defined %}{{ x }}{% else %}no x{% endif %}", "no x"),
        ("{{ messages | tojson(2) }}", '[\n  {\n    "role": "user",\n    "content": "q"\n  }\n]'),
        ("{{ '%' }}{{ 7 % 4 }}{{ 2 ** 3 }}{{ 'a' * 3 }}", "%38aaa"),
    ],
)
def test_a_template_writes_the_row(source: str, text: str) -> None:
    assert render(source, ROW) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ instruction.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ instruction | attr('__class__') }}",
        "{{ instruction['__class__'] }}",
        "{{ self.__init__ }}",
        "{{ range.__self__ }}",
        "{{ messages.append(1) }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{x}'.format_map({'x': 1}) }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler.__init__ }}",
        "{% include '/etc/passwd' %}",
        "{{ joiner() }}",
        "{{ 'a'.encode() }}",
        "{{ namespace.__init__ }}",
    ],
)
def test_python_is_out_of_reach(source: str) -> None:
    with pytest.raises(StudioError) as caught:
        render(source, ROW)
    assert "class 'str'" not in str(caught.value) and "root:" not in str(caught.value)


GROW = "{% set ns = namespace(x=instruction) %}{% for i in range(99) %}"
MANY = "{{ ([none] * 90000)"
LOOPS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{% for a in range(9999) %}{% for b in range(99999) if false %}x{% endfor %}{% endfor %}",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "{{ range(10 ** 9) | list }}",
    "{{ range(100000)|select('in', range(100000)|list)|list|length }}",
    "{{ range(100000)|select('eq', 1)|map('string')|list|length }}{{ range(100000)|sum }}",
    "{{ range(99999)|map('default', 1)|reject('odd')|sort|unique|list|length }}",
    "{{ range(99999)|map('string')|join|length }}{{ range(99999)|max }}{{ range(99999)|min }}",
    "{% set m = messages * 50000 %}{% for i in range(9) %}"
    "{{ m|selectattr('role')|rejectattr('role')|list|length }}{% endfor %}",
    MANY + "|map('default', range(90000)|list, true)|sort|length }}",
    MANY + "|map('default', 'Ab' * 900000, true)|sort|length }}",
    MANY + "|map('default', 'Ab' * 900000, true)|map('upper')|list|length }}",
    MANY + "|map('default', 'Ab' * 900000, true)|unique|list|length }}",
    "{{ 'a' * 10 ** 9 }}",
    "{{ [1] * 10 ** 9 }}",
    "{{ 10 ** 9 * 'a' }}",
    "{{ 2 ** (10 ** 9) }}",
    "{{ ((9 ** 60) ** 60) ** 60 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ instruction.ljust(1000000000) }}",
    "{{ instruction.center(1000000000) }}",
    "{{ instruction | center(1000000000) }}",
    "{{ (instruction * 1000000).replace('A', instruction * 1000000) }}",
    "{{ (instruction * 1000000) | replace('A', instruction * 1000000) }}",
    "{{ (instruction * 1000000).join((instruction * 1000000).split('A')) }}",
    "{{ (instruction * 1000000).split('A') | join(instruction * 1000000) }}",
    GROW + "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    GROW + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    GROW + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    GROW + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
    GROW + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x ~ '' }}",
    GROW + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | string }}",
    GROW + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ [ns.x] | join }}",
    GROW + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | upper }}",
]


@pytest.mark.parametrize("source", LOOPS)
def test_a_template_that_loops_or_grows_is_stopped(source: str) -> None:
    began = time.monotonic()
    with pytest.raises(StudioError) as caught:
        render(source, ROW)
    assert time.monotonic() - began < 5
    assert caught.value.hint and "\n" not in str(caught.value)


def test_a_loop_of_reasonable_length_is_not_stopped() -> None:
    five = "{{ range(9)|select('odd')|map('string')|sort(reverse=true)|join(',') }}"
    assert render(five, ROW) == "7,5,3,1"
    assert render("{{ [3, 1, 3]|unique|sum }}{{ [3, 1]|min }}{{ 'ab'|list|length }}", ROW) == "412"
    assert render("{{ messages|map(attribute='role')|list }}", ROW) == '["user"]'
    assert render("{{ messages|selectattr('role', 'eq', 'user')|list|length }}", ROW) == "1"
    many = {"messages": [{"role": "user", "content": "word " * 200}] * 2000}
    text = render("{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}", many)
    assert len(text) == 2000 * 1004


def test_the_budget_is_one_of_rounds_and_of_time() -> None:
    rounds, seconds = Budget(rounds=2), Budget(seconds=0.02)
    rounds.tick()
    rounds.tick()
    with pytest.raises(SecurityError):
        rounds.tick()
    seconds.tick()
    time.sleep(0.03)
    with pytest.raises(SecurityError):
        seconds.tick()
    loop = Sandbox().from_string("{% for i in range(9) %}{% endfor %}")
    with budget(Budget(rounds=3)), pytest.raises(SecurityError):
        loop.render()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ missing }}", "'missing' is undefined"),
        ("{{ five / 0 }}", "division by zero"),
        ("{{ five.x }}", "has no attribute 'x'"),
        ("{{ instruction + five }}", "fails on the row"),
    ],
)
def test_what_a_template_asks_in_vain_is_told_of_the_row(source: str, words: str) -> None:
    with pytest.raises(RowError) as caught:
        render(source, ROW)
    assert words in caught.value.message and caught.value.fault == "unreadable"


@pytest.mark.parametrize(
    "source", ["{{ a", "{% if a %}", "{% nonsense %}", "{{ a | nonsense }}", "{{ " + "(" * 9999]
)
def test_a_template_that_is_none_is_told(source: str) -> None:
    for fails in (lambda: render(source, ROW), lambda: variables(source, None)):
        with pytest.raises(StudioError, match="prompt template can't be read") as caught:
            fails()
        assert not isinstance(caught.value, RowError)


def test_the_columns_that_a_template_asks_for_are_known() -> None:
    assert variables("{{ a }}{% for x in b %}{{ x }}{{ range(3) }}{% endfor %}", "{{ c }}") == {
        "a", "b", "c",
    }  # fmt: skip


def test_the_ready_formats_write_rows_of_the_columns_they_name() -> None:
    assert len(FORMATS) >= 5 and len({name for name, *_ in FORMATS}) == len(FORMATS)
    for name, prompt, completion in FORMATS:
        used = variables(prompt, completion)
        assert all(column in name.lower() for column in used - {"input", "context"}), name
        full = dict.fromkeys(used, "VALUE")
        empty = {**full, **{c: None for c in ("input", "context") if c in used}}
        for row in (full, empty):
            written = render(prompt, row) + render(completion, row)
            assert "None" not in written and "{" not in written and "VALUE" in written
    whole = dict(zip([name for name, *_ in FORMATS], FORMATS, strict=True))
    _, prompt, completion = whole["[INST] with instruction, context, response"]
    row = {"instruction": "i", "context": "c", "response": "r"}
    assert render(prompt, row) == "[INST] i\nHere is some context: c\n[/INST]"
    assert render(completion, row) == " r"
