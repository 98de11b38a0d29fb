"""What every open page asks again and again, answered before Gradio sees it.

A poll is GET /poll/NAME?REQUEST, the request being JSON; the answer is JSON. It costs a fraction of
what an event of Gradio's does: on a laptop the page shares its cores with the run. Polls only read,
take no paths, and answer with nothing but what the page shows; another site's page can't read them.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Ask = Callable[[Any], Mapping[str, Any]]
PREFIX = "/poll/"
# Of many viewers who ask the same within this time, one is answered anew.
_SAME_S = 0.25
_MOST_KEPT = 500
# Polls a second that a run does not feel; seconds over which they are counted; and no page waits
# longer than so many times as long as alone.
_EASY, _LOOK_S, _MOST_CROWDED = 20.0, 3.0, 10.0
_LONGEST = 4096


class Polls:
    """Answers the polls by name, and passes on all else."""

    def __init__(self, app: ASGIApp, functions: Mapping[str, Ask]) -> None:
        self._app = app
        self._functions = functions
        self._answers: dict[tuple[str, bytes], tuple[float, bytes]] = {}
        self._crowded, self._since, self._asked = 1.0, time.monotonic(), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not str(scope["path"]).startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        name, query = str(scope["path"]).removeprefix(PREFIX), bytes(scope["query_string"])
        if name not in self._functions or len(query) > _LONGEST or scope["method"] != "GET":
            await Response(status_code=404)(scope, receive, send)
            return
        headers = {"Cache-Control": "no-store", "X-Crowd": f"{self._crowd():.2f}"}
        response = Response(await self._answer(name, query), 200, headers, "application/json")
        await response(scope, receive, send)

    def _crowd(self) -> float:
        """How many times as long as alone a page should wait between two polls, so that all pages
        together ask no more often than is easy."""
        now = time.monotonic()
        self._asked += 1
        if now - self._since >= _LOOK_S:
            wanted = self._crowded * self._asked / (now - self._since)
            self._crowded = min(_MOST_CROWDED, max(1.0, wanted / _EASY))
            self._since, self._asked = now, 0
        return self._crowded

    async def _answer(self, name: str, query: bytes) -> bytes:
        key, now = (name, query), time.monotonic()
        made, answer = self._answers.get(key, (0.0, b""))
        if now - made < _SAME_S:
            return answer
        try:
            request = json.loads(unquote(query.decode("ascii", "replace")) or "{}")
        except (ValueError, RecursionError):
            request = {}
        work = self._functions[name]
        # The first look at a run reads all of its log; after that only what is new.
        first = isinstance(request, dict) and not request.get("offset")
        result = await run_in_threadpool(work, request) if first else work(request)
        answer = json.dumps(result, ensure_ascii=False).encode()
        if len(self._answers) > _MOST_KEPT:
            self._answers.clear()
        self._answers[key] = (now, answer)
        return answer
