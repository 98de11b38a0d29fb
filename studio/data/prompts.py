"""Prompt templates: a user's own text over the columns, and ready ones to start from."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2.exceptions import SecurityError

from studio.data.example import RowError
from studio.data.sandbox import Sandbox, budget, check_size
from studio.errors import StudioError

# Name, prompt template, completion template. How an answer ends is the tokenizer's matter.
FORMATS: list[tuple[str, str, str]] = [
    (
        "[INST] with instruction, context, response",
        "[INST] {{ instruction }}\n"
        "{% if context %}\nHere is some context: {{ context }}\n{% endif %}"
        "[/INST]",
        " {{ response }}",
    ),
    (
        "[INST] with instruction, input, output",
        "[INST] {{ instruction }}{% if input %}\n\n{{ input }}{% endif %} [/INST]",
        " {{ output }}",
    ),
    (
        "### INSTRUCTION with instruction, input, output",
        "### INSTRUCTION:\n{{ instruction }}\n\n"
        "{% if input %}\n### Input:\n{{ input }}\n\n{% endif %}"
        "### RESPONSE:\n",
        "{{ output }}",
    ),
    (
        "### INSTRUCTION with instruction, context, response",
        "### INSTRUCTION:\n{{ instruction }}\n\n"
        "{% if context %}\n### Input:\n{{ context }}\n\n{% endif %}"
        "### RESPONSE:\n",
        "{{ response }}",
    ),
    (
        "### INSTRUCTION for code, with instruction and output",
        "### INSTRUCTION:\n"
        "You are an AI coding assistant specialized in generating Python code from user "
        "instructions.\n"
        "Your task is to return only the code that directly fulfills the given instruction.\n\n"
        "### Input:\n{{ instruction }}\n\n### RESPONSE:\n",
        "{{ output }}",
    ),
    (
        "Question and answer, with context, question, answer",
        "{% if context %}\n{{ context }}\n\n{% endif %}Question: {{ question }}\nAnswer:",
        " {{ answer }}",
    ),
    ("Plain text, all of it learned", "{{ text }}", ""),
]


@lru_cache(maxsize=64)
def _compiled(source: str) -> Template:
    return Sandbox().from_string(source)


def _template(source: str) -> Template:
    """The template. Raises StudioError where it is not Jinja."""
    try:
        return _compiled(source)
    except TemplateSyntaxError as error:
        raise StudioError(
            f"The prompt template can't be read, line {error.lineno}: {error.message}.",
            "Columns stand in double braces, as in {{ instruction }}.",
        ) from None
    # An unknown filter, or brackets in brackets without end.
    except (TemplateError, RecursionError) as error:
        raise StudioError(
            f"The prompt template can't be read: {str(error).splitlines()[0].rstrip('.')}.",
            "Columns stand in double braces, as in {{ instruction }}.",
        ) from None


def variables(prompt: str, completion: str | None) -> set[str]:
    """The columns that the templates ask for. Raises StudioError where they are no Jinja."""
    used = set()
    for source in (prompt, completion or ""):
        _template(source)
        used |= meta.find_undeclared_variables(Sandbox().parse(source))
    return used


def render(source: str, row: Mapping[str, Any]) -> str:
    """The template's text for a row. Raises RowError where the row lacks what it asks for, and
    where it loops for too long, writes too much or reaches for what is none of its business."""
    parts, size = [], 0
    template = _template(source)
    try:
        with budget():
            for part in template.generate(row):
                size += len(part)
                check_size(size)
                parts.append(part)
    except SecurityError as error:
        raise RowError(
            f"The prompt template was stopped: {str(error).rstrip('.')}.", "Make it simpler."
        ) from None
    except UndefinedError as error:
        raise RowError(
            f"The prompt template asks for what the row lacks: {str(error).rstrip('.')}.",
            "Write {% if x is defined %} around it, or drop such rows.",
        ) from None
    # A template is a program: dividing by zero, or a number where text is due, is its own affair.
    except Exception as error:  # noqa: BLE001
        reason = (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
        raise RowError(
            f"The prompt template fails on the row: {reason}.", "Mend the template, or the row."
        ) from None
    return "".join(parts)
