"""How a field of the spec is declared: default, bounds, help and place on the form, once."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

# Another setting's key and the values of it with which a field is used:
# ("adapter.method", ("lora", "adalora")).
When = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Meta:
    """What the form needs beyond the type. `widget` is one of: auto, sci (a float written as
    2e-4), slider, radio, long (a text of several lines), choices (pick or type several), mapping
    (a = b, c = d). `when` are conditions that must all hold for the field to be used at all."""

    label: str
    group: str
    basic: bool
    widget: str
    choices: tuple[str, ...]
    link: str
    when: tuple[When, ...] = ()


def option(
    default: Any,
    help: str,
    *,
    label: str,
    group: str,
    basic: bool = False,
    widget: str = "auto",
    choices: tuple[str, ...] = (),
    link: str = "",
    when: tuple[When, ...] = (),
    **bounds: Any,
) -> Any:
    """A pydantic field with its `Meta`. `help` says what it does and in which direction to move
    it; `bounds` are pydantic's own (ge, gt, le, lt, max_length)."""
    meta = Meta(label, group, basic, widget, choices, link, when)
    return Field(default, description=help, json_schema_extra={"meta": meta}, **bounds)  # type: ignore[dict-item]


def meta_of(info: FieldInfo) -> Meta:
    """The `Meta` that `option` attached."""
    extra = info.json_schema_extra
    assert isinstance(extra, dict)
    meta = extra["meta"]
    assert isinstance(meta, Meta)
    return meta


class Section(BaseModel):
    """One section of the spec: frozen, and an unknown key is an error. `used_when` are conditions
    for all of its fields."""

    used_when: ClassVar[tuple[When, ...]] = ()

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """Python counts True as 1, and so would pydantic."""
        if isinstance(value, bool):
            wanted = cls.model_fields[info.field_name or ""].annotation
            if {wanted, *get_args(wanted)} & {int, float}:
                raise PydanticCustomError("truth", "Input should be a number, not true or false")
        return value


def show(value: Any) -> str:
    """A value as people write it: learning rates as 2e-4, lists with commas."""
    if isinstance(value, float) and value and abs(value) < 1e-2:
        # Every digit: what is shown in a box is what the box gives back.
        return f"{Decimal(repr(value)).normalize():e}"
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def whole_text(text: str) -> str:
    """The text without halves of characters, as JSON and YAML can escape them: it could be neither
    stored nor shown. Two that belong together are joined."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
