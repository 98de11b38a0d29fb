"""What the methods are told that learn a text in front of each row. Every name is a field of
peft's own configuration."""

from typing import Any, ClassVar, Literal

from studio.spec.field import Section, When, option

_PEFT = "https://huggingface.co/docs/peft/package_reference"


def _used(method: str) -> tuple[When, ...]:
    return (("adapter.method", (method,)),)


def _tokens(group: str, link: str) -> Any:
    return option(
        20,
        "Learned positions in front of every row. More can learn more, and take room from the "
        "model's context.",
        label=f"Virtual tokens ({group})",
        group=group,
        ge=1,
        le=4096,
        link=link,
    )


def _start(group: str, link: str) -> Any:
    return option(
        "TEXT",
        "Where the learned text begins: at words of your own, which learn faster, or at random.",
        label=f"First value ({group})",
        group=group,
        link=link,
    )


def _words(group: str, section: str, link: str) -> Any:
    return option(
        "Answer the question as well as you can.",
        "The words at which the learned text begins. Say what the task is.",
        label=f"First words ({group})",
        group=group,
        min_length=1,
        link=link,
        when=((f"{section}.prompt_tuning_init", ("TEXT",)),),
    )


class PromptTuningSection(Section):
    """A learned text in front of each row, as embeddings."""

    used_when: ClassVar = _used("prompt_tuning")
    num_virtual_tokens: int = _tokens("Prompt tuning", f"{_PEFT}/prompt_tuning")
    prompt_tuning_init: Literal["TEXT", "SAMPLE_VOCAB", "RANDOM"] = _start(
        "Prompt tuning", f"{_PEFT}/prompt_tuning"
    )
    prompt_tuning_init_text: str = _words(
        "Prompt tuning", "prompt_tuning", f"{_PEFT}/prompt_tuning"
    )


class PrefixTuningSection(Section):
    """Learned keys and values in front of each row, in every layer."""

    used_when: ClassVar = _used("prefix_tuning")
    num_virtual_tokens: int = _tokens("Prefix tuning", f"{_PEFT}/prefix_tuning")
    prefix_projection: bool = option(
        False,
        "Learn the prefix through a small network: steadier, with many more parameters.",
        label="Prefix projection",
        group="Prefix tuning",
        link=f"{_PEFT}/prefix_tuning",
    )
    encoder_hidden_size: int = option(
        128,
        "Width of that network. Raise it if the prefix can't learn the task.",
        label="Width of the prefix network",
        group="Prefix tuning",
        ge=1,
        le=65_536,
        link=f"{_PEFT}/prefix_tuning",
        when=(("prefix_tuning.prefix_projection", (True,)),),
    )


class PTuningSection(Section):
    """A learned text that a small network writes."""

    used_when: ClassVar = _used("p_tuning")
    num_virtual_tokens: int = _tokens("P-tuning", f"{_PEFT}/p_tuning")
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = option(
        "MLP",
        "The network that writes the text. MLP is faster; LSTM ties neighbouring positions.",
        label="P-tuning network",
        group="P-tuning",
        link=f"{_PEFT}/p_tuning",
    )
    encoder_hidden_size: int = option(
        128,
        "Width of the network. Raise it if the prompt can't learn the task.",
        label="P-tuning width",
        group="P-tuning",
        ge=1,
        le=65_536,
        link=f"{_PEFT}/p_tuning",
    )
    encoder_num_layers: int = option(
        2,
        "Layers of an LSTM. More can learn more and take longer.",
        label="LSTM layers",
        group="P-tuning",
        ge=1,
        le=16,
        link=f"{_PEFT}/p_tuning",
        when=(("p_tuning.encoder_reparameterization_type", ("LSTM",)),),
    )
    encoder_dropout: float = option(
        0.0,
        "Share dropped between the layers of an LSTM. Raise it a little against learning by heart.",
        label="LSTM dropout",
        group="P-tuning",
        ge=0.0,
        le=0.9,
        link=f"{_PEFT}/p_tuning",
        when=(("p_tuning.encoder_reparameterization_type", ("LSTM",)),),
    )


class MultitaskPromptTuningSection(Section):
    """A learned text of a part that all tasks share and a low-rank part for each task."""

    used_when: ClassVar = _used("multitask_prompt_tuning")
    num_virtual_tokens: int = _tokens("Multitask prompt tuning", f"{_PEFT}/multitask_prompt_tuning")
    prompt_tuning_init: Literal["TEXT", "RANDOM"] = _start(
        "Multitask prompt tuning", f"{_PEFT}/multitask_prompt_tuning"
    )
    prompt_tuning_init_text: str = _words(
        "Multitask prompt tuning", "multitask_prompt_tuning", f"{_PEFT}/multitask_prompt_tuning"
    )
    num_ranks: int = option(
        1,
        "Rank of what a task has of its own. Raise it if the tasks differ much.",
        label="Rank of a task",
        group="Multitask prompt tuning",
        ge=1,
        le=256,
        link=f"{_PEFT}/multitask_prompt_tuning",
    )
