"""What no single field shows: pairs of settings that can't be honoured together."""

import codecs
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from studio.errors import Problem
from studio.spec.check_adapter import check_adapter
from studio.spec.check_train import check_training
from studio.spec.data import COUNT, SHARE, SLICE, DataSection, Drop, Filter
from studio.spec.fast import check_fast
from studio.spec.train import NEXT_TOKEN

if TYPE_CHECKING:
    from studio.spec.recipe import RunSpec


def check(spec: "RunSpec") -> list[Problem]:
    """Every such problem of the spec, each at the field that is best changed."""
    return [
        *check_adapter(spec),
        *_steps(spec.data),
        *_templates(spec),
        *_parts(spec.data),
        *check_training(spec),
        *check_fast(spec),
    ]


def _steps(data: DataSection) -> Iterator[Problem]:
    for number, step in enumerate(data.steps, 1):
        if isinstance(step, Filter) and (wrong := _filter(step)):
            yield Problem("data.steps", f"step {number} (filter): {wrong[0]}", wrong[1])
        if (
            isinstance(step, Drop)
            and step.threshold != Drop(what=step.what).threshold
            and step.what not in ("near_duplicate", "leaked")
        ):
            yield Problem(
                "data.steps",
                f"step {number} (drop): only near duplicates have a threshold.",
                "Leave it out.",
            )


def _filter(step: Filter) -> tuple[str, str] | None:
    if step.keep in ("longer", "shorter") and not step.value.isdecimal():
        return f"{step.value!r} is no number of characters.", "Write a whole number."
    if step.keep in ("present", "absent") and step.value:
        return f"{step.keep} takes no value.", "Leave it empty."
    if step.keep == "matches":
        try:
            re.compile(step.value)
        except re.error as error:
            return f"{step.value!r} is no regular expression: {error}.", "Mend the pattern."
    return None


def _templates(spec: "RunSpec") -> Iterator[Problem]:
    data = spec.data
    if data.chat_template == "custom" and not data.chat_template_jinja:
        yield Problem(
            "data.chat_template_jinja",
            "is empty, and the chat template is custom.",
            "Write the template, or choose one by name.",
        )
    if data.chat_template != "custom" and data.chat_template_jinja:
        yield Problem(
            "data.chat_template_jinja",
            f"is not used while the chat template is {data.chat_template}.",
            "Choose custom, or empty it.",
        )
    if data.completion_template and not data.prompt_template:
        yield Problem(
            "data.completion_template",
            "has no prompt to follow.",
            "Write a prompt template too, or empty it.",
        )
    if data.prompt_template and data.chat_template != "model":
        yield Problem(
            "data.chat_template",
            "is not used where a prompt template writes the text.",
            "Set it back to model, or empty the prompt template.",
        )
    if data.prompt_template and spec.train.trainer not in NEXT_TOKEN:
        yield Problem(
            "data.prompt_template",
            f"is not used by the trainer {spec.train.trainer}, whose rows go through the chat "
            "template.",
            "Empty it, or use the trainer sft.",
            {"data.prompt_template": None, "data.completion_template": None},
        )
    if data.encoding != "auto":
        try:
            codecs.lookup(data.encoding)
        except LookupError:
            yield Problem(
                "data.encoding",
                f"{data.encoding!r} is no encoding that is known here.",
                "Try auto, utf-16 or windows-1252.",
            )


def _parts(data: DataSection) -> Iterator[Problem]:
    for name in ("validation", "test"):
        text = getattr(data, name).strip()
        found = SHARE.fullmatch(text)
        if found:
            percent = float(found["percent"] or 100 * float(found["share"] or 0))
            if percent > 90:
                yield Problem(
                    f"data.{name}", f"{text} leaves too little to learn.", "Use 90% or less."
                )
        elif not COUNT.fullmatch(text) and text.startswith("[") and not SLICE.fullmatch(text):
            yield Problem(
                f"data.{name}", f"{text} is no slice.", "Write it as [800:1000] or [80%:90%]."
            )
