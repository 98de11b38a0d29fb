"""The page itself, made once: it is the same for everybody, and takes Gradio longer to write than
most of what follows. And what else Gradio does for each page, or all the time, that none of ours
needs: on a laptop the server shares its cores with the run."""

import gzip
from copy import copy
from typing import Any

from gradio import Blocks, State
from gradio.state_holder import SessionState, StateHolder
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MOST_KEPT = 16
# Seconds between two looks for waiting events; Gradio's is a thousandth.
_LOOK_S = 0.02


class Front:
    """Answers GET / from memory, and passes on all else.

    What Gradio writes into the page of a request is the address it came to; that and what proxies
    add is what a kept page is found by.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._kept: dict[tuple[object, ...], Response] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        plain = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
        if not plain or scope["query_string"]:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        zipped = "gzip" in headers.get("accept-encoding", "")
        added = sorted((k, v) for k, v in headers.items() if k == "host" or k.startswith("x-"))
        key = (scope["scheme"], scope.get("root_path"), zipped, *added)
        if key not in self._kept:
            status, sent, body = await self._made(scope, receive)
            if zipped:
                body = gzip.compress(body)
                sent |= {"content-encoding": "gzip", "vary": "Accept-Encoding"}
            made = Response(body, status, sent)
            if status != 200:
                await made(scope, receive, send)
                return
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[key] = made
        await self._kept[key](scope, receive, send)

    async def _made(self, scope: Scope, receive: Receive) -> tuple[int, dict[str, str], bytes]:
        """Gradio's own answer: its status, headers and body."""
        status, sent, body = 500, dict[str, str](), bytearray()

        async def keep(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent.update(Headers(raw=message["headers"]).items())
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b""))

        await self._app(scope, receive, keep)
        sent.pop("content-length", None)
        return status, sent, bytes(body)


class _Session(SessionState):
    """Gradio's, but without a copy of the whole page's configuration, kept up to date with each
    value that comes and goes, which only its deep links read: half of what a page costs."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks_config = copy(blocks.default_config)
        self.config_values: dict[int, Any] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 3600

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(self.blocks_config.blocks.get(key), State):
            super().__setitem__(key, value)
            self.config_values.clear()
        else:
            self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None: ...

    def _update_value_in_config(self, key: int, value: Any) -> None: ...


class _Sessions(StateHolder):
    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = _Session(self.blocks)
        return super().__getitem__(session_id)


def lighten(demo: Blocks) -> None:
    """Takes from a launched page's server what only costs."""
    demo.app.state_holder.__class__ = _Sessions
    demo._queue.sleep_when_free = _LOOK_S
