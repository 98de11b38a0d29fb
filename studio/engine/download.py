"""A download by another program, watched: how much is there, and whether it still moves."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from studio.errors import StudioError

_LOOK_EVERY_S = 0.2


def follow(
    command: Sequence[str],
    env: Mapping[str, str],
    folder: Path,
    grown: Callable[[int], None],
    silence_s: float = 120,
) -> tuple[int, str]:
    """Runs `command`, which writes below `folder`; its exit code, and the last line it complained.

    `grown` is told the bytes of the largest file there a few times a second; what it raises ends
    the command. Raises StudioError where nothing grows for `silence_s` seconds.
    """
    # A file, since a pipe that nobody drains would stop the command once it is full.
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
        )
        try:
            _watch(process, folder, grown, silence_s)
        finally:
            process.kill()
            process.wait()
        complaints.seek(0)
        lines = complaints.read().decode(errors="replace").strip().splitlines()
    return process.returncode, lines[-1] if lines else ""


def _watch(
    process: "subprocess.Popen[bytes]",
    folder: Path,
    grown: Callable[[int], None],
    silence_s: float,
) -> None:
    size, moved = 0, time.monotonic()
    while process.poll() is None:
        now = _largest(folder)
        if now != size:
            size, moved = now, time.monotonic()
        elif time.monotonic() - moved > silence_s:
            raise StudioError(
                f"The download has not moved for {silence_s:.0f} s, at {size / 1e6:.0f} MB.",
                "Check the network or the package index that pip is set to, then try again.",
            )
        grown(size)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_EVERY_S)


def _largest(folder: Path) -> int:
    """Bytes of the largest file below the folder, 0 where there is none."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            # It may be gone by now.
            with suppress(OSError):
                largest = max(largest, (Path(parent) / name).stat().st_size)
    return largest
