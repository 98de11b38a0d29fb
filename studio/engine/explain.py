"""What went wrong, in words: from an exception to a sentence and a remedy. No torch here, so that
a worker whose torch is broken can still say so."""

import errno

from studio.errors import StudioError

_LESS = (
    "Lower the batch size or max_length, turn activation checkpointing on, or quantize the model."
)


def explain(error: BaseException, stage: str) -> tuple[str, str]:
    """The message and the hint for an error that came up during `stage`."""
    if isinstance(error, StudioError):
        return error.message, error.hint
    kind, text = type(error).__name__, first_line(error)
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        where = (
            "The GPU ran out of memory"
            if kind == "OutOfMemoryError"
            else "The machine ran out of memory"
        )
        return f"{where} while {stage}.", _LESS
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
    if isinstance(error, PermissionError):
        return (
            f"No permission for {error.filename}, while {stage}.",
            "Check who owns it, or set STUDIO_HOME elsewhere.",
        )
    if kind == "SafetensorError":
        return f"A safetensors file is broken: {text}", "Copy or download the model again."
    return f"{kind} while {stage}: {text}", "The log has the whole story."


def first_line(error: BaseException) -> str:
    """The first line of what the error says, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
