"""The bench: the one process of a home in which models live for preview and chat.

It listens on 127.0.0.1 and says where in `bench/address.json`, which only its owner can read.
One request a connection, JSON both ways; replies are any number of {"stage": words} and
{"delta": {side: new text}}, and at last {"done": true, ...} or {"error": message, "hint": what to
do}. Closing the connection cancels the work. Requests, told apart by `op`:

- ping: answers `loaded`, what model is in memory, or null
- preview: `spec` (a tree), `start`, `rows`; answers what `Preview.show` returns
- batch: `spec`, `number`; lengths: `spec`, `sample`; find: `spec`, `text`, `start`, `forward`;
  answer what `Preview`'s functions of these names return
- tree: `spec`; answers the model's modules, as `structure.show` returns them
- code: `spec`; answers the Python files that come with the model, as `structure.code` returns them
- chat: `spec`, `run` (a run's folder or null), `sides` ({base, tuned or merged: messages}),
  `generate`; answers `text` and `tokens` by side, and `seconds`
- quit: ends the process and with it the memory its models take
"""

import importlib
import json
import multiprocessing
import os
import secrets
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio import spec as specs
from studio.engine.channel import Channel
from studio.engine.report import Stopped
from studio.errors import StudioError
from studio.runs import Run, files
from studio.runs.lock import try_lock
from studio.settings import Settings

if TYPE_CHECKING:
    from studio.engine.chat import Chat
    from studio.engine.preview import Preview

_TAKE_OVER_S = 30.0


def serve(settings: Settings) -> None:
    """Serves until it is told to quit, or nobody asked anything for `settings.bench_idle_s`."""
    folder = settings.home / "bench"
    with _sole(folder) as ours:
        if ours:
            Bench(settings, folder).run()


@contextmanager
def _sole(folder: Path) -> Iterator[bool]:
    """Whether this process is to serve. Where another holds the lock and serves, it is not; where
    the other is just ending, or has not said yet where it listens, this one waits for it."""
    deadline = time.monotonic() + _TAKE_OVER_S
    while True:
        with try_lock(folder / "lock") as ours:
            if ours:
                yield True
                return
        if (folder / "address.json").exists() or time.monotonic() > deadline:
            yield False
            return
        time.sleep(0.1)


