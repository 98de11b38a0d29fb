"""All settings as a page of the documentation, made from the spec."""

from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from studio.spec.field import Meta, When, show
from studio.spec.recipe import SECTIONS, fields

_HEAD = """# Settings

Every setting, as it stands in a recipe, on the form and after `--set`. This page is made from the
spec by `python -m studio settings --write docs/settings.md`; a test sees that it is current.
"""


def reference() -> str:
    """The page, in Markdown."""
    parts = [_HEAD]
    section = ""
    for name, field, info, meta in fields():
        if name != section:
            section = name
            cls = SECTIONS[name]
            about = " ".join((cls.__doc__ or "").split())
            used = _conditions(cls.used_when)
            parts.append(f"\n## {name}\n\n{about}{f' Used with {used}.' if used else ''}\n")
            parts.append("| setting | default | what it does |\n| --- | --- | --- |")
        parts.append(_row(f"{name}.{field}", info, meta))
    return "\n".join(parts) + "\n"


def _row(key: str, info: FieldInfo, meta: Meta) -> str:
    default = show(info.default)
    words = [str(info.description), _values(info, meta)]
    if meta.when:
        words.append(f"Used with {_conditions(meta.when)}.")
    if meta.link:
        words.append(f"[more]({meta.link})")
    text = " ".join(word for word in words if word).replace("|", "\\|").replace("\n", " ")
    return f"| `{key}` | {f'`{default}`' if default else 'empty'} | {text} |"


def _conditions(when: tuple[When, ...]) -> str:
    """E.g. "`train.trainer` sft or cpt"."""
    said = [f"`{key}` {' or '.join(show(value) for value in values)}" for key, values in when]
    return " and ".join(said)


def _values(info: FieldInfo, meta: Meta) -> str:
    """What the field takes, where its kind does not say."""
    choices = [c for c in get_args(info.annotation) if isinstance(c, str)]
    choices = choices or [
        c for a in get_args(info.annotation) for c in get_args(a) if isinstance(c, str)
    ]
    if choices:
        return f"One of {', '.join(f'`{choice}`' for choice in choices)}."
    low, high = _bound(info, Ge, Gt), _bound(info, Le, Lt)
    if low and high:
        return f"From {low} to {high}."
    return f"From {low}." if low else ""


def _bound(info: FieldInfo, at: type, beyond: type) -> str:
    for item in info.metadata:
        if isinstance(item, at):
            return show(_number(item))
        if isinstance(item, beyond):
            return f"{'above' if beyond is Gt else 'below'} {show(_number(item))}"
    return ""


def _number(item: Any) -> Any:
    return next(getattr(item, name) for name in ("ge", "gt", "le", "lt") if hasattr(item, name))
