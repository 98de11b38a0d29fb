"""Serving the page safely: this machine only, no foreign origins, nothing from outside."""

import socket
from typing import Any

import gradio as gr
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.errors import StudioError
from studio.settings import Settings
from studio.ui.runs_tab import PLOTLY
from studio.ui.theme import css, theme

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Gradio's page needs inline scripts and eval. Images only from here: one in a model's answer must
# not call home.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; img-src 'self' data: blob:; "
    "connect-src 'self'; "
    "object-src 'none'; base-uri 'self'"
)


class _SameOrigin:
    """Refuses what another site's page sends; tells the browser to load nothing from outside.

    Plain ASGI: it stands before every poll of every viewer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and _foreign(Headers(scope=scope)):
            refusal = PlainTextResponse("This request comes from another site.", status_code=403)
            await refusal(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, guarded)


def _foreign(headers: Headers) -> bool:
    origin = headers.get("origin")
    other = origin is not None and origin.split("//")[-1] != headers.get("host")
    return other or headers.get("sec-fetch-site") == "cross-site"


def options(settings: Settings) -> dict[str, Any]:
    """The arguments of `launch`."""
    local = settings.host in _LOOPBACK
    guards = [Middleware(_SameOrigin)]
    if local:
        guards.insert(
            0, Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
        )
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
    }


def serve(demo: gr.Blocks, settings: Settings) -> None:
    """Serves until it is interrupted. Raises StudioError where the port is taken."""
    _check_port(settings)
    settings.runs.mkdir(parents=True, exist_ok=True)
    demo.launch(**options(settings), prevent_thread_lock=True)
    shown = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    print(
        f"Atelier is open at http://{shown}:{settings.port}  (Ctrl+C ends it; runs go on)",
        flush=True,
    )
    demo.block_thread()


def _check_port(settings: Settings) -> None:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise StudioError(
                f"Port {settings.port} can't be used: {error.strerror}.",
                f"Choose another: PORT={settings.port + 1} make run",
            ) from None
