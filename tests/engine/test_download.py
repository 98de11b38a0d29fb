"""A download by another program: watched while it grows, ended when it must."""

import os
import sys
import time
from pathlib import Path

import pytest

from studio.engine.download import follow
from studio.engine.report import Stopped
from studio.errors import StudioError

_SLOW = """
import os, sys, time
with open(os.path.join(sys.argv[1], "part"), "wb", buffering=0) as file:
    for _ in range(5):
        file.write(b"x" * 1000)
        time.sleep(0.3)
print("first\\nlast words", file=sys.stderr)
sys.exit(3)
"""
_STUCK = "import os, sys, time; open(sys.argv[1] + '/pid', 'w').write(str(os.getpid())); "
_STUCK += "time.sleep(60)"


def run(script: str, folder: Path) -> list[str]:
    return [sys.executable, "-c", script, str(folder)]


def is_gone(folder: Path) -> bool:
    try:
        os.kill(int((folder / "pid").read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_what_grows_is_told_and_the_last_complaint_is_kept(tmp_path: Path) -> None:
    sizes: list[int] = []
    code, said = follow(run(_SLOW, tmp_path), os.environ, tmp_path, sizes.append, silence_s=20)
    assert (code, said) == (3, "last words")
    assert sizes == sorted(sizes) and len(set(sizes)) >= 3 and sizes[-1] == 5000


def test_a_download_that_stands_still_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="has not moved") as caught:
        follow(run(_STUCK, tmp_path), os.environ, tmp_path, lambda size: None, silence_s=1)
    assert caught.value.hint and is_gone(tmp_path)


def test_a_stop_ends_the_download(tmp_path: Path) -> None:
    def stop(size: int) -> None:
        if size:
            raise Stopped

    begun = time.monotonic()
    with pytest.raises(Stopped):
        follow(run(_STUCK, tmp_path), os.environ, tmp_path, stop, silence_s=60)
    assert time.monotonic() - begun < 30 and is_gone(tmp_path)
