"""Jinja that can do no harm: no way to Python's inside, no loop without an end, no endless text.

Every round of a loop, every call of a macro and every element that a filter goes through is
counted, and the clock is looked at. Whatever makes a text larger is measured before it does, or
right after.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from jinja2 import StrictUndefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.visitor import NodeTransformer

# Characters of one text, output included.
_LONGEST = 16 * 2**20
_ROUNDS = 200_000
_SECONDS = 2.0
# Characters of all texts that one rendering makes on its way: each of them is copied.
_ALL = 512 * 2**20
LARGEST_COUNT = 100_000


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILTERS = _words(
    "abs capitalize count d default dictsort first float int items last length list lower map max "
    "min reject rejectattr replace reverse round select selectattr sort string sum title trim "
    "truncate unique upper wordcount"
)
# Of these, those that go through all elements.
_THROUGH = _words("list map max min reject rejectattr select selectattr sort sum unique")
# Without `in`: as a filter's test it goes through a whole list for each element of another.
_TESTS = _words(
    "!= < <= == > >= boolean defined divisibleby eq equalto even false float ge greaterthan gt "
    "integer iterable le lessthan lower lt mapping ne none number odd sameas sequence string true "
    "undefined upper"
)
_METHODS = {
    str: _words(
        "capitalize count endswith find isalnum isalpha isdigit isspace join lower lstrip "
        "partition removeprefix removesuffix replace rpartition rsplit rstrip split splitlines "
        "startswith strip title upper"
    ),
    dict: _words("get items keys values"),
    list: _words("count index"),
}


class Budget:
    """What one rendering may still use."""

    def __init__(self, rounds: int = _ROUNDS, seconds: float = _SECONDS) -> None:
        self._rounds = rounds
        self._end = time.monotonic() + seconds
        self._characters = _ALL

    def tick(self) -> None:
        """One more round. Raises SecurityError where it is one too many."""
        self._rounds -= 1
        if self._rounds < 0 or time.monotonic() > self._end:
            raise SecurityError("it loops for too long")

    def charge(self, size: float) -> None:
        """A text of that size is made. Raises SecurityError where it is one too many."""
        self._characters -= int(size)
        if self._characters < 0:
            raise SecurityError("it makes too many long texts")


_budget: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def budget(given: Budget | None = None) -> Iterator[None]:
    """Renderings in this block share a budget."""
    token = _budget.set(given or Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def check_size(size: float) -> None:
    """Raises SecurityError where a text of that size is too long."""
    if size > _LONGEST:
        raise SecurityError("it makes a text that is too long")


def fitting_size(size: float) -> None:
    """Raises SecurityError where a text of that size is too long, or one too many."""
    check_size(size)
    budget = _budget.get()
    if budget is not None:
        budget.charge(size)


def fitting(value: Any) -> Any:
    """The value, unless there is more in it than anyone needs: a list that holds another one twice,
    which does the same, is short and has no end. Raises SecurityError."""
    if isinstance(value, str):
        fitting_size(len(value))
        return value
    if not isinstance(value, list | tuple | dict):
        return value
    size, count, waiting = 0, 0, [value]
    while waiting:
        inner = waiting.pop()
        count += 1
        if isinstance(inner, str):
            size += len(inner)
        elif isinstance(inner, dict):
            waiting += [*inner.keys(), *inner.values()]
        elif isinstance(inner, list | tuple):
            waiting += inner
        if count + len(waiting) > _ROUNDS:
            raise SecurityError("it makes a list that is too long")
    fitting_size(size)
    return value


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment. A column that is missing is an error; nothing (None) is written as no
    text; lists and objects as JSON."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            finalize=_written,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self.filters = {name: FILTERS[name] for name in _FILTERS}
        self.filters |= {name: _counted(FILTERS[name]) for name in _THROUGH}
        self.filters |= {"join": _join, "replace": _replace, "tojson": bounded_json}
        self.filters |= {"tick": _tick, "concat": _concat, "made": _made}
        self.tests = {name: TESTS[name] for name in _TESTS}
        for name in ("lipsum", "cycler", "joiner"):
            del self.globals[name]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        bounded: nodes.Template = _Bound().visit(tree)
        bounded.set_environment(self)
        return bounded

    def wrap_str_format(self, value: Any) -> None:
        """None: texts are not asked to format."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Only methods that can't do more than they seem to."""
        for kind, names in _METHODS.items():
            if isinstance(obj, kind):
                return attr in names
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, function: Any, /, *given: Any, **kwargs: Any) -> Any:
        """Calls, with what goes in and comes out measured."""
        if any(isinstance(x, int) and abs(x) > LARGEST_COUNT for x in (*given, *kwargs.values())):
            raise SecurityError("it calls something with a number that is too large")
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str) and len(given) > 1 and function.__name__ == "replace":
            return _replace(owner, *given[:2])
        if isinstance(owner, str) and given and function.__name__ == "join":
            return _join(given[0], owner)
        return fitting(super().call(context, function, *given, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic that can grow beyond all bounds, within some."""
        if operator == "%" and isinstance(left, str):
            raise SecurityError("it writes with %, which is not known here; use ~")
        if operator in ("*", "**"):
            fitting_size(product_size(operator, left, right))
        return fitting(super().call_binop(context, operator, left, right))


def product_size(operator: str, left: Any, right: Any) -> float:
    """How long the product or power gets, about: in elements, or in bits."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        return 64.0 * (bits * abs(right) if operator == "**" else bits + right.bit_length())
    for many, times in ((left, right), (right, left)):
        if isinstance(many, str | list | tuple) and isinstance(times, int):
            return len(many) * times
    return 0.0


class Measured(NodeTransformer):
    """Puts a measure on what is joined or put together: filters of these names."""

    def __init__(self, concat: str = "concat", made: str = "made") -> None:
        self._concat, self._made = concat, made

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - named after the node
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), self._concat, node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        return self._measured(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        return self._measured(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        # As the target of a loop it is none.
        return self._measured(node) if node.ctx == "load" else node

    def _measured(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, self._made, node.lineno)


class _Bound(Measured):
    """Puts a count into each loop and macro, too."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - named after the node
        return self._counted(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._counted(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._counted(node)

    def _counted(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        tick = _filter(nodes.Const(None), "tick", node.lineno)
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        counted: nodes.Node = node
        return counted


def _filter(of: nodes.Expr, name: str, line: int) -> nodes.Filter:
    return nodes.Filter(of, name, [], [], None, None, lineno=line)


def _counted(through: Callable[..., Any]) -> Callable[..., Any]:
    """Jinja's filter, with a round for each of the elements that it goes through."""
    at = 1 if hasattr(through, "jinja_pass_arg") else 0

    @wraps(through)
    def counted(*given: Any, **named: Any) -> Any:
        return through(*given[:at], _rounds(given[at]), *given[at + 1 :], **named)

    return counted


def _rounds(elements: Iterable[Any]) -> Iterator[Any]:
    """The elements, each of them a round and measured: a few may be written, or compared, often."""
    budget = _budget.get()
    for element in elements:
        if budget is not None:
            budget.tick()
        yield fitting(element)


# Those that ask for the context are not computed while the template is compiled.
@pass_context
def _tick(context: Context, value: Any) -> None:
    budget = _budget.get()
    if budget is not None:
        budget.tick()


@pass_context
def _made(context: Context, value: Any) -> Any:
    return fitting(value)


@pass_context
def _concat(context: Context, parts: list[Any]) -> str:
    texts = [str(_written(part)) for part in parts]
    fitting_size(sum(map(len, texts)))
    return "".join(texts)


def _join(value: Any, sign: str = "") -> str:
    texts = [str(_written(part)) for part in _rounds(value)]
    fitting_size(sum(map(len, texts)) + len(sign) * len(texts))
    return sign.join(texts)


def _replace(text: Any, old: str, new: str) -> str:
    given = str(_written(text))
    fitting_size(len(given) + (given.count(old) + 1) * len(new))
    return given.replace(old, new)


def bounded_json(value: Any, indent: int | None = None) -> str:
    """The value as JSON, whose length is measured while it is written: a list of a list of itself
    is short until then."""
    parts, size = [], 0
    encoder = json.JSONEncoder(ensure_ascii=False, default=str, indent=min(indent or 0, 8) or None)
    for part in encoder.iterencode(value):
        size += len(part)
        check_size(size)
        parts.append(part)
    return "".join(parts)


def _written(value: Any) -> Any:
    """What stands in the text for a value."""
    if value is None:
        return ""
    return bounded_json(value) if isinstance(value, dict | list | tuple) else value
