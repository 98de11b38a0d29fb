"""Do people who look slow a run down? Fifty viewers of one run, who reload at random, against the
same run unwatched: steps a second in thirds of a minute that alternate, within one run, so that
what else moves a shared machine moves both.

A browser tells what a page costs the server: its second load is recorded, as it goes over the wire
with a warm cache, and each viewer repeats that with a session of its own whenever it reloads. In
between it polls as the page does. While nobody looks, the pages are hidden, which ask nothing.

    python bench/viewers.py [--minutes 20] [--viewers 50]
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playwright.sync_api import sync_playwright
from web_start import CHROMIUM, ROOT, answers, free_port, started

from studio import jobs
from studio.runs import Run, RunStore, events
from studio.settings import Settings
from studio.spec import parse

TARGET = 0.95
# As the page's scripts have it: seconds between two beats, and the beats between two polls.
BEAT_S = 1.5
EVERY = {"tick": 1, "runs": 3, "pulse": 2}
RELOADS_S = (30.0, 90.0)
WINDOW_S, SETTLE_S = 20.0, 2.0


@dataclass
class Asked:
    """One request of a page that is loaded: what goes over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: str


def record(url: str) -> tuple[list[Asked], str]:
    """What a browser asks for when it loads the page the second time and shows the runs, without
    what it had in its cache and without the polls; and the id of its session."""
    asked: dict[str, Asked] = {}
    sent: dict[str, dict[str, str]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        page = browser.new_page()
        page.goto(url, wait_until="load")
        page.get_by_role("tab", name="Runs", exact=True).click()
        page.wait_for_timeout(4000)
        client = page.context.new_cdp_session(page)
        client.send("Network.enable")

        def began(told: dict[str, Any]) -> None:
            parts = urlsplit(told["request"]["url"])
            if parts.scheme != "http" or parts.path == "/poll":
                return
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            body = told["request"].get("postData", "")
            asked[told["requestId"]] = Asked(told["request"]["method"], path, {}, body)

        def went(told: dict[str, Any]) -> None:
            # Only what goes over the wire has these.
            sent[told["requestId"]] = told["headers"]

        client.on("Network.requestWillBeSent", began)
        client.on("Network.requestWillBeSentExtraInfo", went)
        page.reload(wait_until="load")
        page.get_by_role("tab", name="Runs", exact=True).click()
        page.wait_for_timeout(4000)
        browser.close()
    found = []
    for key, request in asked.items():
        if key in sent:
            left_out = ("content-length", "connection")
            headers = {k: v for k, v in sent[key].items() if not k.startswith(":")}
            request.headers = {k: v for k, v in headers.items() if k.lower() not in left_out}
            found.append(request)
    text = " ".join(request.path + request.body for request in found)
    session = text.partition('"session_hash":"')[2].partition('"')[0]
    return found, session


class Line:
    """A connection that is kept open, as a browser does."""

    def __init__(self, port: int) -> None:
        self._port = port
        # How much less often than alone the server would have us ask.
        self.crowd = 1.0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: Asked) -> bytes:
        """The answer's body; for a stream of events, all of it until its end."""
        for _ in range(2):
            with suppress(OSError, asyncio.IncompleteReadError):
                return await self._ask(request)
            self.close()
        return b""

    async def _ask(self, request: Asked) -> bytes:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer, body = self._reader, self._writer, request.body.encode()
        headers = {"Host": f"127.0.0.1:{self._port}", **request.headers}
        if body:
            headers["Content-Length"] = str(len(body))
        lines = [f"{request.method} {request.path} HTTP/1.1"]
        lines += [f"{k}: {v}" for k, v in headers.items() if k.lower() != "host" or k == "Host"]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        if "transfer-encoding: chunked" in head:
            parts = []
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                parts.append(await reader.readexactly(size))
                await reader.readexactly(2)
            await reader.readexactly(2)
            return b"".join(parts)
        self.crowd = float(head.partition("x-crowd: ")[2].partition("\r\n")[0] or self.crowd)
        length = head.partition("content-length: ")[2].partition("\r\n")[0]
        return await reader.readexactly(int(length)) if length else b""

    def close(self) -> None:
        """The next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


@dataclass
class Counts:
    """What the viewers asked for while they looked."""

    polls: int = 0
    reloads: int = 0
    seconds: list[float] = field(default_factory=list)


class Viewer:
    """One page: it polls while it is looked at, and is reloaded now and then."""

    def __init__(
        self, port: int, run: Run, page: list[Asked], session: str, seen: asyncio.Event,
        counts: Counts, chance: random.Random,
    ) -> None:  # fmt: skip
        self._port, self._run, self._page, self._session = port, run, page, session
        self._seen, self._counts, self._chance = seen, counts, chance
        self._offset = 0
        self._line = Line(port)
        self._streams: list[asyncio.Task[bytes]] = []

    async def load(self) -> None:
        """The page anew, with a session of its own."""
        for stream in self._streams:
            stream.cancel()
        self._streams = []
        own = f"{self._chance.getrandbits(52):011x}"[:11]
        for request in self._page:
            mine = Asked(
                request.method,
                request.path.replace(self._session, own) if self._session else request.path,
                request.headers,
                request.body.replace(self._session, own) if self._session else request.body,
            )
            # Streams stay open, beside all others.
            if "heartbeat" in mine.path or "queue/data" in mine.path:
                self._streams.append(asyncio.create_task(self._stream(mine)))
            else:
                await self._line.ask(mine)
        self._offset = 0

    async def _stream(self, request: Asked) -> bytes:
        line = Line(self._port)
        try:
            return await line.ask(request)
        finally:
            line.close()

    async def look(self) -> None:
        """Polls and reloads for as long as the bench goes."""
        # Nobody's page was opened in the same moment.
        beat = time.monotonic() + self._chance.uniform(0, BEAT_S)
        reload = time.monotonic() + self._chance.uniform(0, RELOADS_S[1])
        beats = 0
        while True:
            if not self._seen.is_set():
                hidden = time.monotonic()
                await self._seen.wait()
                beat += time.monotonic() - hidden
                reload += time.monotonic() - hidden
            now = time.monotonic()
            if now >= reload:
                await self.load()
                self._counts.reloads += 1
                reload = time.monotonic() + self._chance.uniform(*RELOADS_S)
            if now >= beat:
                beat = now + BEAT_S * self._line.crowd
                await self._poll([name for name, every in EVERY.items() if beats % every == 0])
                beats += 1
            await asyncio.sleep(max(0.0, min(beat, reload) - time.monotonic()))

    async def _poll(self, names: list[str]) -> None:
        asked: dict[str, Any] = {
            "tick": {"run": self._run.id, "offset": self._offset},
            "runs": {"search": "", "star": False, "with": self._run.id, "anew": 0},
            "pulse": {},
        }
        began = time.monotonic()
        path = f"/poll?{quote(json.dumps([[name, asked[name]] for name in names]))}"
        answers = json.loads(await self._line.ask(Asked("GET", path, {}, "")))
        self._counts.polls += 1
        self._counts.seconds.append(time.monotonic() - began)
        self._offset = answers[names.index("tick")]["offset"]


def rate(run: Run, began: float, ended: float) -> float:
    """Steps a second between the first and the last step that was told in that time."""
    logs = [e for e in events.read(run.events) if e["type"] == "log" and began < e["time"] < ended]
    if len(logs) < 3:
        sys.exit("The run is too slow, or has ended: too few steps while one looked.")
    return float((logs[-1]["step"] - logs[0]["step"]) / (logs[-1]["time"] - logs[0]["time"]))


async def watch(
    port: int, run: Run, page: list[Asked], session: str, viewers: int, minutes: int
) -> tuple[dict[bool, list[float]], Counts]:
    """Steps a second of each window, watched and unwatched."""
    # Viewers have machines of their own: what their side takes is not the server's.
    os.nice(19)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    seen, counts, chance = asyncio.Event(), Counts(), random.Random(0)
    people = [Viewer(port, run, page, session, seen, counts, chance) for _ in range(viewers)]
    for person in people:
        await person.load()
    tasks = [asyncio.create_task(person.look()) for person in people]
    rates: dict[bool, list[float]] = {False: [], True: []}
    for window in range(round(minutes * 60 / WINDOW_S)):
        # Unwatched, watched, watched, unwatched: a machine that warms up favours neither.
        watched = window % 4 in (1, 2)
        (seen.set if watched else seen.clear)()
        await asyncio.sleep(SETTLE_S)
        began = time.time()
        await asyncio.sleep(WINDOW_S - SETTLE_S)
        rates[watched].append(rate(run, began, time.time()))
        words = "watched" if watched else "unwatched"
        at = (window + 1) * WINDOW_S / 60
        print(f"minute {at:>5.1f}: {rates[watched][-1]:.3f} steps/s, {words}", flush=True)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    return rates, counts


def endless(settings: Settings) -> Run:
    """A run of the embedded model that goes on for hours, one row a step."""
    tree = {
        "data": {"path": str(ROOT / "presets" / "data" / "persona.jsonl"), "validation": "0"},
        "train": {
            "max_steps": 1_000_000,
            "per_device_train_batch_size": 1,
            "max_length": 128,
            "save_steps": 1_000_000,
        },
        "eval": {"eval_on_start": False},
    }
    store = RunStore(settings.runs)
    run = jobs.start(store, settings, parse(tree), "watched")
    for state in jobs.follow(store, run):
        if state.problem:
            sys.exit(f"{state.problem['message']}\n{run.read_log()}")
        # The first steps are slower than all others.
        if state.step >= 20:
            return run
    sys.exit("The run has ended.")


def main() -> None:
    parser = argparse.ArgumentParser(description="A run's speed, watched and unwatched.")
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--viewers", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "models").symlink_to(Settings.from_env().models)
        os.environ["STUDIO_WORKSPACE"] = str(ROOT / "presets")
        settings = Settings.from_env({**os.environ, "STUDIO_HOME": folder})
        port = free_port()
        with started(ROOT / "app.py", port, home):
            while not answers(f"http://127.0.0.1:{port}/"):
                time.sleep(0.2)
            run = endless(settings)
            try:
                page, session = record(f"http://127.0.0.1:{port}/")
                size = f"{len(page)} requests"
                print(f"a reload with a warm cache: {size}", flush=True)
                rates, counts = asyncio.run(
                    watch(port, run, page, session, options.viewers, options.minutes)
                )
            finally:
                jobs.stop(run, now=True)
    for watched in (False, True):
        words = "watched" if watched else "unwatched"
        print(f"{words:10}{statistics.mean(rates[watched]):>8.3f} steps/s")
    slow = statistics.quantiles(counts.seconds, n=100)[98]
    print(
        f"{options.viewers} viewers: {counts.polls} polls, {counts.reloads} reloads, "
        f"99 of 100 polls within {1000 * slow:.0f} ms"
    )
    ratio = statistics.mean(rates[True]) / statistics.mean(rates[False])
    print(f"ratio {ratio:.3f}, at least {TARGET}: {'yes' if ratio >= TARGET else 'NO'}")


if __name__ == "__main__":
    main()
