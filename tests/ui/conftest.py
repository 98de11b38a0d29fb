"""The page, built once and served once, on a home of its own."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before Gradio is imported: it asks its own host for news otherwise.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
import httpx
import pytest

from studio.runs import RunStore
from studio.settings import Settings
from studio.ui.app import build
from studio.ui.front import lighten
from studio.ui.serve import options

# What no answer of the page may hold.
SECRET = "hf_this-is-nobodys-token"


@pytest.fixture
def store(settings: Settings) -> RunStore:
    return RunStore(settings.runs)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Where the page that all tests share keeps its things, and its port."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "workspace").mkdir()
    (folder / "home" / "runs").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Settings(home=folder / "home", workspace=folder / "workspace", port=port)


@pytest.fixture(scope="session")
def page(home: Settings) -> gr.Blocks:
    """The whole page. It is looked at, not changed."""
    return build(home)


@pytest.fixture(scope="module")
def browser(home: Settings, page: gr.Blocks) -> Iterator[httpx.Client]:
    """A client of the served page, which stands in an environment with a secret."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_TOKEN", "MY_API_KEY"):
            patch.setenv(name, SECRET)
        page.launch(**options(home), prevent_thread_lock=True)
        lighten(page)
        with httpx.Client(base_url=f"http://127.0.0.1:{home.port}", timeout=20) as client:
            yield client
        page.close(verbose=False)


@pytest.fixture(scope="module")
def config(browser: httpx.Client) -> dict[str, Any]:
    """What the page tells every browser about itself."""
    told: dict[str, Any] = browser.get("/config").json()
    return told


def write(path: Path, text: str) -> Path:
    """A text file, its folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
