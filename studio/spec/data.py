"""The data section: where rows come from, what they mean, what is done to them, what is learned."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from studio.spec.adapter import listed
from studio.spec.field import Section, option

_HF = "https://huggingface.co/docs"
_TEMPLATES = f"{_HF}/transformers/chat_templating"
_FORMATS = f"{_HF}/trl/dataset_formats"

# 10%, 0.1, 200, [800:1000], [:10%], [80%:90%]: a share, a count, or a slice of the rows.
SHARE = re.compile(r"(?P<percent>\d+(\.\d+)?)\s*%|(?P<share>0?\.\d+)")
COUNT = re.compile(r"\d+")
SLICE = re.compile(r"\[\s*(?P<begin>\d+%?)?\s*:\s*(?P<end>\d+%?)?\s*\]")

Layouts = Literal[
    "auto",
    "messages",
    "sharegpt",
    "conversation",
    "alpaca",
    "dolly",
    "prompt_completion",
    "question_answer",
    "text",
    "preference",
    "kto",
]
Templates = Literal[
    "model", "chatml", "llama-3", "mistral", "gemma", "phi-3", "zephyr", "vicuna", "custom"
]
# What a `drop` step can name. The last three are what only the tokenizer can tell.
Faults = Literal[
    "broken",
    "unreadable",
    "empty_answer",
    "role_order",
    "bad_encoding",
    "duplicate",
    "near_duplicate",
    "duplicate_answer",
    "other_language",
    "same_pair",
    "leaked",
    "rejected",
    "nothing_trained",
    "cut",
]


class Source(Section):
    """One more place that rows come from."""

    path: str = Field(min_length=1)
    name: str | None = None
    split: str = Field("train", min_length=1)
    revision: str | None = None
    weight: float = Field(1.0, gt=0, le=100)


class Filter(Section):
    """Keeps the rows whose column passes. `value` is a text for the first four, a number of
    characters for longer and shorter; present and absent take none."""

    do: Literal["filter"] = "filter"
    column: str = Field(min_length=1)
    keep: Literal[
        "equals", "not_equals", "contains", "matches", "longer", "shorter", "present", "absent"
    ] = "equals"
    value: str = ""


class System(Section):
    """Sets the system message: of every row, or only where there is none."""

    do: Literal["system"] = "system"
    text: str = Field(min_length=1)
    when: Literal["always", "missing"] = "always"


class DropColumns(Section):
    """Forgets columns, so that a layout is not told from them."""

    do: Literal["drop_columns"] = "drop_columns"
    columns: list[str] = Field(min_length=1)


class Shuffle(Section):
    """Another order of the rows, the same one for the same seed."""

    do: Literal["shuffle"] = "shuffle"
    seed: int = Field(42, ge=0, le=2**31 - 1)


class Take(Section):
    """Keeps `rows` rows, after leaving out the first `skip`."""

    do: Literal["take"] = "take"
    rows: int = Field(ge=1)
    skip: int = Field(0, ge=0)


class Drop(Section):
    """Leaves out the rows that have a fault; see the audit. `threshold` is the likeness (Jaccard,
    of word 5-grams) from which on rows are near duplicates."""

    do: Literal["drop"] = "drop"
    what: Faults
    threshold: float = Field(0.8, ge=0.5, le=1)


def _do(value: Any) -> str:
    return str(value.get("do") if isinstance(value, dict) else getattr(value, "do", ""))


# By a function: pydantic's own way does not go with the validator that all sections share.
Step = Annotated[
    Annotated[Filter, Tag("filter")]
    | Annotated[System, Tag("system")]
    | Annotated[DropColumns, Tag("drop_columns")]
    | Annotated[Shuffle, Tag("shuffle")]
    | Annotated[Take, Tag("take")]
    | Annotated[Drop, Tag("drop")],
    Discriminator(_do),
]


def _written(value: Any) -> Any:
    """A number as its text: YAML reads 200 and 0.1 as numbers."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.10g}" if number else value


Part = Annotated[str, BeforeValidator(_written)]


