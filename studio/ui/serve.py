"""Serving the page safely: this machine only, no foreign origins, nothing from outside."""

import fcntl
import os
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.errors import StudioError
from studio.jobs import ensure
from studio.jobs.spawn import give_way
from studio.runs import RunStore, keep
from studio.settings import Settings
from studio.ui import header, live
from studio.ui.front import Front, lighten
from studio.ui.polls import PATH, Polls
from studio.ui.runs_tab import PLOTLY
from studio.ui.theme import css, theme

_FILE = "/gradio_api/file="
# Gradio's page needs inline scripts and eval. Images only from here: one in a model's answer must
# not call home.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; img-src 'self' data: blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'"
)


class _Guard:
    """Refuses what another site's page sends, and files of a run that are no export; tells the
    browser to load nothing from outside.

    Plain ASGI: it stands before every poll of every viewer.
    """

    def __init__(self, app: ASGIApp, runs: Path, frame: str) -> None:
        """`frame` is the one other site that may show this page in itself, or nothing."""
        self._app = app
        self._runs = runs
        self._policy = f"{_POLICY} {frame}".strip()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused:
            await PlainTextResponse(refused, status_code=403)(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = self._policy
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, guarded)

    def _refused(self, scope: Scope) -> str:
        changes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and _foreign(Headers(scope=scope)):
            return "This request comes from another site."
        # A poll sees to it that somebody works here.
        if scope["path"] == PATH and _asked_elsewhere(Headers(scope=scope)):
            return "This request comes from another site."
        _, marker, name = str(scope["path"]).partition(_FILE)
        if marker:
            file = Path("/", name).resolve()
            inside = file.parts[len(self._runs.parts) :]
            if file.is_relative_to(self._runs) and inside[1:2] != ("export",):
                return "Of a run only its exports are served."
        return ""


def _foreign(headers: Headers) -> bool:
    origin = headers.get("origin")
    other = origin is not None and origin.split("//")[-1] != headers.get("host")
    return other or headers.get("sec-fetch-site") == "cross-site"


def _asked_elsewhere(headers: Headers) -> bool:
    """Whether a page of another origin asks. The browser's own word counts first: behind a proxy,
    the host may not be the one that the page came from."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    sources = [s for s in (headers.get("origin"), headers.get("referer")) if s is not None]
    hosts = {source.partition("//")[2].partition("/")[0] for source in sources}
    return not hosts <= {headers.get("host")}


def options(settings: Settings) -> dict[str, Any]:
    """The arguments of `launch`."""
    # A Space is shown inside the Hub's page.
    frame = "https://huggingface.co" if "*" in settings.hosts else ""
    store = RunStore(settings.runs)
    polls = {**live.polls(store), **header.polls(store, settings)}
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(settings.hosts)),
        Middleware(_Guard, runs=settings.runs.resolve(), frame=frame),
        Middleware(Polls, functions=polls),
        Middleware(Front),
    ]
    return {
        "server_name": settings.host,
        "server_port": settings.port,
        "theme": theme(),
        "css": css(),
        "run_history": False,
        "footer_links": [],
        "allowed_paths": [str(settings.runs), str(PLOTLY)],
        "app_kwargs": {"middleware": guards},
        "max_file_size": "2gb",
        "ssr_mode": False,
        "quiet": True,
        # Else Gradio gives up where its own page takes longer than 3 s, as on a busy machine.
        "_frontend": False,
    }


def claim(settings: Settings) -> Settings:
    """The settings of the one studio that may change this home, for as long as its process lives;
    of any other, and where the home can't be written, they say why it only looks."""
    lock = settings.home / "server.lock"
    try:
        settings.runs.mkdir(parents=True, exist_ok=True)
        # Never closed: the kernel takes the lock back when this process ends.
        fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.write(fd, _address(settings).encode())
    except BlockingIOError:
        where = lock.read_text(encoding="utf-8") or "on this machine"
        return replace(settings, looks_only=f"Another studio has this home already: {where}.")
    except OSError as error:
        words = f"{settings.home} can't be written: {error.strerror}."
        return replace(settings, looks_only=words)
    return settings


def _address(settings: Settings) -> str:
    shown = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    return f"http://{shown}:{settings.port}"


def serve(demo: gr.Blocks, settings: Settings) -> None:
    """Serves until it is interrupted. Raises StudioError where the port is taken."""
    _check_port(settings)
    # What waited when the machine went down goes on now; what was deleted a week ago goes.
    with suppress(StudioError):
        ensure(settings)
    if not settings.looks_only:
        keep.purge(RunStore(settings.runs))
    give_way()
    _past_proxies(settings)
    demo.launch(**options(settings), prevent_thread_lock=True)
    lighten(demo)
    print(
        f"Atelier is open at {_address(settings)}  (Ctrl+C ends it; runs go on)",
        settings.looks_only,
        flush=True,
    )
    demo.block_thread()


def _past_proxies(settings: Settings) -> None:
    """Gradio asks its own page whether it is there: no proxy of a company's network knows that."""
    held = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if held != "*":
        here = dict.fromkeys([held, "127.0.0.1", "localhost", settings.host])
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, here))


def _check_port(settings: Settings) -> None:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise StudioError(
                f"Port {settings.port} can't be used: {error.strerror}. "
                f"{settings.looks_only}".strip(),
                f"Choose another: PORT={settings.port + 1} make run",
            ) from None
