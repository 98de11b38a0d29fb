"""What went wrong, in words: from an exception to a sentence and a remedy. No torch here, so that
a worker whose torch is broken can still say so."""

import errno

from studio.errors import StudioError

_WHILE_TRAINING = (
    "Lower the batch size or max_length, turn activation checkpointing on, or quantize the model."
)
_OTHERWISE = "Close other programs, quantize the model where it is not yet, or take a smaller one."
# The stages in which a batch is in memory.
_BATCHES = ("training", "evaluating")


def explain(error: BaseException, stage: str) -> tuple[str, str]:
    """The message and the hint for an error that came up during `stage`."""
    if isinstance(error, StudioError):
        return error.message, error.hint
    kind, text = type(error).__name__, first_line(error)
    if (full := _out_of_memory(error)) is not None:
        hint = _WHILE_TRAINING if stage.startswith(_BATCHES) else _OTHERWISE
        return f"{full} ran out of memory while {stage}.", hint
    if isinstance(error, ImportError):
        name = error.name or "a library"
        return (
            f"{name} can't be imported: {text}",
            "Run `make run` again: it installs what is missing.",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk is full: {error.filename or stage} could not be written.",
            "Free some space and start again.",
        )
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return (
            f"The disk is read-only: {error.filename or stage} could not be written.",
            "Set STUDIO_HOME to a folder that can be written.",
        )
    if isinstance(error, PermissionError):
        return (
            f"No permission for {error.filename}, while {stage}.",
            "Check who owns it, or set STUDIO_HOME elsewhere.",
        )
    if kind == "SafetensorError":
        return f"A safetensors file is broken: {text}", "Copy or download the model again."
    return f"{kind} while {stage}: {text}", "The log has the whole story."


def _out_of_memory(error: BaseException) -> str | None:
    """Whose memory was too small, or None where the error is another one."""
    if type(error).__name__ == "OutOfMemoryError":
        return "The GPU"
    # torch has a class of its own for a GPU only; on a CPU its allocator's words have to do.
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "The machine"
    return "The machine" if isinstance(error, OSError) and error.errno == errno.ENOMEM else None


def first_line(error: BaseException) -> str:
    """The first line of what the error says, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
