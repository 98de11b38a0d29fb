"""Each kind of crash has its sentence and its remedy."""

import errno
import shutil

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
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "The machine ran out of memory while training",
            "batch size",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "The machine ran out", "batch size"),
        (OSError(errno.EROFS, "Read-only", "/x/y"), "The disk is read-only: /x/y", "STUDIO_HOME"),
        (OSError(errno.ETIMEDOUT, "Timed out"), "TimeoutError while training", "log"),
        (OSError(errno.ENOSPC, "No space left", "/x/y"), "The disk is full: /x/y", "Free some"),
        (RuntimeError("Error: No space left on device (os error 28)"), "The disk is full", "Free"),
        (RuntimeError("[enforce fail] . unexpected pos 64 vs 0"), "The disk is full: wh", "Free"),
        (shutil.Error([("a", "b", "[Errno 28] No space left")]), "The disk is full", "Free some"),
        (OSError(errno.EFBIG, "Too large", "/x"), "The disk takes no file this long: /x", "limit"),
        (PermissionError(errno.EACCES, "no", "/x"), "No permission for /x", "who owns it"),
        (ValueError("bad\nthing"), "ValueError while training: bad", "log"),
        (KeyError(), "KeyError while training: KeyError", "log"),
    ],
)
def test_a_crash_in_words(error: Exception, says: str, hint: str) -> None:
    message, remedy = explain(error, "training")
    assert message.startswith(says)
    assert hint in remedy


@pytest.mark.parametrize(
    "stage", ["this request", "merging the adapter", "writing the merged model"]
)
def test_without_a_batch_the_remedy_for_memory_is_another(stage: str) -> None:
    for error in (MemoryError(), OutOfMemoryError("CUDA out of memory.")):
        message, remedy = explain(error, stage)
        assert message.endswith(f"ran out of memory while {stage}.")
        assert "batch" not in remedy and "Close other programs" in remedy
