"""What the trainer grpo has of its own: how answers are tried, and what they are rewarded for.

Names are those of trl's GRPOConfig, but for the rewards, which are ours."""

from typing import ClassVar, Literal

from studio.spec.field import Section, option

_HF = "https://huggingface.co/docs"
_GRPO = f"{_HF}/trl/grpo_trainer"
_REWARDS = f"{_GRPO}#using-a-custom-reward-function"

_ITERATIONS = 8

# Each reward by the field that holds its weight.
REWARDS = {
    "exact_match": "exact_match_weight",
    "pattern": "pattern_weight",
    "json": "json_weight",
    "length": "length_weight",
    "reward_model": "reward_model_weight",
}


class GrpoSection(Section):
    """What only the trainer grpo uses."""

    used_when: ClassVar = (("train.trainer", ("grpo",)),)

    exact_match_weight: float = option(
        1.0,
        "Weight of the reward for the very answer of the row: 1 where it is the same but for case "
        "and spaces, or stands at the end. Raise it to make it count more; 0 turns it off.",
        label="Weight: the right answer",
        group="Rewards",
        link=_REWARDS,
        ge=0,
        le=100,
    )
    pattern_weight: float = option(
        0.0,
        "Weight of the reward for answers in which the pattern below is found. Raise it to make "
        "it count more; 0 turns it off.",
        label="Weight: a pattern",
        group="Rewards",
        link=_REWARDS,
        ge=0,
        le=100,
    )
    pattern: str = option(
        "",
        "The regular expression for which an answer is rewarded, such as ^<think>.+</think>. "
        "Begin it with ^ and end it with $ to judge the whole answer.",
        label="Pattern",
        group="Rewards",
        link="https://docs.python.org/3/library/re.html#regular-expression-syntax",
    )
    json_weight: float = option(
        0.0,
        "Weight of the reward for answers that are valid JSON from their first to their last "
        "letter. Raise it to make it count more; 0 turns it off.",
        label="Weight: valid JSON",
        group="Rewards",
        link=_REWARDS,
        ge=0,
        le=100,
    )
    length_weight: float = option(
        0.0,
        "Weight of the reward for answers of about the length below: 1 at that length, falling to "
        "0 at none and at twice as many tokens. Raise it to make it count more.",
        label="Weight: length",
        group="Rewards",
        link=_REWARDS,
        ge=0,
        le=100,
    )
    length: int = option(
        100,
        "The length in tokens at which an answer is rewarded most. Lower it for shorter answers.",
        label="Length wanted",
        group="Rewards",
        ge=1,
        le=100_000,
        link=_REWARDS,
    )
    reward_model_weight: float = option(
        0.0,
        "Weight of the score that the reward model below gives an answer. Raise it to make it "
        "count more; 0 turns it off.",
        label="Weight: a reward model",
        group="Rewards",
        link=_REWARDS,
        ge=0,
        le=100,
    )
    reward_model: str = option(
        "",
        "The id of a run of the trainer reward, or a folder with a model that gives one score. "
        "Needed where its weight is above 0.",
        label="Reward model",
        group="Rewards",
        link=f"{_HF}/trl/reward_trainer",
    )
    num_generations: int = option(
        4,
        "Answers tried for each prompt and compared with each other. More give a steadier "
        "direction and take more time.",
        label="Answers to a prompt",
        group="GRPO",
        ge=2,
        le=256,
        link=_GRPO,
    )
    max_completion_length: int = option(
        128,
        "The longest answer that is tried, in tokens. Raise it if most answers are cut off.",
        label="Longest answer",
        group="GRPO",
        ge=1,
        le=32_768,
        link=_GRPO,
    )
    beta: float = option(
        0.0,
        "How closely the model keeps to the base (KL). Raise it towards 0.04 if the answers fall "
        "apart; 0 needs no second pass.",
        label="GRPO beta",
        group="GRPO",
        ge=0,
        le=10,
        link=_GRPO,
    )
    temperature: float = option(
        1.0,
        "How daring the tried answers are. Lower it if they are nonsense, raise it if all of a "
        "group are the same.",
        label="Temperature",
        group="GRPO",
        gt=0,
        le=5,
        link=_GRPO,
    )
    top_p: float = option(
        1.0,
        "Try only the likeliest tokens that together reach this share. Lower it if the answers "
        "are nonsense; 1 turns it off.",
        label="Top p",
        group="GRPO",
        gt=0,
        le=1,
        link=_GRPO,
    )
    top_k: int = option(
        0,
        "Try only among this many likeliest tokens. Lower it if the answers are nonsense; 0 turns "
        "it off.",
        label="Top k",
        group="GRPO",
        ge=0,
        le=1_000_000,
        link=_GRPO,
    )
    repetition_penalty: float = option(
        1.0,
        "Above 1, tokens that were used already become less likely while answers are tried. Raise "
        "it a little against loops.",
        label="Repetition penalty",
        group="GRPO",
        ge=0.5,
        le=3,
        link=_GRPO,
    )
    num_iterations: int = option(
        1,
        "Steps that learn from the same answers before new ones are tried. Raise it to 2 or more "
        "where trying takes most of the time; more of them learn less from each.",
        label="Steps to a try",
        group="GRPO",
        ge=1,
        le=_ITERATIONS,
        link=_GRPO,
    )
    epsilon: float = option(
        0.2,
        "How far the likelihood of a token may move while steps learn from the same answers; in "
        "the first of them none has moved yet. Lower it for smaller, steadier steps.",
        label="Clipping (epsilon)",
        group="GRPO",
        gt=0,
        le=1,
        link=_GRPO,
        when=(("grpo.num_iterations", tuple(range(2, _ITERATIONS + 1))),),
    )
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo"] = option(
        "dapo",
        "How the tokens of a group are averaged. dapo counts every token alike; grpo every "
        "answer, which favours short ones; dr_grpo has no bias by length.",
        label="GRPO loss",
        group="GRPO",
        link=_GRPO,
    )
    scale_rewards: Literal["group", "batch", "none"] = option(
        "group",
        "What rewards are divided by: the spread within the group, that of the batch, or nothing. "
        "none gives easy and hard prompts the weight of their rewards.",
        label="Scale rewards",
        group="GRPO",
        link=_GRPO,
    )
    mask_truncated_completions: bool = option(
        False,
        "Learn nothing from answers that were cut off. Turn it on if many are, and steadiness is "
        "wanted.",
        label="Ignore cut answers",
        group="GRPO",
        link=_GRPO,
    )
