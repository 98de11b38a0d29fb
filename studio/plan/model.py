"""What a model is, read from its files: config.json, the safetensors' headers, its template."""

import hashlib
import json
import re
from math import prod
from pathlib import Path
from typing import Any, TypedDict

from studio.errors import StudioError
from studio.plan import gguf_file
from studio.plan.catalogue import CATALOGUE, Entry
from studio.plan.known import known_config
from studio.plan.shapes import shapes, text_config
from studio.plan.summary import Shape, Summary, number
from studio.settings import Settings

# The format's own limit on a header, in bytes.
_HEADER_LIMIT = 100_000_000
_HUB_PART = r"\w(?:[\w.-]{0,94}\w)?"
_HUB_ID = re.compile(f"(?:{_HUB_PART}/)?{_HUB_PART}", re.ASCII)


def is_hub_id(name: str) -> bool:
    """Whether the Hub could have a model of that name: `owner/name`, or `gpt2` from its early days.
    The Hub's own rule."""
    odd = "--" in name or ".." in name or name.endswith(".git")
    return _HUB_ID.fullmatch(name) is not None and not odd


def folder_of(name_or_path: str, settings: Settings) -> Path | None:
    """The folder of the home or the workspace that holds this model's files, or None where there
    is none yet."""
    if name_or_path in CATALOGUE:
        path = settings.models / name_or_path
    else:
        path = settings.resolve(name_or_path)
        if is_gguf(path):
            path = unpacked_folder(path, settings)
    return path if (path / "config.json").is_file() else None


def is_gguf(path: Path) -> bool:
    """Whether it is a file in llama.cpp's format, by its name."""
    return path.suffix.lower() == ".gguf" and path.is_file()


def unpacked_folder(gguf: Path, settings: Settings) -> Path:
    """Where the weights of a GGUF file go when they are unpacked: another place for another file,
    or one that has changed."""
    state = gguf.stat()
    known = f"{gguf.resolve()}:{state.st_size}:{state.st_mtime_ns}"
    return settings.models / f"{gguf.stem}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"


