"""What each trainer has of its own.

A new option is one entry here: the form, the recipe, the command line and the documentation follow
from it. Names are those of transformers, trl, peft and bitsandbytes, so that what one knows from
there holds here."""

from typing import ClassVar, Literal

from studio.spec.field import Section, option

_HF = "https://huggingface.co/docs"
_DPO = f"{_HF}/trl/dpo_trainer"
_KTO = f"{_HF}/trl/kto_trainer"
_ORPO = f"{_HF}/trl/orpo_trainer"
_REWARD = f"{_HF}/trl/reward_trainer"


class DpoSection(Section):
    """What only the trainer dpo uses. Every name is a field of trl's DPOConfig."""

    used_when: ClassVar = (("train.trainer", ("dpo",)),)

    beta: float = option(
        0.1,
        "How closely the tuned model keeps to the base. Raise it if the answers fall apart, lower "
        "it if nothing changes.",
        label="DPO beta",
        group="DPO",
        gt=0,
        le=10,
        link=_DPO,
    )
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust", "apo_zero", "apo_down"] = option(
        "sigmoid",
        "The loss over a pair. sigmoid is DPO as published; ipo overfits less on few pairs; robust "
        "expects some labels to be wrong.",
        label="DPO loss",
        group="DPO",
        link=_DPO,
    )
    label_smoothing: float = option(
        0.0,
        "Share of the pairs that the loss robust expects to be the wrong way round; it needs more "
        "than 0. Raise it for noisy labels.",
        label="DPO label smoothing",
        group="DPO",
        ge=0,
        lt=0.5,
        link=_DPO,
        when=(("dpo.loss_type", ("robust",)),),
    )


class KtoSection(Section):
    """What only the trainer kto uses. Every name is a field of trl's KTOConfig."""

    used_when: ClassVar = (("train.trainer", ("kto",)),)

    beta: float = option(
        0.1,
        "How closely the tuned model keeps to the base. Raise it if the answers fall apart, lower "
        "it if nothing changes.",
        label="KTO beta",
        group="KTO",
        gt=0,
        le=10,
        link=_KTO,
    )
    loss_type: Literal["kto", "apo_zero_unpaired"] = option(
        "kto",
        "The loss of a row. kto estimates the drift from the base with mismatched answers; "
        "apo_zero_unpaired does without and is faster.",
        label="KTO loss",
        group="KTO",
        link=_KTO,
    )
    desirable_weight: float = option(
        1.0,
        "Weight of the good rows. Raise it if there are fewer good than bad ones.",
        label="Weight of good rows",
        group="KTO",
        gt=0,
        le=100,
        link=_KTO,
    )
    undesirable_weight: float = option(
        1.0,
        "Weight of the bad rows. Raise it if there are fewer bad than good ones.",
        label="Weight of bad rows",
        group="KTO",
        gt=0,
        le=100,
        link=_KTO,
    )


class CptSection(Section):
    """What only the trainer cpt (continued pre-training) uses."""

    used_when: ClassVar = (("train.trainer", ("cpt",)),)

    add_eos_token: bool = option(
        True,
        "End each text with the end token, so that the model learns where a text ends. Turn it "
        "off if your rows are pieces of longer texts.",
        label="End each text",
        group="Continued pre-training",
        link=f"{_HF}/transformers/main_classes/tokenizer",
    )


class OrpoSection(Section):
    """What only the trainer orpo uses. Every name is a field of trl's ORPOConfig."""

    used_when: ClassVar = (("train.trainer", ("orpo",)),)

    beta: float = option(
        0.1,
        "Weight of the comparison beside the learning of the better answer (lambda in the paper). "
        "Raise it to push the two further apart.",
        label="ORPO beta",
        group="ORPO",
        gt=0,
        le=10,
        link=_ORPO,
    )


class RewardSection(Section):
    """What only the trainer reward uses. Every name is a field of trl's RewardConfig."""

    used_when: ClassVar = (("train.trainer", ("reward",)),)

    center_rewards_coefficient: float | None = option(
        None,
        "Pulls the scores towards 0, so that those of different runs can be compared; 0.01 is "
        "usual. Raise it if the scores drift. Empty: off.",
        label="Centre the scores",
        group="Reward model",
        gt=0,
        le=10,
        link=_REWARD,
    )
