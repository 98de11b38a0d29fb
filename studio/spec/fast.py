"""The fast path's ingredients: each is a switch of its own, and `train.engine` turns it on at all.

A new option is one entry here: the form, the recipe, the command line and the documentation follow
from it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from studio.errors import Problem
from studio.spec.field import Section, When, option
from studio.spec.train import NEXT_TOKEN

if TYPE_CHECKING:
    from studio.spec.recipe import RunSpec

_TORCH = "https://docs.pytorch.org/docs/stable"
_GROUP = "Fast path"
# Of dtype and bnb_4bit_compute_dtype: auto is bfloat16 on the GPUs that the fast path knows.
_SAME_NUMBERS = {
    *((dtype, "auto") for dtype in ("auto", "float32", "bfloat16")),
    ("auto", "bfloat16"),
    ("bfloat16", "bfloat16"),
    ("float32", "float32"),
}
Switch = Literal["auto", "always", "never"]


class FastSection(Section):
    """How the fast path trains, where it does."""

    used_when: ClassVar[tuple[When, ...]] = (
        ("train.engine", ("auto", "fast")),
        ("train.trainer", NEXT_TOKEN),
        ("adapter.method", ("lora",)),
    )

    float8: bool = option(
        False,
        "Hold frozen 16-bit weights as float8, on Ada, Hopper and Blackwell. Turn it on for half "
        "of their memory and a third more speed; it is not exact.",
        label="float8 weights",
        group=_GROUP,
        link="https://arxiv.org/abs/2209.05433",
    )
    compile: Switch = option(
        "auto",
        "Compile the decoder layers. auto: on a GPU. It costs up to a minute at the start and "
        "nearly doubles the speed; choose never for a run of a few steps.",
        label="Compile layers",
        group=_GROUP,
        link=f"{_TORCH}/generated/torch.compile.html",
    )
    graphs: Switch = option(
        "auto",
        "Record a micro-batch's GPU work once and start it as a whole. auto: on a GPU. Choose "
        "never where its memory is too tight for one more set of activations.",
        label="Record steps",
        group=_GROUP,
        link=f"{_TORCH}/notes/cuda.html#cuda-graphs",
    )
    replay: int = option(
        0,
        "Layers, from the first on, that are computed again in backward instead of being kept. "
        "Raise it when memory runs out; activation checkpointing replays all.",
        label="Replayed layers",
        group=_GROUP,
        ge=0,
        le=1000,
        link=f"{_TORCH}/checkpoint.html",
    )
    host: bool = option(
        False,
        "Let replayed layers' inputs wait in the computer's memory. Turn it on for very long rows "
        "on a GPU.",
        label="Inputs on the host",
        group=_GROUP,
        link=f"{_TORCH}/checkpoint.html",
    )
    chunk: int = option(
        2048,
        "Tokens whose logits exist at a time. Lower it to save memory with a large vocabulary; "
        "below 512 it gets slower.",
        label="Tokens per loss chunk",
        group=_GROUP,
        ge=16,
        le=1_048_576,
        link="https://arxiv.org/abs/2411.09009",
    )
    tokens: int | None = option(
        None,
        "Tokens that every micro-batch is filled up to, so that its shape never changes. Empty: "
        "the full batch where rows are packed, else the next of a few lengths.",
        label="Padded tokens",
        group=_GROUP,
        ge=16,
        le=16_777_216,
        link=f"{_TORCH}/torch.compiler_dynamic_shapes.html",
    )


def refusals(spec: "RunSpec") -> list[str]:
    """Why the fast path does not apply to such a run, as far as its settings tell; in sentences
    that follow "The fast path:"."""
    adapter, train = spec.adapter, spec.train
    wrong = {
        f"it trains sft and cpt, not {train.trainer}.": train.trainer not in NEXT_TOKEN,
        f"it knows lora, not {adapter.method}.": adapter.method != "lora",
    }
    if adapter.method == "lora":
        wrong |= {
            "DoRA needs the weights' norms in every step; turn use_dora off.": adapter.use_dora,
            "biases are trained too; set bias to none.": adapter.bias != "none",
            "whole modules are trained too; empty modules_to_save.": bool(adapter.modules_to_save),
        }
    wrong |= {
        "it can't do NEFTune's noise; empty neftune_noise_alpha.": bool(train.neftune_noise_alpha),
        "it can't do float16; use bfloat16.": spec.model.dtype == "float16",
        f"it can't read {spec.model.quantization} weights; use none or nf4.": (
            spec.model.quantization in ("int8", "hqq", "torchao")
        ),
        "it has a fused attention of its own, not eager; set attn_implementation to sdpa.": (
            spec.model.attn_implementation == "eager"
        ),
        "it unpacks 4-bit weights into the run's numbers; set bnb_4bit_compute_dtype to auto.": (
            spec.model.quantization in ("nf4", "fp4")
            and (spec.model.dtype, spec.model.bnb_4bit_compute_dtype) not in _SAME_NUMBERS
        ),
        "float8 starts from 16-bit weights; set quantization to none.": (
            spec.fast.float8 and spec.model.quantization != "none"
        ),
    }
    return [words for words, holds in wrong.items() if holds]


def check_fast(spec: "RunSpec") -> Iterator[Problem]:
    """What the fast path, asked for by name, can't honour. With auto it is a note of the run."""
    if spec.train.engine != "fast":
        return
    for words in refusals(spec):
        yield Problem(
            "train.engine",
            f"fast does not apply: {words}",
            "Or use auto, which takes the plain path then.",
            {"train.engine": "auto"},
        )
        return
