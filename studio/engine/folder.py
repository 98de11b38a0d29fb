"""What a model's folder must hold before anything tries to load it."""

import json
from pathlib import Path
from typing import Any

from studio.errors import StudioError

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def check_folder(
    folder: Path, name: str, *, weights: bool = True, pickles: bool = False, code: bool = False
) -> None:
    """Raises StudioError where `folder` can't be loaded here, and says why; `name` is what the
    person called it. Without `weights` only what it takes to tokenize is asked for; `pickles` and
    `code` say whether weights in pickle files and code of the model's own are allowed."""
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
        _check_weights(folder, name, pickles)
    if not any((folder / file).is_file() for file in _TOKENIZERS):
        raise StudioError(
            f"{name} has no tokenizer.",
            "Copy tokenizer.json and tokenizer_config.json beside its config.json.",
        )
    _check_config(folder, name, code)


def _check_weights(folder: Path, name: str, pickles: bool) -> None:
    if any(folder.glob("*.safetensors")):
        return
    found = any(next(folder.glob(pattern), None) for pattern in _PICKLES)
    if found and pickles:
        return
    if found:
        raise StudioError(
            f"{name} has its weights only as pickle files, which can run any code when opened.",
            "Use a version of the model with safetensors, or turn model.use_safetensors off if you "
            "trust who made it.",
        )
    raise StudioError(
        f"{name} has no weights in safetensors.", "Copy or download all of the model's files."
    )


def _check_config(folder: Path, name: str, code: bool) -> None:
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
    # A model that brings code of its own is fine where transformers knows its kind by itself: that
    # code does not run without consent. With it transformers prefers the model's own.
    if not config.get("auto_map") or (_known(config["model_type"]) and not code):
        return
    elsewhere = [str(entry) for entry in _flat(config["auto_map"]) if "--" in str(entry)]
    if elsewhere:
        raise StudioError(
            f"{name} would run code of another repository: {elsewhere[0]}.",
            "That code can't be shown beforehand. Choose a model that brings its own, or turn "
            "model.trust_remote_code off where transformers knows its kind.",
        )
    if not code:
        raise StudioError(
            f"{name} needs Python code that comes with the model, and such code is never run here "
            "without your consent.",
            "Read its files on the Model page and consent to them, or choose a model whose "
            "architecture is part of transformers.",
        )


def _flat(mapped: Any) -> list[Any]:
    """The values of an auto_map, some of which are lists."""
    values = mapped.values() if isinstance(mapped, dict) else []
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def _known(model_type: str) -> bool:
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING
