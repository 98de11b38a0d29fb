"""What no single field shows: pairs of settings that can't be honoured together."""

import codecs
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from studio.errors import Problem
from studio.spec.data import COUNT, SHARE, SLICE, DataSection, Drop, Filter
from studio.spec.train import TrainSection

if TYPE_CHECKING:
    from studio.spec.recipe import RunSpec

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def check(spec: "RunSpec") -> list[Problem]:
    """Every such problem of the spec, each at the field that is best changed."""
    return [
        *_model(spec),
        *_steps(spec.data),
        *_templates(spec),
        *_parts(spec.data),
        *_train(spec.train),
        *_trainer(spec),
    ]


def _model(spec: "RunSpec") -> Iterator[Problem]:
    if spec.adapter.use_dora and spec.model.quantization in ("int8", "fp4"):
        yield Problem(
            "adapter.use_dora",
            f"DoRA is not trained on {spec.model.quantization} weights.",
            "Use nf4 or no quantization, or turn DoRA off.",
        )
    if spec.model.name_or_path.lower().endswith(_PICKLES):
        yield Problem(
            "model.name_or_path",
            "is a pickle file, which can run any code when it is opened.",
            "Give a folder with safetensors.",
        )


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
    if data.prompt_template and spec.train.trainer != "sft":
        yield Problem(
            "data.prompt_template",
            f"is not used by the trainer {spec.train.trainer}, whose rows go through the chat "
            "template.",
            "Empty it, or use the trainer sft.",
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


def _train(train: TrainSection) -> Iterator[Problem]:
    if train.max_steps == 0:
        yield Problem(
            "train.max_steps",
            "0 steps would train nothing.",
            "Use -1 to let the epochs decide, or a number above 0.",
        )
    if train.warmup_steps > 0 and train.lr_scheduler_type == "constant":
        yield Problem(
            "train.warmup_steps",
            "is ignored by the scheduler constant.",
            "Use 0, or the scheduler constant_with_warmup.",
        )
    if train.warmup_steps >= 1 and train.warmup_steps != int(train.warmup_steps):
        yield Problem(
            "train.warmup_steps",
            "is neither a share below 1 nor whole steps.",
            f"Use {int(train.warmup_steps)}, or a share such as 0.03.",
        )
    if train.warmup_steps >= 1 and 0 < train.max_steps <= train.warmup_steps:
        yield Problem(
            "train.warmup_steps",
            f"is not shorter than the run of {train.max_steps} steps.",
            "Lower it, or use a share such as 0.03.",
        )


def _trainer(spec: "RunSpec") -> Iterator[Problem]:
    train = spec.train
    if train.trainer == "sft":
        return
    if train.packing:
        yield Problem(
            "train.packing",
            f"the trainer {train.trainer} compares whole rows, which can't be packed.",
            "Turn it off.",
        )
    if spec.data.train_on != "assistant":
        yield Problem(
            "data.train_on",
            f"the trainer {train.trainer} always judges the answer.",
            "Set it back to assistant.",
        )
    if train.trainer == "dpo":
        if spec.dpo.loss_type == "robust" and not spec.dpo.label_smoothing:
            yield Problem("dpo.label_smoothing", "is 0, and the loss robust needs it.", "Try 0.1.")
    elif spec.kto.loss_type == "kto" and train.per_device_train_batch_size < 2:
        yield Problem(
            "train.per_device_train_batch_size",
            "is 1, and the loss kto compares the rows of a batch.",
            "Use 2 or more, or the loss apo_zero_unpaired.",
        )
