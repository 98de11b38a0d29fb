"""The lock of the device that a run trains on: two runs in its memory would end both."""

import os
import tempfile
from pathlib import Path

from studio.plan.machine import first_visible, machine
from studio.settings import Settings


def device_lock(settings: Settings) -> Path:
    """A GPU has one lock for all homes of its user; a CPU has one in each home."""
    return gpu_lock() or settings.home / "train.lock"


def gpu_lock() -> Path | None:
    """The lock of the GPU that runs train on; None where they train on the CPU."""
    if not machine().gpus:
        return None
    return Path(tempfile.gettempdir()) / f"atelier-{os.getuid()}" / f"gpu-{first_visible()}.lock"
