"""The client of the bench, the child process in which models live for chat and preview.

The bench is found through its address file, so that any process of this home (the page, the
command line, a restarted server) talks to the same one.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import psutil

from studio.errors import StudioError
from studio.jobs.spawn import spawn, writing
from studio.runs import files, queue
from studio.settings import Settings

Reply = dict[str, Any]
_START_S = 120.0
_QUIT_S = 10.0
_AGAIN_S = 1.0


class Bench:
    """Talks to the bench and starts it when it is not there."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.home / "bench"

    @property
    def log(self) -> Path:
        return self._folder / "bench.log"

    def process(self) -> psutil.Process | None:
        """The bench's process, if it lives."""
        return files.read_process(self._folder / "pid")

    def ask(self, request: Reply, allowed: Callable[[], None] = lambda: None) -> Iterator[Reply]:
        """Sends one request and yields its replies; closing the iterator cancels the work. Where
        the bench has to be started for it, `allowed` may refuse that by raising StudioError.

        A reply holds `stage` (words) or `delta` (new text by side); the last one holds `done`. A
        stage that lasts is told again each second, so that whoever waits can leave. Raises
        StudioError where the bench reports an error or dies.
        """
        connection = self._connect()
        if connection is None:
            yield {"stage": "starting the model's process"}
            connection = self._start(allowed)
        try:
            connection.send_bytes(json.dumps(request).encode())
            reply: Reply = {}
            while True:
                while "stage" in reply and not connection.poll(_AGAIN_S):
                    yield reply
                reply = json.loads(connection.recv_bytes())
                if "error" in reply:
                    raise StudioError(reply["error"], reply.get("hint", ""))
                yield reply
                if reply.get("done"):
                    return
        except (EOFError, OSError):
            raise StudioError(
                "The model's process ended in the middle of its work.",
                f"It may have run out of memory; its log is {self.log}. Try again with a smaller "
                "model or quantization.",
            ) from None
        finally:
            connection.close()

    def quit(self) -> None:
        """Ends the bench and gives its memory back; returns once it is gone."""
        process = self.process()
        if process is None:
            return
        # One that hangs answers nobody: a run that waits for its memory would wait for ever.
        hung = threading.Timer(_QUIT_S, _end, [process])
        hung.start()
        try:
            connection = self._connect()
            if connection is None:
                # It is still starting.
                with suppress(psutil.Error):
                    process.terminate()
            else:
                with suppress(EOFError, OSError), connection:
                    connection.send_bytes(json.dumps({"op": "quit"}).encode())
                    connection.recv_bytes()
        finally:
            hung.cancel()
        with suppress(psutil.Error):
            try:
                process.wait(_QUIT_S)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(_QUIT_S)

    def _connect(self) -> Connection | None:
        try:
            address = json.loads((self._folder / "address.json").read_text(encoding="utf-8"))
            if self.process() is None:
                return None
            return Client(
                ("127.0.0.1", int(address["port"])), authkey=bytes.fromhex(address["key"])
            )
        # An address that is half written, or of a bench that is gone, is no address.
        except (OSError, ValueError, KeyError, TypeError, EOFError, AuthenticationError):
            return None

    def _start(self, allowed: Callable[[], None]) -> Connection:
        started, ours = time.monotonic(), False
        while time.monotonic() - started < _START_S:
            connection = self._connect()
            if connection is not None:
                return connection
            # Another starter's may be on its way, or an old one about to be gone.
            if self.process() is None:
                if ours:
                    break
                ours = self._spawn(allowed)
            time.sleep(0.05)
        raise StudioError("The model's process did not start.", f"Its log says why: {self.log}")

    def _spawn(self, allowed: Callable[[], None]) -> bool:
        """Starts the bench where there is none; whether it did. No run begins in between: its
        starter sees the bench by its pid, and ends it."""
        with writing(self._folder), queue.changing(self._settings.runs):
            allowed()
            if self.process() is not None:
                return False
            process = spawn(["bench"], self.log, self._settings)
            with suppress(psutil.NoSuchProcess):
                files.write_process(self._folder / "pid", process.pid)
        return True


def _end(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.kill()
