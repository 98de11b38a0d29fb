"""Chat templates run as transformers runs them, letter for letter, and can't take the memory."""

import resource
from typing import Any

import pytest
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from studio.data.sandbox import Budget, budget
from studio.engine import template
from studio.engine.chat_sandbox import ChatSandbox
from studio.engine.render import Renderer
from studio.spec import DataSection
from tests.engine.test_encode import NAMED, PLAIN

USED = [
    "{{ a ~ none ~ true ~ 3 ~ [1, 'x'] ~ missing }}",
    "{% set n = namespace(x=[]) %}{% for m in ms %}{% set n.x = n.x + [m.role] %}{% endfor %}"
    "{{ n.x | join(', ') }}{{ ms | map(attribute='role') | join }}"
    "{{ ms | join('-', attribute='role') }}",
    "{{ 'a-%s-%05.1f' % (a, 2.5) }}{{ '{:>9}|{}'.format(a, none) }}{{ '%s!' | format(a) }}",
    "{{ a | replace('e', '--') }}{{ a.replace('l', 'LL', 1) }}{{ '/'.join(['x', 'y']) }}",
    "{{ {'k': [1, 2, {'z': none}]} | tojson }}{{ ms | tojson(indent=2) }}{{ (1, 2) }}",
    "{{ 'x\ny' | indent(4) }}{{ 'x\ny' | indent(width=2, first=true) }}{{ a | center(20) }}|",
    "{% macro say(m, sign='#') %}{{ sign * 3 ~ m.role | upper }}{% endmacro %}{{ say(ms[0]) }}"
    "{% for k, v in ms[0].items() %}{{ k }}={{ v }};{% endfor %}{{ ms[::-1][0].content[:3] }}",
    "{% for m in ms if m.role != 'user' %}{% if loop.first %}{{ loop.index0 }}{% endif %}"
    "{% break %}{% endfor %}{{ range(3) | list }}{{ dict(a=1) }}{{ 7 // 2 ** 2 % 3 }}",
]
BOMBS = [
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x=['a']) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
    "{{ n.x | tojson }}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}"
    "{% set n.x = n.x | replace('a', n.x) %}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x.replace('a', n.x) %}"
    "{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x.join([n.x, n.x]) %}"
    "{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = [n.x, n.x] | join(n.x) %}"
    "{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = '%s%s' % (n.x, n.x) %}"
    "{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = '{0}{0}'.format(n.x) %}"
    "{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = '%s%s'|format(n.x, n.x) %}"
    "{% endfor %}",
    "{{ 'x' * 10 ** 9 }}", "{{ 10 ** (10 ** 9) }}", "{{ [1] * 10 ** 9 }}",
    "{{ 'x'.ljust(10 ** 9) }}",
    "{{ 'x' | center(10 ** 9) }}", "{{ '%999999999d' % 1 }}", "{{ '%*d' % (10 ** 9, 1) }}",
    "{{ '{:999999999}'.format(1) }}", "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "{{ '%999999999d' | format(1) }}", "{{ 'x\ny' | indent(10 ** 9) }}",
    "{% set x = 'ab' * 4000000 %}{% for i in range(9999) %}{{ x ~ i }}{% endfor %}",
]  # fmt: skip


def rendered(environment: type[ImmutableSandboxedEnvironment], source: str) -> str:
    """What such an environment writes, set up as transformers does it."""
    told: dict[str, Any] = {
        "a": "hello",
        "ms": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}],
    }
    chat_template_utils._compile_jinja_template.cache_clear()
    before = chat_template_utils.ImmutableSandboxedEnvironment
    chat_template_utils.ImmutableSandboxedEnvironment = environment
    try:
        return str(chat_template_utils._compile_jinja_template(source).render(told))
    finally:
        chat_template_utils.ImmutableSandboxedEnvironment = before
        chat_template_utils._compile_jinja_template.cache_clear()


@pytest.mark.parametrize("source", USED)
def test_what_is_written_is_what_transformers_writes(source: str) -> None:
    assert rendered(ChatSandbox, source) == rendered(ImmutableSandboxedEnvironment, source) != ""


@pytest.mark.parametrize("name", [*NAMED, *PLAIN])
def test_known_templates_are_written_as_transformers_writes_them(name: str) -> None:
    source = PLAIN.get(name) or template.source(DataSection(chat_template=name))  # type: ignore[arg-type]
    assert source
    turns = "{% set messages = ms %}{% set eos_token = '</s>' %}{% set bos_token = '<s>' %}"
    both = [rendered(e, turns + source) for e in (ChatSandbox, ImmutableSandboxedEnvironment)]
    assert both[0] == both[1] != ""


@pytest.mark.parametrize("source", BOMBS)
def test_a_text_that_would_take_the_memory_is_stopped(source: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SecurityError, match=r"too (long|large|many)"), budget(Budget()):
        rendered(ChatSandbox, source)
    # In KiB. The largest texts that are let through take as much.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 800 * 1024


def test_the_renderer_uses_it(tiny_tokenizer: Any) -> None:
    source = tiny_tokenizer.chat_template
    assert Renderer(tiny_tokenizer).text([{"role": "user", "content": "Hi"}])
    compiled = chat_template_utils._compile_jinja_template(source)
    assert isinstance(compiled.environment, ChatSandbox)