def _cached(repo: str, revision: str | None) -> Path | None:
    """The folder in the Hub's cache that holds all of this model's weights, if there is one."""
    # Imported here: a model on this disk needs no Hub.
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json", revision=revision)
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        names = set(index["weight_map"].values())
    except FileNotFoundError:
        names = {p.name for p in folder.glob("*.safetensors")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    # A preview fetches the tokenizer only, and a fetch may have been stopped between two files.
    return folder if names and all((folder / str(n)).is_file() for n in names) else None


def summarize(name_or_path: str, settings: Settings, revision: str | None = None) -> Summary:
    """The model's summary. Raises StudioError where a folder's files can't be understood, or
    where nothing is known of the model before it is fetched."""
    folder = folder_of(name_or_path, settings)
    if folder is not None:
        return _from_folder(name_or_path, folder)
    entry = CATALOGUE.get(name_or_path)
    if entry is not None:
        return _from_entry(entry)
    path = settings.resolve(name_or_path)
    if is_gguf(path):
        return _from_gguf(name_or_path, path)
    if path.is_dir():
        raise StudioError(
            f"The folder {name_or_path} has no config.json.",
            "Choose the folder that holds config.json and the safetensors.",
        )
    if not is_hub_id(name_or_path):
        raise StudioError(
            f"There is no model {name_or_path}.",
            "Choose one of the list, a folder, or a Hub id such as owner/name.",
        )
    cached = _cached(name_or_path, revision)
    if cached is not None:
        return _from_folder(name_or_path, cached)
    known = known_config(name_or_path)
    if known is not None:
        return outline(name_or_path, known)
    return Summary(
        name_or_path,
        False,
        0,
        0,
        0,
        0,
        0,
        "fetched from the Hub at the start",
        "",
        "see its page on the Hub",
    )


def planned(name_or_path: str, settings: Settings, revision: str | None = None) -> Summary:
    """Like `summarize`, for a plan: a folder with nothing but a config.json is enough."""
    folder = folder_of(name_or_path, settings)
    if folder is None or any(folder.glob("*.safetensors")):
        return summarize(name_or_path, settings, revision)
    try:
        config = _object((folder / "config.json").read_text(encoding="utf-8"), "config.json")
    except (OSError, ValueError) as error:
        raise StudioError(f"The config of {name_or_path} can't be read: {error}.") from None
    found = outline(name_or_path, config)
    if not found.parameters:
        raise StudioError(
            f"The weights of {name_or_path} can't be told from its config.json alone.",
            "Fetch its safetensors: their headers tell.",
        )
    return found


def outline(name: str, config: dict[str, Any]) -> Summary:
    """What its config.json tells of a model that is not fetched yet."""
    found = shapes(config)
    return Summary(
        name=name,
        ready=False,
        parameters=sum(prod(s.dims) for s in found),
        **_sizes(config),
        architecture=_architecture(config),
        template="told once its files are here",
        licence="see its page on the Hub",
        shapes=found,
        config=config,
    )


class _Sizes(TypedDict):
    layers: int
    hidden_size: int
    vocab_size: int
    context: int


def _sizes(config: dict[str, Any]) -> _Sizes:
    """The summary's sizes, of the part of the model that is about text."""
    held = text_config(config)
    return {
        "layers": number(held, "num_hidden_layers"),
        "hidden_size": number(held, "hidden_size"),
        "vocab_size": number(held, "vocab_size"),
        "context": number(held, "max_position_embeddings"),
    }


def _from_entry(entry: Entry) -> Summary:
    config = {
        "model_type": "llama",
        "hidden_size": entry.hidden_size,
        "intermediate_size": entry.intermediate_size,
        "num_hidden_layers": entry.layers,
        "num_attention_heads": entry.heads,
        "num_key_value_heads": entry.kv_heads,
        "vocab_size": entry.vocab_size,
        "tie_word_embeddings": True,
    }
    return Summary(
        entry.name,
        False,
        entry.parameters,
        entry.layers,
        entry.hidden_size,
        entry.vocab_size,
        entry.context,
        "Llama",
        "its own chat template",
        entry.licence,
        shapes=shapes(config),
        config=config,
    )


def _from_gguf(name: str, path: Path) -> Summary:
    """A GGUF file that is not unpacked yet. Its weights have names of their own, which is why there
    are no shapes here."""
    config, tensors = gguf_file.read(path)
    return Summary(
        name=name,
        ready=True,
        parameters=sum(prod(dims) for _name, dims in tensors),
        **_sizes(config),
        architecture=f"{_architecture(config)}, from a GGUF",
        template="told once it is unpacked",
        licence="see the model's own page",
        config=config,
    )


def _from_folder(name: str, folder: Path) -> Summary:
    try:
        config = _object((folder / "config.json").read_text(encoding="utf-8"), "config.json")
        shapes = tuple(_shapes(folder))
        template = _template(folder)
    except (OSError, ValueError) as error:
        raise StudioError(
            f"The files of {name} can't be read: {error}.", "Copy or download the folder again."
        ) from None
    if not shapes:
        raise StudioError(
            f"The folder {name} has no weights in safetensors.",
            "Pickled weights (.bin, .pt) are not opened: they can run any code. Get the "
            "safetensors.",
        )
    entry = CATALOGUE.get(name)
    return Summary(
        name=name,
        ready=True,
        parameters=sum(prod(s.dims) for s in shapes),
        **_sizes(config),
        architecture=_architecture(config),
        template=template,
        licence=entry.licence if entry else "see the model's own page",
        shapes=shapes,
        config=config,
    )


def _object(text: str | bytes, name: str) -> dict[str, Any]:
    """The JSON object in the text. Raises ValueError that names the file."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON, {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} holds no JSON object")
    return value


def _architecture(config: dict[str, Any]) -> str:
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else "unknown"
    return str(first).removesuffix("ForCausalLM")


def _shapes(folder: Path) -> list[Shape]:
    """Every weight's name and dimensions, from the headers alone: 8 bytes of length, then JSON
    (the safetensors format). No weight is read."""
    found = []
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > _HEADER_LIMIT:
                raise ValueError(f"{file.name} is no safetensors file")
            header = _object(stream.read(size), f"the header of {file.name}")
        found += [Shape(n, _dims(v, file.name)) for n, v in header.items() if n != "__metadata__"]
    return found


def _dims(entry: Any, name: str) -> tuple[int, ...]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not all(isinstance(size, int) for size in shape):
        raise ValueError(f"the header of {name} gives a weight no shape")
    return tuple(shape)


def _template(folder: Path) -> str:
    text = ""
    if (folder / "chat_template.jinja").is_file():
        text = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    elif (folder / "tokenizer_config.json").is_file():
        stored = _object(
            (folder / "tokenizer_config.json").read_text(encoding="utf-8"), "tokenizer_config.json"
        )
        text = str(stored.get("chat_template") or "")
    if not text:
        return "none: this model was not made for chat"
    marks = {
        "<|im_start|>": "ChatML",
        "<|start_header_id|>": "Llama 3",
        "[INST]": "Mistral",
        "<start_of_turn>": "Gemma",
        "<|user|>": "Phi / Zephyr",
    }
    return next((name for mark, name in marks.items() if mark in text), "its own chat template")
