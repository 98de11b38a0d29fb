"""Data to pick from, and keeping what is uploaded."""

import filecmp
import re
import shutil
from pathlib import Path

from studio.data import BUNDLED, SUFFIXES
from studio.settings import Settings


def choices(settings: Settings) -> list[tuple[str, str]]:
    """Data to pick from: the bundled sets, what was uploaded, what lies in the workspace."""
    found = [(f"{name} (bundled)", name) for name in BUNDLED]
    uploads = settings.uploads.iterdir() if settings.uploads.is_dir() else ()
    found += [(f"{p.name} (uploaded)", str(p)) for p in sorted(uploads) if _is_data(p)]
    local = sorted(p for p in settings.workspace.iterdir() if p.is_file() and _is_data(p))
    return found + [(p.name, p.name) for p in local if not p.name.startswith("package")]


def _is_data(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def take_upload(settings: Settings, path: str) -> str:
    """Keeps an uploaded file in the home, whole or not at all, under its own name or, where another
    file has that, one with a number; returns the path for the form."""
    source = Path(path)
    name = re.sub(r"[^\w.-]+", "-", source.name).lstrip(".-") or "upload"
    settings.uploads.mkdir(parents=True, exist_ok=True)
    target, number = settings.uploads / name, 1
    while target.exists() and not filecmp.cmp(source, target, shallow=False):
        number += 1
        stem, dot, rest = name.partition(".")
        target = settings.uploads / f"{stem}-{number}{dot}{rest}"
    aside = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, aside)
    aside.replace(target)
    return str(target)
