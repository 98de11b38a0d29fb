"""The Jinja in which chat templates run: transformers' own, but that nothing grows without end.

A template comes from a stranger. transformers keeps it away from Python's inside, and
`studio.engine.deadline` ends its loops; but thirty rounds that double a text take all of a
machine's memory in less than a second. Here whatever makes a text or a list larger is measured
before it does. What a template writes is not changed by a letter.
"""

import re
from collections.abc import Callable
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from studio.data.sandbox import LARGEST_COUNT, Measured, fitting, fitting_size, product_size

# Many texts of so few letters take long before they take room.
_SHORT = 256
# A width in a format, such as %1000000d or {:>1000000}, or one that is only known later.
_WIDE = re.compile(r"\d{6}|%[^a-zA-Z%]*\*")


class ChatSandbox(ImmutableSandboxedEnvironment):
    """The environment."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        for name in ("center", "format", "indent", "join", "replace", "wordwrap"):
            self.filters[name] = _bounded(name, FILTERS[name])
        self.filters |= {"measured_concat": _concat, "measured": _made}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        measured: nodes.Template = Measured("measured_concat", "measured").visit(tree)
        measured.set_environment(self)
        return measured

    def wrap_str_format(self, value: Any) -> Any:
        """The text's `format`, where it asks for no great width."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _refuse_wide(value.__self__)
        return wrapped

    def call(self, context: Context, function: Any, /, *given: Any, **named: Any) -> Any:
        """Calls, with what goes in and comes out measured."""
        _refuse_large(*given, *named.values())
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str) and name in _GROWTH:
            fitting_size(_GROWTH[name](owner, *given))
        return fitting(super().call(context, function, *given, **named))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic that can grow, within bounds."""
        if operator == "+" and type(left) is type(right) is str:
            # Nearly all there is.
            joined = left + right
            if len(joined) > _SHORT:
                fitting_size(len(joined))
            return joined
        if operator == "%" and isinstance(left, str):
            _refuse_wide(left)
        if operator in ("*", "**"):
            fitting_size(product_size(operator, left, right))
        return fitting(super().call_binop(context, operator, left, right))


def _replaced(text: str, old: Any = "", new: Any = "", *_: Any) -> float:
    return len(text) + (text.count(str(old)) + 1) * len(str(new))


def _joined(sign: str, parts: Any = (), *_: Any) -> float:
    sizes = [len(part) for part in parts if isinstance(part, str)] if _is_list(parts) else []
    return sum(sizes) + len(sign) * len(sizes)


# How long the text gets that these make of another one.
_GROWTH: dict[str, Callable[..., float]] = {"replace": _replaced, "join": _joined}


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _refuse_large(*given: Any) -> None:
    if any(isinstance(value, int) and abs(value) > LARGEST_COUNT for value in given):
        raise SecurityError("it calls something with a number that is too large")


def _refuse_wide(text: str) -> None:
    if _WIDE.search(text):
        raise SecurityError("it writes something with a width that is too large")


def _bounded(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja's, with what goes in measured."""

    # All of these that ask for something ask for the evaluation's context, and pass it on.
    def bounded(*given: Any, **named: Any) -> Any:
        first = 1 if hasattr(original, "jinja_pass_arg") else 0
        value, *rest = given[first:]
        _refuse_large(*rest, *named.values())
        if name == "format":
            _refuse_wide(str(value))
        elif name == "replace":
            fitting_size(_replaced(str(value), *rest))
        elif name == "join":
            value = list(value)
            fitting_size(_joined(str(rest[0]) if rest else "", value))
        return fitting(original(*given[:first], value, *rest, **named))

    if hasattr(original, "jinja_pass_arg"):
        bounded.jinja_pass_arg = original.jinja_pass_arg  # type: ignore[attr-defined]
    return bounded


# Those that ask for the context are not computed while the template is compiled.
@pass_context
def _made(context: Context, value: Any) -> Any:
    return fitting(value)


@pass_context
def _concat(context: Context, parts: list[Any]) -> str:
    texts = [str(part) for part in parts]
    fitting_size(sum(map(len, texts)))
    return "".join(texts)


def install() -> None:
    """Has transformers use it: it compiles all templates in one place, and offers no other way."""
    chat_template_utils.ImmutableSandboxedEnvironment = ChatSandbox