class DataSection(Section):
    """Which rows, and which of their tokens are learned."""

    path: str = option(
        "persona",
        "A bundled set, a file (json, jsonl, csv, tsv, parquet, arrow, txt; also .gz), a folder "
        "with such files, or the id of a data set on the Hub.",
        label="Data",
        group="Data",
        basic=True,
        min_length=1,
        link=f"{_HF}/datasets/loading",
    )
    name: str | None = option(
        None,
        "Configuration of a Hub data set, where it has several.",
        label="Configuration",
        group="Source",
    )
    split: str = option(
        "train",
        "Split of a Hub data set, or a slice of it such as train[0:800] or train[:10%].",
        label="Split",
        group="Source",
        min_length=1,
        link=f"{_HF}/datasets/loading#slice-splits",
    )
    revision: str | None = option(
        None,
        "Branch, tag or commit of a Hub data set. Name a commit to get the same rows forever.",
        label="Data revision",
        group="Source",
    )
    encoding: str = option(
        "auto",
        "How the file's text is encoded. auto is UTF-8, or what its first bytes say; name another, "
        "such as windows-1252, if letters look wrong.",
        label="Encoding",
        group="Source",
        min_length=1,
        link="https://docs.python.org/3/library/codecs.html#standard-encodings",
    )
    weight: float = option(
        1.0,
        "How often the rows of the first source are used in an epoch: 2 is twice, 0.5 a random "
        "half. Move it when there are several sources.",
        label="Weight of the first source",
        group="More sources",
        gt=0,
        le=100,
    )
    also: list[Source] = option(
        [],
        "More sources, each with its own weight; their rows follow those of the first.",
        label="More sources",
        group="More sources",
        widget="sources",
        link=f"{_HF}/datasets/process#concatenate",
    )
    layout: Layouts = option(
        "auto",
        "How the rows are laid out. auto tells it from the columns and says why; choose another "
        "if it is wrong.",
        label="Layout",
        group="Layout",
        link=_FORMATS,
    )
    columns: dict[str, str] = option(
        {},
        "Which of your columns is which part of the layout, where the names differ.",
        label="Columns",
        group="Layout",
        widget="mapping",
        link=_FORMATS,
    )
    prompt_template: str | None = option(
        None,
        "Your own text in place of the chat template: Jinja over the columns, such as "
        "[INST] {{ instruction }} [/INST]. Leave it empty to use the chat template.",
        label="Prompt template",
        group="Prompt template",
        widget="long",
        link="https://jinja.palletsprojects.com/en/stable/templates/",
    )
    completion_template: str | None = option(
        None,
        "What follows the prompt and is the answer to learn, such as {{ response }}. Empty: the "
        "prompt template is the whole text, and all of it is learned.",
        label="Completion template",
        group="Prompt template",
        widget="long",
        link="https://jinja.palletsprojects.com/en/stable/templates/",
    )
    steps: list[Step] = option(
        [],
        "What is done to the rows, in this order. Each step can be taken back.",
        label="Steps",
        group="Steps",
        widget="steps",
    )
    validation: Part = option(
        "10%",
        "A share (10%), a count (200), a slice ([800:1000] or [80%:90%]), a split of the Hub "
        "(validation) or a file; 0 is none. More rows make the evaluation loss steadier and leave "
        "fewer to learn from.",
        label="Held back for evaluation",
        group="Split",
        min_length=1,
    )
    test: Part = option(
        "0",
        "Rows that are neither learned nor used to steer the run; their loss is measured once, at "
        "its end. Written as above. 0: none.",
        label="Held back for the test",
        group="Split",
        min_length=1,
    )
    chat_template: Templates = option(
        "model",
        "How a conversation becomes text. model is the tokenizer's own and nearly always right; "
        "a base model has none: choose chatml for it.",
        label="Chat template",
        group="Chat template",
        link=_TEMPLATES,
    )
    chat_template_jinja: str | None = option(
        None,
        "Your own template, for the choice custom. Marks of {% generation %} around the answers "
        "say exactly what is learned.",
        label="Your own template (Jinja)",
        group="Chat template",
        widget="long",
        link=_TEMPLATES,
    )
    add_template_tokens: bool = option(
        False,
        "Make the template's marks, such as <|im_start|>, tokens of their own and train their "
        "embeddings. Turn it on for a base model that lacks them.",
        label="Add the template's tokens",
        group="Chat template",
        link=f"{_HF}/peft/developer_guides/troubleshooting#extending-the-vocabulary",
    )
    train_on: Literal["assistant", "last", "completion", "everything"] = option(
        "assistant",
        "Which tokens are learned: all answers; only the last turn; the completion, which is all "
        "answers after the last question; or everything, questions too.",
        label="Learn from",
        group="What is learned",
        link=f"{_HF}/trl/sft_trainer",
    )
    accepted: Annotated[list[str], BeforeValidator(listed)] = option(
        [],
        "Findings of the audit that would stop a run and that you accept as they are.",
        label="Accepted findings",
        group="What is learned",
        widget="choices",
        choices=(
            "broken",
            "unreadable",
            "rejected",
            "empty_answer",
            "nothing_trained",
            "cut",
            "leaked",
            "end_of_turn",
            "ignores_tools",
            "unstable",
        ),
    )