class Bench:
    """Answers requests, each in a thread of its own."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._address = folder / "address.json"
        self._pid = folder / "pid"
        self._key = secrets.token_bytes(32)
        self._closing = threading.Event()
        self._last = time.monotonic()
        self._counting = threading.Lock()
        self._working = 0
        # Preview has a lock of its own, so that it never waits for an answer that is being written.
        self._previewing = threading.Lock()
        self._chatting = threading.Lock()
        self._preview: Preview | None = None
        self._chat: Chat | None = None

    def run(self) -> None:
        """Listens until it is time to end, and leaves no address behind."""
        self._address.unlink(missing_ok=True)
        files.write_process(self._pid, os.getpid())
        with Listener(("127.0.0.1", 0)) as listener:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            threading.Thread(target=_import_ahead, daemon=True).start()
            # A signal may end this at any line, so nothing is published outside of the try.
            try:
                self._publish(listener.address[1])
                while not self._closing.wait(0.2) and not self._idle():
                    pass
            finally:
                self._address.unlink(missing_ok=True)
                self._closing.set()

    def _publish(self, port: int) -> None:
        # write_text's files are readable by their owner only.
        files.write_text(self._address, json.dumps({"port": port, "key": self._key.hex()}))

    def _idle(self) -> bool:
        return self._working == 0 and time.monotonic() - self._last > self._settings.bench_idle_s

    def _accept(self, listener: Listener) -> None:
        while True:
            try:
                connection = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        """One connection, from the handshake to the last reply. A stranger who never finishes the
        handshake holds up nobody but this thread."""
        channel = Channel(connection, self._closing)
        with connection, suppress(OSError, EOFError, multiprocessing.AuthenticationError):
            channel.greet(self._key)
            with self._counted():
                self._answer(channel)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._counting:
            self._working += 1
        try:
            yield
        finally:
            with self._counting:
                self._working -= 1
                self._last = time.monotonic()

    def _answer(self, channel: Channel) -> None:
        with suppress(Stopped):
            try:
                self._do(channel, channel.receive())
            except StudioError as error:
                channel.send(error=error.message, hint=error.hint)
            # Whatever a model or a library throws must not leave the client waiting.
            except Exception as error:  # noqa: BLE001
                traceback.print_exc()
                from studio.engine.explain import explain

                message, hint = explain(error, "this request")
                channel.send(error=message, hint=hint)

    def _do(self, channel: Channel, request: dict[str, Any]) -> None:
        match request.get("op"):
            case "ping":
                channel.done(loaded=self._chat.loaded if self._chat else None)
            case "preview" | "batch" | "lengths" | "find":
                self._do_preview(channel, request)
            case "chat":
                self._do_chat(channel, request)
            case "tree" | "code":
                self._do_structure(channel, request)
            case "quit":
                channel.done()
                self._closing.set()
            case other:
                raise StudioError(
                    f"The bench knows no {other!r}.",
                    "It knows ping, preview, batch, lengths, find, tree, code, chat and quit.",
                )

    def _do_preview(self, channel: Channel, request: dict[str, Any]) -> None:
        spec = specs.parse(request.get("spec") or {})
        with _turn(self._previewing, channel):
            if self._preview is None:
                self._preview = _library("preview", channel).Preview(self._settings)
            seen = self._preview
            match request["op"]:
                case "preview":
                    start, rows = int(request.get("start", 0)), int(request.get("rows", 3))
                    shown = seen.show(spec, start, rows, channel, request.get("most"))
                case "batch":
                    shown = seen.batch(spec, int(request.get("number", 0)), channel)
                case "lengths":
                    shown = seen.lengths(spec, int(request.get("sample", 1000)), channel)
                case _:
                    text, start = str(request.get("text", "")), int(request.get("start", 0))
                    shown = seen.find(
                        spec, text, start, bool(request.get("forward", True)), channel
                    )
        channel.done(**shown)

    def _do_structure(self, channel: Channel, request: dict[str, Any]) -> None:
        spec = specs.parse(request.get("spec") or {})
        with _turn(self._previewing, channel):
            structure = _library("structure", channel)
            ask = structure.show if request["op"] == "tree" else structure.code
            found = ask(spec, self._settings, channel)
        channel.done(**found)

    def _do_chat(self, channel: Channel, request: dict[str, Any]) -> None:
        tree = request.get("spec") or {}
        spec = specs.parse(
            {**tree, "generate": {**tree.get("generate", {}), **(request.get("generate") or {})}}
        )
        run = Run(Path(request["run"])) if request.get("run") else None
        with _turn(self._chatting, channel):
            if self._chat is None:
                self._chat = _library("chat", channel).Chat(self._settings)
            answer = self._chat.answer(spec, run, request.get("sides") or {}, channel)
        channel.done(text=answer.text, tokens=answer.tokens, seconds=answer.seconds)


@contextmanager
def _turn(lock: threading.Lock, channel: Channel) -> Iterator[None]:
    """Waits for the lock, says so, and gives up with `Stopped` when nobody waits any more."""
    while not lock.acquire(timeout=0.2):
        channel.stage("waiting for the answer before this one")
    try:
        yield
    finally:
        lock.release()


# Two threads that import the same half of transformers at once can see it half made.
_importing = threading.Lock()


def _library(name: str, channel: Channel) -> Any:
    """A module of the engine that brings torch with it: seconds, the first time."""
    channel.stage("loading the libraries")
    with _importing:
        return importlib.import_module(f"studio.engine.{name}")


def _import_ahead() -> None:
    """Starts importing what the first request will need, while that request is on its way."""
    # A library that is broken shows again, and with words, when a request needs it.
    with _importing, suppress(Exception):
        importlib.import_module("studio.engine.preview")
