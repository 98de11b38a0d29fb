"""Python files that come with a model: which there are, and whether a person has consented to run
exactly these."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from studio.errors import StudioError


def files_of(folder: Path) -> dict[str, str]:
    """The sha256, in hex, of each Python file below the folder, by its path from there."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.py"))
    }


def consented(files: dict[str, str]) -> list[str]:
    """The consent to run these files, as `model.trusted_files` holds it."""
    return [f"{name}={digest}" for name, digest in files.items()]


def check_consent(folder: Path, name: str, trusted: Sequence[str]) -> None:
    """Raises StudioError where a file would run that nobody has consented to, or that has changed
    since; `name` is what the person called the model."""
    held = dict(entry.rpartition("=")[::2] for entry in trusted)
    found = files_of(folder)
    strange = [file for file, digest in found.items() if held.get(file) != digest]
    if strange:
        changed = [file for file in strange if file in held]
        words = (
            f"{changed[0]} of {name} is not the file that you consented to run."
            if changed
            else f"{name} would run {', '.join(strange)}, which nobody has consented to."
        )
        raise StudioError(
            words, "Look at its files on the Model page, and consent again if you trust them."
        )
