"""Serving the page safely: this machine only, no foreign origins, nothing from outside."""

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from studio.errors import StudioError
from studio.settings import Settings
from studio.ui.runs_tab import PLOTLY
from studio.ui.theme import css, theme

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Gradio's page needs inline scripts and eval. Images only from here: one in a model's answer must
# not call home.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; img-src 'self' data: blob:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'"
)


class _SameOrigin(BaseHTTPMiddleware):
    """Refuses what another site's page sends here, and tells the browser to load nothing from outside."""

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        origin = request.headers.get("origin")
        foreign = request.headers.get("sec-fetch-site") == "cross-site" or (
            origin is not None and origin.split("//")[-1] != request.headers.get("host")
        )
        if foreign and request.method not in ("GET", "HEAD", "OPTIONS"):
            return PlainTextResponse("This request comes from another site.", status_code=403)
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def options(settings: Settings) -> dict[str, Any]:
    """The arguments of `launch`."""
    local = settings.host in _LOOPBACK
    guards = [Middleware(_SameOrigin)]
    if local:
        guards.insert(0, Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"]))
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
    print(f"Atelier is open at http://{shown}:{settings.port}  (Ctrl+C ends it; runs go on)", flush=True)
    demo.block_thread()


def _check_port(settings: Settings) -> None:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise StudioError(f"Port {settings.port} can't be used: {error.strerror}.",
                              f"Choose another: PORT={settings.port + 1} make run") from None
