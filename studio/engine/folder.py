"""What a model's folder must hold before anything tries to load it."""

import json
from pathlib import Path
from typing import Any

from studio.errors import StudioError

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def check_folder(folder: Path, name: str, *, weights: bool = True) -> None:
    """Raises StudioError where `folder` can't be loaded here, and says why; `name` is what the
    person called it. Without `weights` only what it takes to tokenize is asked for."""
    if not folder.exists():
        raise StudioError(
            f"There is no folder {name}.", "Check the spelling; paths start at the workspace."
        )
    if not folder.is_dir():
        raise StudioError(
            f"{name} is a file.", "Give the folder that holds config.json and the safetensors."
        )
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise StudioError(
                f"{name} holds an adapter, not a whole model.",
                "Export its run as merged weights and use those, or give its base model.",
            )
        raise StudioError(
            f"{name} has no config.json.",
            "Give the folder that holds config.json and the safetensors.",
        )
    if weights:
        _check_weights(folder, name)
    if not any((folder / file).is_file() for file in _TOKENIZERS):
        raise StudioError(
            f"{name} has no tokenizer.",
            "Copy tokenizer.json and tokenizer_config.json beside its config.json.",
        )
    _check_config(folder, name)


def _check_weights(folder: Path, name: str) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
        raise StudioError(
            f"{name} has its weights only as pickle files, which can run any code when opened.",
            "Use a version of the model with safetensors.",
        )
    raise StudioError(
        f"{name} has no weights in safetensors.", "Copy or download all of the model's files."
    )


def _check_config(folder: Path, name: str) -> None:
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudioError(
            f"The config.json of {name} can't be read: {error}.", "Copy or download it again."
        ) from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise StudioError(
            f"The config.json of {name} names no model_type.", "Copy or download it again."
        )
    # A model that brings code of its own is fine where transformers knows its kind by itself.
    if config.get("auto_map") and not _known(config["model_type"]):
        raise StudioError(
            f"{name} needs Python code that comes with the model, and such code is never run here.",
            "Choose a model whose architecture is part of transformers.",
        )


def _known(model_type: str) -> bool:
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING
