"""What only torch's libraries can tell, asked once for all unit tests."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from studio.settings import PROJECT


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `libraries.py` found out. In a process of its own: importing torch here would slow
    every test down and hide a layer that imports it."""
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).with_name("libraries.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**told, "folder": folder}
