"""Loading tokenizers. Apart from the models, so that a preview need not import what they need."""

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from studio.engine import template
from studio.engine.explain import first_line
from studio.errors import StudioError
from studio.spec import DataSection


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer that can do what is needed, and what had to be arranged for that."""

    tokenizer: PreTrainedTokenizerBase
    note: str = ""
    added: tuple[str, ...] = ()

    @property
    def new_ids(self) -> list[int]:
        """The ids of the tokens that were added."""
        return [self.tokenizer.convert_tokens_to_ids(token) for token in self.added]


def load_tokenizer(folder: Path, data: DataSection) -> Tokenizer:
    """The folder's tokenizer: fast, with the section's chat template and a padding token.

    Raises StudioError.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    # Every tokenizer class fails in its own way over a broken file.
    except Exception as error:
        raise StudioError(
            f"The tokenizer can't be read: {first_line(error)}",
            "Copy or download the model's tokenizer files again.",
        ) from error
    if not tokenizer.is_fast:
        raise StudioError(
            "This model's tokenizer has only a slow form, which can't tell where a token stands.",
            "Use a version of the model with a tokenizer.json.",
        )
    added = tuple(template.apply(tokenizer, data))
    if tokenizer.pad_token_id is not None:
        return Tokenizer(tokenizer, added=added)
    if tokenizer.eos_token is None:
        raise StudioError(
            "This model's tokenizer has neither a padding nor an end token.",
            "Name them in its tokenizer_config.json.",
        )
    tokenizer.pad_token = tokenizer.eos_token
    note = f"The tokenizer has no padding token; {tokenizer.eos_token} is used for it."
    return Tokenizer(tokenizer, note, added)
