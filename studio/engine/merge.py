"""Merging a run's adapter into its base: a model like any other, with nothing of peft in it."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig

from studio.engine.load import fit_embeddings, load_plain
from studio.engine.report import Report
from studio.engine.source import resolve
from studio.engine.tokenizer import load_tokenizer
from studio.errors import StudioError
from studio.plan.able import quantized_as
from studio.runs import Run, files
from studio.settings import Settings
from studio.spec import not_merged

_GENERATION = "generation_config.json"


def merge(run: Run, out: Path, settings: Settings, report: Report) -> None:
    """Merges into the unquantized base, whatever it was trained on: merging into 4-bit weights
    would round the sum back to 4 bits. Writes `out`, a folder that is whole or absent.

    Raises StudioError for an adapter that is no change of weights.
    """
    spec = run.spec()
    if reason := not_merged(spec.adapter.method):
        raise StudioError(f"This adapter can't be merged: {reason}", "Export the adapter.")
    report.stage("finding the model")
    folder = resolve(spec.model, settings, report)
    stored_as = quantized_as(_config(folder))
    if stored_as is not None:
        raise StudioError(
            f"The base is stored as {stored_as}, and its unquantized weights are not here.",
            "Export the adapter, and use it on top of the base.",
        )
    tokenizer = load_tokenizer(folder, spec.data).tokenizer
    stored = _stored_dtype(folder)
    config: dict[str, Any] = json.loads(
        (run.adapter / "adapter_config.json").read_text(encoding="utf-8")
    )
    # peft adds LoRA's float32 product to each weight and rounds once, so the base may stay as it is
    # stored. The others multiply whole weights, which needs float32 all the way.
    added = config["peft_type"] == "LORA" and not config.get("use_dora")
    dtype, scorer = stored if added else torch.float32, spec.train.trainer == "reward"
    base = load_plain(spec.model, folder, dtype, report, scorer)
    fit_embeddings(base, len(tokenizer))
    report.stage("merging the adapter")
    merged = PeftModel.from_pretrained(base, str(run.adapter)).merge_and_unload().to(stored)
    # The base's own file is copied below: transformers refuses to write what some models ship.
    merged.generation_config = GenerationConfig()
    report.stage("writing the merged model")
    with files.whole_folder(out) as aside:
        merged.save_pretrained(str(aside))
        tokenizer.save_pretrained(str(aside))
        (aside / _GENERATION).unlink(missing_ok=True)
        write_generation(folder, aside, tokenizer.eos_token_id)


def write_generation(folder: Path, aside: Path, end: int) -> None:
    """The base's own settings, to the letter; but where its answers were taught to end with another
    token, whoever loads the model has to stop there too."""
    path = folder / _GENERATION
    held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    config = _config(folder)
    named = held.get("eos_token_id", config.get("eos_token_id"))
    ends = named if isinstance(named, list) else [named]
    if end not in ends:
        held["eos_token_id"] = [*(known for known in ends if known is not None), end]
        text = json.dumps(held, indent=2, sort_keys=True) + "\n"
        (aside / _GENERATION).write_text(text, encoding="utf-8")
    elif path.is_file():
        shutil.copyfile(path, aside / _GENERATION)


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def _stored_dtype(folder: Path) -> torch.dtype:
    """The numbers that the base is stored in; float32 where its config does not say."""
    config = _config(folder)
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"), None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
