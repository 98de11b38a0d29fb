"""A real server, a real browser, and the embedded model, prepared once for all journeys."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from studio.jobs import Bench
from studio.plan.catalogue import EMBEDDED
from studio.runs import RunStore
from studio.settings import PROJECT, Settings

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-component-update --disable-background-networking"
)


class Server:
    """`python app.py` on a free port, with a home of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}/"

    def start(self) -> None:
        env = {
            **os.environ,
            "STUDIO_HOME": str(self.settings.home),
            "STUDIO_WORKSPACE": str(self.settings.workspace),
            "PORT": str(self.settings.port),
        }
        command = [sys.executable, str(PROJECT / "app.py")]
        with (self.settings.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=env, cwd=self.settings.workspace, stdout=log, stderr=log
            )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.settings.home / "server.log").read_text())

    def kill(self) -> None:
        """Ends it the hard way, as a machine does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def libraries(self) -> str:
        """What is mapped into the server's memory."""
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/maps").read_text()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with the embedded one, from the person's home if it is there."""
    here = Settings.from_env().models
    if not (here / EMBEDDED).is_dir():
        home = tmp_path_factory.mktemp("prepared")
        env = {**os.environ, "STUDIO_HOME": str(home)}
        command = [sys.executable, "-m", "studio.worker", "setup"]
        subprocess.run(command, cwd=PROJECT, env=env, check=True)
        here = home / "models"
    return here


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("studio")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = replace(
        Settings.from_env({}), home=folder / "home", workspace=folder / "work", port=port
    )
    settings.workspace.mkdir()
    target = settings.models / EMBEDDED
    target.mkdir(parents=True)
    for file in (models / EMBEDDED).iterdir():
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copy(file, target / file.name)
    found = Server(settings)
    found.start()
    yield found
    found.kill()
    for run in RunStore(settings.runs).list():
        process = run.process()
        if process is not None:
            process.kill()
    Bench(settings).quit()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "The journeys need Debian's chromium: apt-get install chromium"
    # Server, model and browser share the cores: what is waited for may take its time.
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS.split())
        yield browser
        browser.close()


class Watched:
    """A page whose console errors and requests are kept."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.server = server
        self.errors: list[str] = []
        self.outside: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _request(self, request: Request) -> None:
        local = request.url.startswith((self.server.url, "data:", "blob:"))
        if not local:
            self.outside.append(request.url)

    def open(self) -> None:
        self.page.goto(self.server.url)
        self.page.locator("#chosen .chosen").wait_for()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def shot(self, name: str) -> None:
        """A picture for a person to look at, where ATELIER_SHOTS names a folder."""
        folder = os.environ.get("ATELIER_SHOTS")
        if folder:
            self.page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture
def watched(browser: Browser, server: Server) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(30_000)
    yield Watched(context.new_page(), server)
    context.close()
