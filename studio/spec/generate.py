"""How answers are written.

A new option is one entry here: the form, the recipe, the command line and the documentation follow
from it. Names are those of transformers, trl, peft and bitsandbytes, so that what one knows from
there holds here."""

from studio.spec.field import Section, option

_HF = "https://huggingface.co/docs"
_GENERATION = f"{_HF}/transformers/main_classes/text_generation"


class GenerateSection(Section):
    """How answers are written in the chat."""

    system_prompt: str = option(
        "",
        "What the model is told before the conversation. Leave it empty for the template's own.",
        label="System prompt",
        group="Generation",
        widget="long",
    )
    max_new_tokens: int = option(
        128,
        "The longest answer, in tokens.",
        label="max_new_tokens",
        group="Generation",
        ge=1,
        le=32_768,
        link=_GENERATION,
    )
    do_sample: bool = option(
        False,
        "Draw each token by chance. Off, the likeliest is taken and the same question gets the "
        "same answer.",
        label="do_sample",
        group="Generation",
        link=_GENERATION,
    )
    temperature: float = option(
        0.7,
        "With do_sample on, how daring the draws are: lower is steadier, higher is more varied.",
        label="temperature",
        group="Generation",
        gt=0,
        le=5,
        link=_GENERATION,
    )
    top_p: float = option(
        0.9,
        "With do_sample on, draw only among the likeliest tokens that together reach this share. "
        "1 turns it off.",
        label="top_p",
        group="Generation",
        gt=0,
        le=1,
        link=_GENERATION,
    )
    top_k: int = option(
        50,
        "With do_sample on, draw only among this many likeliest tokens. 0 turns it off.",
        label="top_k",
        group="Generation",
        ge=0,
        le=1_000_000,
        link=_GENERATION,
    )
    repetition_penalty: float = option(
        1.0,
        "Above 1, tokens that were used already become less likely. Raise it towards 1.2 against "
        "loops.",
        label="repetition_penalty",
        group="Generation",
        ge=0.5,
        le=3,
        link=_GENERATION,
    )
    num_beams: int = option(
        1,
        "Follow several answers at once and keep the likeliest. Above 1 the answer comes whole, "
        "not streamed.",
        label="num_beams",
        group="Generation",
        ge=1,
        le=16,
        link=_GENERATION,
    )
    length_penalty: float = option(
        1.0,
        "With beams: above 0 prefers longer answers, below 0 shorter ones.",
        label="length_penalty",
        group="Generation",
        ge=-10,
        le=10,
        link=_GENERATION,
    )
    early_stopping: bool = option(
        False,
        "With beams: stop as soon as that many answers are whole. Turn it on to be done sooner; "
        "off, it goes on while a better one may come.",
        label="early_stopping",
        group="Generation",
        link=_GENERATION,
    )
    seed: int = option(
        42,
        "The dice of do_sample: the same seed draws the same answer.",
        label="seed",
        group="Generation",
        ge=0,
        le=2**31 - 1,
        link=_GENERATION,
    )
