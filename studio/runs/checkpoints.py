"""Checkpoints that are whole or absent: each holds a manifest of its files, which is written last
and looked at before anything of it is used."""

import hashlib
import json
import re
import shutil
from pathlib import Path

from studio.errors import StudioError
from studio.runs.files import sync

_NAME = re.compile(r"checkpoint-(\d+)")
_MANIFEST = "manifest.json"
_BLOCK = 2**20


def seal(folder: Path) -> None:
    """Writes the manifest of a folder that is complete, and has the disk hold all of it."""
    listed = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        listed[str(path.relative_to(folder))] = {
            "size": path.stat().st_size,
            "sha256": _digest(path),
        }
        sync(path)
    manifest = folder / _MANIFEST
    manifest.write_text(json.dumps({"files": listed}, indent=1), encoding="utf-8")
    for path in (manifest, folder):
        sync(path)


def publish(folder: Path, target: Path) -> None:
    """Seals the folder and gives it its name: from then on the checkpoint is there, before not."""
    if target.exists() and not fault(target):
        # Saved by an earlier attempt, which came to the very same numbers.
        shutil.rmtree(folder)
        return
    seal(folder)
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    sync(target.parent)


def fault(folder: Path) -> str:
    """What is wrong with the checkpoint, in words; nothing if it is whole."""
    try:
        listed = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, said in listed.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != said["size"] or _digest(path) != said["sha256"]:
                return f"{name} is damaged"
    except FileNotFoundError:
        return "it has no manifest, so it was never finished"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest can't be read"
    return "" if listed else "it is empty"


def steps(root: Path) -> list[int]:
    """The steps of the checkpoints below `root`, ascending, looked at or not."""
    found = (_NAME.fullmatch(p.name) for p in root.iterdir()) if root.is_dir() else ()
    return sorted(int(match[1]) for match in found if match)


def at(root: Path, step: int) -> Path:
    """The checkpoint of that step. Raises StudioError where there is none, or a damaged one."""
    folder = root / f"checkpoint-{step}"
    if not folder.is_dir():
        known = ", ".join(map(str, steps(root))) or "none"
        raise StudioError(f"There is no checkpoint of step {step}.", f"There are: {known}.")
    wrong = fault(folder)
    if wrong:
        raise StudioError(
            f"The checkpoint of step {step} can't be used: {wrong}.", "Choose an earlier one."
        )
    return folder


def newest(root: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, or None, and what is wrong with those that are newer."""
    wrong: list[str] = []
    for step in reversed(steps(root)):
        folder = root / f"checkpoint-{step}"
        found = fault(folder)
        if not found:
            return folder, wrong
        wrong.append(f"The checkpoint of step {step} can't be used: {found}.")
    return None, wrong


def step_of(folder: Path) -> int:
    """The step in the checkpoint's name."""
    match = _NAME.fullmatch(folder.name)
    assert match, folder
    return int(match[1])


def sweep(root: Path) -> None:
    """Removes what saves that were cut off have left; nobody saves here now."""
    for path in root.glob(".*") if root.is_dir() else ():
        shutil.rmtree(path, ignore_errors=True)


def rotate(root: Path, keep: int, best: Path | None = None) -> int:
    """Removes all but the newest `keep` checkpoints and the `best`; returns the bytes freed."""
    freed = 0
    folders = [root / f"checkpoint-{step}" for step in steps(root)]
    spare = [f for f in folders[:-1] if f != best] if keep else folders
    # The newest is what a resume needs, the best what early stopping goes back to.
    limit = max(keep, 1 + (best in folders[:-1])) if keep else 0
    for folder in spare[: max(0, len(folders) - limit)]:
        freed += sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        # In one step: a checkpoint that is half deleted would look like a damaged one.
        old = root / f".old-{folder.name}"
        folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    return freed


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
