"""What every open page asks again and again, answered before Gradio sees it.

A poll is GET /poll?ASKED, a JSON list of [name, request]; the answer is the list of their answers,
with null for what nobody knows, and for what went wrong, which the server's log tells. It costs a
fraction of what an event of Gradio's does: on a laptop the page shares its cores with the run.
Polls only read, take no paths, and answer with nothing but what the page shows; another site's page
can't read them.
"""

import json
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from studio.plan.machine import machine

Ask = Callable[[Any], Mapping[str, Any]]
PATH = "/poll"
# Of many viewers who ask the same within this time, one is answered anew.
_SAME_S = 0.25
_MOST_KEPT = 500
# Polls a second and core that a run does not feel; seconds over which they are counted; and no page
# waits longer than so many times as long as alone.
_EASY, _LOOK_S, _MOST_CROWDED = 3.0, 3.0, 10.0
_LONGEST, _MOST_ASKED = 8192, 20
# What takes longer than this gets a thread of its own; for all else that would only be more work.
_QUICK_S = 0.01


class Polls:
    """Answers the polls by name, and passes on all else."""

    def __init__(self, app: ASGIApp, functions: Mapping[str, Ask]) -> None:
        self._app = app
        self._functions = functions
        self._answers: dict[tuple[str, str], tuple[float, bytes]] = {}
        self._took: dict[str, float] = {}
        self._easy = _EASY * machine().cores
        self._crowded, self._since, self._asked = 1.0, time.monotonic(), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        asked = _asked(scope)
        if asked is None:
            await Response(status_code=404)(scope, receive, send)
            return
        headers = {"Cache-Control": "no-store", "X-Crowd": f"{self._crowd():.2f}"}
        parts = [await self._answer(name, request) for name, request in asked]
        body = b"[" + b",".join(parts) + b"]"
        await Response(body, 200, headers, "application/json")(scope, receive, send)

    def _crowd(self) -> float:
        """How many times as long as alone a page should wait between two polls, so that all pages
        together ask no more often than is easy."""
        now = time.monotonic()
        self._asked += 1
        if now - self._since >= _LOOK_S:
            wanted = self._crowded * self._asked / (now - self._since)
            self._crowded = min(_MOST_CROWDED, max(1.0, wanted / self._easy))
            self._since, self._asked = now, 0
        return self._crowded

    async def _answer(self, name: str, request: Any) -> bytes:
        if name not in self._functions:
            return b"null"
        key, now = (name, json.dumps(request)), time.monotonic()
        made, answer = self._answers.get(key, (0.0, b""))
        if now - made < _SAME_S:
            return answer
        work = self._functions[name]
        # The first look at a run reads all of its log; after that only what is new.
        whole = isinstance(request, dict) and request.get("offset") == 0
        try:
            if whole or self._took.get(name, _QUICK_S) >= _QUICK_S:
                result = await run_in_threadpool(work, request)
            else:
                result = work(request)
            answer = json.dumps(result, ensure_ascii=False).encode()
        # The others that were asked for with it have their answers all the same.
        except Exception:  # noqa: BLE001
            traceback.print_exc()
            answer = b"null"
        self._took[name] = time.monotonic() - now
        if len(self._answers) > _MOST_KEPT:
            self._answers.clear()
        self._answers[key] = (now, answer)
        return answer


def _asked(scope: Scope) -> list[tuple[str, Any]] | None:
    """What is asked for; nothing where that can't be understood."""
    query = bytes(scope["query_string"])
    if scope["method"] != "GET" or len(query) > _LONGEST:
        return None
    try:
        asked = json.loads(unquote(query.decode("ascii")))
        return [(str(name), request) for name, request in asked[:_MOST_ASKED]]
    except (ValueError, TypeError, RecursionError):
        return None
