"""Each kind of crash has its sentence and its remedy."""

import errno

import pytest

from studio.engine.explain import explain
from studio.errors import StudioError


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    ("error", "says", "hint"),
    [
        (StudioError("That.", "Do this."), "That.", "Do this."),
        (OutOfMemoryError("CUDA out of memory. Tried"), "The GPU ran out of memory", "batch size"),
        (MemoryError(), "The machine ran out of memory while training", "batch size"),
        (ModuleNotFoundError("No module named 'trl'", name="trl"), "trl can't be", "make run"),
        (OSError(errno.ENOSPC, "No space left", "/x/y"), "The disk is full: /x/y", "Free some"),
        (PermissionError(errno.EACCES, "no", "/x"), "No permission for /x", "who owns it"),
        (ValueError("bad\nthing"), "ValueError while training: bad", "log"),
        (KeyError(), "KeyError while training: KeyError", "log"),
    ],
)
def test_a_crash_in_words(error: Exception, says: str, hint: str) -> None:
    message, remedy = explain(error, "training")
    assert message.startswith(says)
    assert hint in remedy
