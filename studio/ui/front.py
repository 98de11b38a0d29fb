"""The page itself, made once: it is the same for everybody, and takes Gradio longer to write than
most of what follows."""

import gzip

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MOST_KEPT = 16


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
