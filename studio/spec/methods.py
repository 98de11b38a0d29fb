"""What each method other than LoRA is told. Every name is a field of peft's own configuration."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from studio.spec.adapter import listed
from studio.spec.field import Section, When, option

_PEFT = "https://huggingface.co/docs/peft/package_reference"


def _used(method: str) -> tuple[When, ...]:
    return (("adapter.method", (method,)),)


def _rank(default: int, words: str, label: str, group: str, link: str) -> Any:
    return option(default, words, label=label, group=group, ge=1, le=4096, link=link)


class AdaloraSection(Section):
    """LoRA that spends its ranks where they matter."""

    used_when: ClassVar = _used("adalora")
    init_r: int = _rank(
        12,
        "Rank at the start, before layers that matter less give theirs up. Half more than the "
        "target rank is usual.",
        "AdaLoRA first rank",
        "AdaLoRA",
        f"{_PEFT}/adalora",
    )
    target_r: int = _rank(
        8,
        "Average rank at the end. Raise it if the model can't learn the task.",
        "AdaLoRA target rank",
        "AdaLoRA",
        f"{_PEFT}/adalora",
    )
    lora_alpha: int = _rank(
        32,
        "How strongly the adapter speaks. Raise it if little is learned.",
        "AdaLoRA alpha",
        "AdaLoRA",
        f"{_PEFT}/adalora",
    )
    lora_dropout: float = option(
        0.0,
        "Share of the adapter's inputs dropped while training. Raise it towards 0.1 if evaluation "
        "loss rises early.",
        label="AdaLoRA dropout",
        group="AdaLoRA",
        ge=0.0,
        le=0.9,
        link=f"{_PEFT}/adalora",
    )
    tinit: int = option(
        0,
        "Steps before any rank is given up. Raise it if the loss jumps early.",
        label="Steps before pruning",
        group="AdaLoRA",
        ge=0,
        le=10_000_000,
        link=f"{_PEFT}/adalora",
    )
    tfinal: int = option(
        0,
        "Steps at the end in which the ranks stay as they are. A tenth of the run lets it settle.",
        label="Steps after pruning",
        group="AdaLoRA",
        ge=0,
        le=10_000_000,
        link=f"{_PEFT}/adalora",
    )
    deltaT: int = _rank(  # noqa: N815 - peft's own name
        1,
        "Steps between two looks at the ranks. Raise it for longer runs.",
        "Steps between prunings",
        "AdaLoRA",
        f"{_PEFT}/adalora",
    )
    orth_reg_weight: float = option(
        0.5,
        "How strongly the directions are kept apart. Lower it if this part outweighs the loss.",
        label="Orthogonality weight",
        group="AdaLoRA",
        ge=0.0,
        le=100,
        link=f"{_PEFT}/adalora",
    )


class Ia3Section(Section):
    """One factor for each output, or input, of a layer."""

    used_when: ClassVar = _used("ia3")
    feedforward_modules: Annotated[list[str], BeforeValidator(listed)] = option(
        ["down_proj"],
        "Those of the target modules whose inputs are scaled instead of their outputs: the last "
        "layer of the feed-forward part.",
        label="Feed-forward modules",
        group="IA3",
        widget="names",
        link=f"{_PEFT}/ia3",
    )


class LohaSection(Section):
    """Products of low-rank matrices, taken element by element."""

    used_when: ClassVar = _used("loha")
    r: int = _rank(
        8,
        "Rank of each half; their product reaches its square. Raise it if the model can't learn.",
        "LoHa rank",
        "LoHa",
        f"{_PEFT}/loha",
    )
    alpha: int = _rank(
        16,
        "How strongly the adapter speaks: scaled by alpha / r. Raise it if little is learned.",
        "LoHa alpha",
        "LoHa",
        f"{_PEFT}/loha",
    )
    rank_dropout: float = option(
        0.0,
        "Share of the rows of the change dropped while training. Raise it a little against "
        "learning by heart.",
        label="LoHa rank dropout",
        group="LoHa",
        ge=0.0,
        le=0.9,
        link=f"{_PEFT}/loha",
    )
    module_dropout: float = option(
        0.0,
        "Share of the layers whose adapter is skipped in a step. Raise it a little against "
        "learning by heart.",
        label="LoHa module dropout",
        group="LoHa",
        ge=0.0,
        le=0.9,
        link=f"{_PEFT}/loha",
    )


class LokrSection(Section):
    """Kronecker products of small matrices."""

    used_when: ClassVar = _used("lokr")
    r: int = _rank(
        8,
        "Rank of the larger factor. Raise it if the model can't learn the task.",
        "LoKr rank",
        "LoKr",
        f"{_PEFT}/lokr",
    )
    alpha: int = _rank(
        16,
        "How strongly the adapter speaks: scaled by alpha / r. Raise it if little is learned.",
        "LoKr alpha",
        "LoKr",
        f"{_PEFT}/lokr",
    )
    rank_dropout: float = option(
        0.0,
        "Share of the rows of the change dropped while training. Raise it a little against "
        "learning by heart.",
        label="LoKr rank dropout",
        group="LoKr",
        ge=0.0,
        le=0.9,
        link=f"{_PEFT}/lokr",
    )
    module_dropout: float = option(
        0.0,
        "Share of the layers whose adapter is skipped in a step. Raise it a little against "
        "learning by heart.",
        label="LoKr module dropout",
        group="LoKr",
        ge=0.0,
        le=0.9,
        link=f"{_PEFT}/lokr",
    )
    decompose_both: bool = option(
        False,
        "Keep the smaller factor at low rank too: fewer parameters, and less that can be learned.",
        label="Decompose both",
        group="LoKr",
        link=f"{_PEFT}/lokr",
    )
    decompose_factor: int = option(
        -1,
        "Size of the smaller factor. -1 splits each layer near its square root; a smaller number "
        "gives more parameters.",
        label="Decompose factor",
        group="LoKr",
        ge=-1,
        le=4096,
        link=f"{_PEFT}/lokr",
    )


class OftSection(Section):
    """Rotations of the weights, block by block."""

    used_when: ClassVar = _used("oft")
    oft_block_size: int = option(
        32,
        "Inputs that one rotation mixes; it has to divide each layer's width. Raise it if the "
        "model can't learn the task.",
        label="OFT block size",
        group="OFT",
        ge=2,
        le=8192,
        link=f"{_PEFT}/oft",
    )
    module_dropout: float = option(
        0.0,
        "Share of the rotations skipped in a step. Raise it a little against learning by heart.",
        label="OFT dropout",
        group="OFT",
        ge=0.0,
        le=0.9,
        link=f"{_PEFT}/oft",
    )
    bias: Literal["none", "all", "oft_only"] = option(
        "none",
        "Which bias terms are trained as well. none keeps the base model untouched when the "
        "adapter is off.",
        label="OFT bias",
        group="OFT",
        link=f"{_PEFT}/oft",
    )
    coft: bool = option(
        False,
        "Keep each rotation small, within eps. Turn it on if the answers fall apart.",
        label="Constrained OFT",
        group="OFT",
        link=f"{_PEFT}/oft",
    )
    eps: float = option(
        6e-5,
        "How far a rotation may go where it is constrained. Raise it if nothing is learned.",
        label="OFT eps",
        group="OFT",
        widget="sci",
        gt=0,
        le=1,
        link=f"{_PEFT}/oft",
        when=(("oft.coft", (True,)),),
    )
    block_share: bool = option(
        False,
        "One rotation for all blocks of a layer: far fewer parameters, and less that can be "
        "learned.",
        label="Shared blocks",
        group="OFT",
        link=f"{_PEFT}/oft",
    )
    use_cayley_neumann: bool = option(
        True,
        "Invert by a short series instead of exactly: faster, and exact enough.",
        label="Cayley-Neumann",
        group="OFT",
        link=f"{_PEFT}/oft",
    )
    num_cayley_neumann_terms: int = option(
        5,
        "Terms of that series. More are more exact and slower.",
        label="Terms of the series",
        group="OFT",
        ge=2,
        le=32,
        link=f"{_PEFT}/oft",
        when=(("oft.use_cayley_neumann", (True,)),),
    )


class VeraSection(Section):
    """Random matrices that all layers share, and a vector or two for each layer."""

    used_when: ClassVar = _used("vera")
    r: int = _rank(
        256,
        "Rank of the shared random matrices. Each rank costs one number a layer: raise it freely.",
        "VeRA rank",
        "VeRA",
        f"{_PEFT}/vera",
    )
    projection_prng_key: int = option(
        0,
        "Seed of the random matrices. Another number is another draw.",
        label="VeRA seed",
        group="VeRA",
        ge=0,
        le=2**31,
        link=f"{_PEFT}/vera",
    )
    save_projection: bool = option(
        True,
        "Save the random matrices with the adapter. Off, it is smaller and relies on another "
        "machine drawing the same ones.",
        label="Save the random matrices",
        group="VeRA",
        link=f"{_PEFT}/vera",
    )
    vera_dropout: float = option(
        0.0,
        "Share of the adapter's inputs dropped while training. Raise it towards 0.1 if evaluation "
        "loss rises early.",
        label="VeRA dropout",
        group="VeRA",
        ge=0.0,
        le=0.9,
        link=f"{_PEFT}/vera",
    )
    d_initial: float = option(
        0.1,
        "First value of the scales. Lower it if the loss jumps in the first steps.",
        label="VeRA first scale",
        group="VeRA",
        gt=0,
        le=10,
        link=f"{_PEFT}/vera",
    )
    bias: Literal["none", "all", "vera_only"] = option(
        "none",
        "Which bias terms are trained as well. none keeps the base model untouched when the "
        "adapter is off.",
        label="VeRA bias",
        group="VeRA",
        link=f"{_PEFT}/vera",
    )
