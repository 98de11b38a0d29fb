"""What went wrong, in words: from an exception to a sentence and a remedy. No torch here, so that
a worker whose torch is broken can still say so."""

import errno
import re
from contextlib import suppress
from typing import Any

from studio.errors import StudioError
from studio.plan.smaller import smaller
from studio.runs import Run
from studio.settings import Settings

_WHILE_TRAINING = (
    "Lower the batch size or max_length, turn activation checkpointing on, or quantize the model."
)
_OTHERWISE = "Close other programs, quantize the model where it is not yet, or take a smaller one."
# What CUDA and its libraries say, what it means, and what to do.
_SIGNS = (
    (
        "driver on your system is too old",
        "The GPU's driver is older than what this torch needs.",
        "Update the NVIDIA driver, or install a torch that was built for it.",
    ),
    (
        "CUDA driver version is insufficient",
        "The GPU's driver is older than what this torch needs.",
        "Update the NVIDIA driver, or install a torch that was built for it.",
    ),
    (
        "no kernel image is available",
        "This torch was not built for this GPU.",
        "Install a torch that supports it; `nvidia-smi` tells its name.",
    ),
    (
        "No CUDA GPUs are available",
        "There is no GPU that this run may use.",
        "Check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or train a small model on the CPU.",
    ),
    (
        "Found no NVIDIA driver",
        "There is no NVIDIA driver on this machine.",
        "Install it, or train a small model on the CPU.",
    ),
    (
        "Torch not compiled with CUDA enabled",
        "This torch was built without GPUs.",
        "Install the CUDA build of torch, or train a small model on the CPU.",
    ),
    (
        "unspecified launch failure",
        "The GPU stopped in the middle of its work.",
        "Resume the run; if it comes back, look at `dmesg` and the GPU's temperature.",
    ),
)
_FREE_SOME = "Free some space; then a run goes on by Resume."
# What a disk may say to who writes, and what to do.
_DISK = {
    errno.ENOSPC: ("The disk is full", _FREE_SOME),
    errno.EDQUOT: ("The disk is full", _FREE_SOME),
    errno.EFBIG: (
        "The disk takes no file this long",
        "Raise the limit (`ulimit -f`), or set STUDIO_HOME to a folder on another disk.",
    ),
    errno.EROFS: ("The disk is read-only", "Set STUDIO_HOME to a folder that can be written."),
}
# The stages in which a batch is in memory.
_BATCHES = ("training", "evaluating")


def tell(error: BaseException, stage: str, run: Run, settings: Settings) -> dict[str, Any]:
    """What a run's failure event says: `message`, `hint`, and for one that ran out of memory
    `changes`, settings by field with which it would fit."""
    message, hint = explain(error, stage)
    told: dict[str, Any] = {"message": message, "hint": hint}
    if _out_of_memory(error) is not None:
        # A spec that can't be read has not come as far as this.
        with suppress(StudioError):
            told["changes"] = smaller(run.spec(), settings)
    return told


def explain(error: BaseException, stage: str) -> tuple[str, str]:
    """The message and the hint for an error that came up during `stage`."""
    if isinstance(error, StudioError):
        return error.message, error.hint
    kind, text = type(error).__name__, first_line(error)
    if (full := _out_of_memory(error)) is not None:
        hint = _WHILE_TRAINING if stage.startswith(_BATCHES) else _OTHERWISE
        return f"{full} ran out of memory while {stage}.{_sizes(text)}", hint
    for sign, message, hint in _SIGNS:
        if sign in text:
            return f"{message} ({text})", hint
    if isinstance(error, ImportError):
        name = error.name or "a library"
        return (
            f"{name} can't be imported: {text}",
            "Run `make run` again: it installs what is missing.",
        )
    if (words := _DISK.get(_disk_error(error))) is not None:
        file = getattr(error, "filename", None)
        what = f"{file} could not be written" if file else f"while {stage}"
        return f"{words[0]}: {what}.", words[1]
    if isinstance(error, PermissionError):
        return (
            f"No permission for {error.filename}, while {stage}.",
            "Check who owns it, or set STUDIO_HOME elsewhere.",
        )
    if kind == "SafetensorError":
        return f"A safetensors file is broken: {text}", "Copy or download the model again."
    return f"{kind} while {stage}: {text}", "The log has the whole story."


def _disk_error(error: BaseException) -> int:
    """The number of the disk's error, or 0. What is not written in Python says it in words, and
    torch not even in those: its files end where the disk does."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    text = str(error)
    if "unexpected pos" in text or "PytorchStreamWriter failed writing" in text:
        return errno.ENOSPC
    told = re.search(r"(?:os error|\[Errno) (\d+)", text)
    return int(told[1]) if told else 0


def _out_of_memory(error: BaseException) -> str | None:
    """Whose memory was too small, or None where the error is another one."""
    if type(error).__name__ == "OutOfMemoryError":
        return "The GPU"
    # torch has a class of its own for a GPU only; on a CPU its allocator's words have to do.
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "The machine"
    return "The machine" if isinstance(error, OSError) and error.errno == errno.ENOMEM else None


def _sizes(text: str) -> str:
    """What a GPU's allocator says of sizes, as a sentence."""
    wanted = re.search(r"Tried to allocate ([\d.]+ [KMG]iB)", text)
    there = re.search(r"total capacity of ([\d.]+ [KMG]iB) of which ([\d.]+ [KMG]iB) is free", text)
    if wanted and there:
        return f" It wanted {wanted[1]} more; of {there[1]}, {there[2]} were free."
    wanted = re.search(r"you tried to allocate (\d+) bytes", text)
    return f" It wanted {int(wanted[1]) / 1e9:.1f} GB more." if wanted else ""


def first_line(error: BaseException) -> str:
    """The first line of what the error says, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
