"""A model's module tree as `print(model)` shows it, and what a method would train of it. Made on
the meta device: shapes without weights, seconds without memory."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from studio.engine.adapters import adapter_config, count
from studio.engine.explain import first_line
from studio.engine.report import Report
from studio.engine.source import find, resolve
from studio.engine.trust import consented, files_of
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import ModelSection, RunSpec, with_values


@dataclass(frozen=True)
class Line:
    """One line of the tree: how deep, the module's name as printed ("(q_proj)", "(0-29)"), what it
    is, and its last name where it is a linear layer that can be a target."""

    depth: int
    name: str
    text: str
    target: str


def show(spec: RunSpec, settings: Settings, report: Report) -> dict[str, Any]:
    """The tree's `lines`, and how many parameters are `trained` of `parameters`. Raises
    StudioError."""
    report.stage("finding the model")
    folder = resolve(spec.model, settings, report, weights=False)
    report.stage("building its shapes")
    model = shapes(folder, spec.model)
    found = [asdict(line) for line in lines(model)]
    total = count(model)[1]
    # Where an adapter begins makes no difference to its size, and needs weights or a tokenizer.
    begins = {
        "adapter.init_lora_weights": "default",
        "prompt_tuning.prompt_tuning_init": "RANDOM",
        "multitask_prompt_tuning.prompt_tuning_init": "RANDOM",
    }
    config = adapter_config(with_values(spec, begins), model, {}, folder=folder)
    if config is None:
        return {"lines": found, "trained": total, "parameters": total}
    with torch.device("meta"):
        trained = count(get_peft_model(model, config))[0]
    return {"lines": found, "trained": trained, "parameters": total}


def shapes(folder: Path, section: ModelSection) -> Any:
    """The model without weights. Raises StudioError for an architecture that is not known."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=section.trust_remote_code)
        # Quantized or not, the layers are the same.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config, trust_remote_code=section.trust_remote_code
            )
    # Each architecture fails in its own way: the words are theirs.
    except Exception as error:
        raise StudioError(
            f"The model can't be built: {first_line(error)}",
            "Check that its architecture is part of transformers.",
        ) from error


def lines(model: nn.Module) -> Iterator[Line]:
    """The tree from the top. Layers that are all alike stand there once, as in `print(model)`."""
    yield Line(0, "", _kind(model), "")
    yield from _below(model, 1, model.get_output_embeddings())


def _below(module: nn.Module, depth: int, head: Any) -> Iterator[Line]:
    for name, child, times in _grouped(module):
        linear = isinstance(child, nn.Linear | Conv1D) and child is not head
        text = f"{times} x {_kind(child)}" if times > 1 else _kind(child)
        yield Line(depth, f"({name})", text, name if linear else "")
        yield from _below(child, depth + 1, head)


def _grouped(module: nn.Module) -> Iterator[tuple[str, nn.Module, int]]:
    """The children by name; those of a list that follow each other and are alike, as one."""
    children = list(module.named_children())
    if not isinstance(module, nn.ModuleList):
        yield from ((name, child, 1) for name, child in children)
        return
    first = 0
    for at in range(1, len(children) + 1):
        if at < len(children) and repr(children[at][1]) == repr(children[first][1]):
            continue
        times, name = at - first, children[first][0]
        yield f"{name}-{children[at - 1][0]}" if times > 1 else name, children[first][1], times
        first = at


def _kind(module: nn.Module) -> str:
    """What a line says of it: a leaf with its sizes, else its class."""
    if next(module.children(), None) is None:
        return repr(module)
    return type(module).__name__


def code(spec: RunSpec, settings: Settings, report: Report) -> dict[str, Any]:
    """The Python files that come with the model, to be read before anybody consents: `files`, each
    with `name`, `sha256` and `text`, and the `consent` that would let them run."""
    report.stage("finding the model")
    folder = find(spec.model, settings, report, weights=False, code=True)
    found = files_of(folder)
    files = [
        {
            "name": name,
            "sha256": digest,
            "text": (folder / name).read_text(encoding="utf-8", errors="replace"),
        }
        for name, digest in found.items()
    ]
    return {"files": files, "consent": consented(found)}
