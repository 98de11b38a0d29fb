"""What this machine has and what is missing, each with what to do about it."""

import importlib.metadata
import os
import re
import shutil
import sys
from dataclasses import dataclass

from studio.plan.catalogue import EMBEDDED
from studio.plan.machine import gb, machine
from studio.plan.model import folder_of
from studio.settings import PROJECT, Settings

_DISK = 2_000_000_000


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found, and what to do where it is not `ok`."""

    name: str
    ok: bool
    found: str
    hint: str = ""


def examine(settings: Settings) -> list[Check]:
    """All checks, in the order in which they matter."""
    here = machine()
    return [
        _python(),
        *_packages(),
        Check("machine", True, here.words),
        _home(settings),
        _model(settings),
    ]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check(
        "python", sys.version_info >= (3, 11), version, "Atelier needs Python 3.11 or newer."
    )


def _packages() -> list[Check]:
    """Each pinned package against what is installed."""
    checks = []
    for line in (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        pinned = re.match(r"([\w.-]+)==([\w.+]+)", line)
        if pinned is None:
            continue
        name, wanted = pinned.groups()
        try:
            # A build such as 2.13.0+cpu is the same release.
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        checks.append(
            Check(name, found.split("+")[0] == wanted, found, f"`make run` installs {wanted}.")
        )
    return checks


def _home(settings: Settings) -> Check:
    existing = next(p for p in (settings.home, *settings.home.parents) if p.exists())
    try:
        free = shutil.disk_usage(existing).free
        writable = existing.is_dir() and os.access(existing, os.W_OK)
    except OSError as error:
        return Check(
            "home",
            False,
            f"{settings.home}: {error.strerror}",
            "Set STUDIO_HOME to a folder that is yours.",
        )
    found = f"{settings.home}, {gb(free)} GB free"
    if not writable:
        return Check(
            "home", False, f"{found}, not writable", "Set STUDIO_HOME to a folder that is yours."
        )
    return Check("home", free > _DISK, found, f"Free some disk: a run wants {gb(_DISK)} GB.")


def _model(settings: Settings) -> Check:
    ready = folder_of(EMBEDDED, settings) is not None
    return Check(
        "embedded model", True, f"{EMBEDDED}, {'ready' if ready else 'made at the first start'}"
    )
