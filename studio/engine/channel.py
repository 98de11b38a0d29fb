"""One connection to the bench: JSON messages, and whether the other end still listens."""

import json
import threading
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

from studio.engine.report import Stopped, Throttle
from studio.errors import StudioError

# A conversation of a million tokens is a few megabytes; more than this is no request of ours.
_LARGEST = 64 * 2**20


class Channel:
    """Replies to one request. It is a `Report`: stages and notes go out as replies, and `Stopped`
    is raised where the client has closed the connection or the bench is ending."""

    def __init__(self, connection: Connection, closing: threading.Event) -> None:
        self._connection = connection
        self._closing = closing
        self._throttle = Throttle()
        self._notes: list[str] = []

    def greet(self, key: bytes) -> None:
        """The handshake that `multiprocessing.connection.Client` expects. Raises
        AuthenticationError, OSError or EOFError where the other end does not know the key."""
        deliver_challenge(self._connection, key)
        answer_challenge(self._connection, key)

    def receive(self) -> dict[str, Any]:
        """The request. Raises StudioError where it is no JSON object, EOFError where none comes."""
        try:
            request = json.loads(self._connection.recv_bytes(_LARGEST))
        except ValueError:
            request = None
        if not isinstance(request, dict):
            raise StudioError(
                "The request is not a JSON object.", "See studio.engine.bench for what it may hold."
            )
        return request

    def send(self, **reply: Any) -> None:
        """One reply. Raises Stopped where nobody is left to read it."""
        try:
            self._connection.send_bytes(json.dumps(reply).encode())
        except OSError:
            raise Stopped from None

    def done(self, **values: Any) -> None:
        """The last reply, with the notes that came up on the way."""
        self.send(done=True, **({"notes": self._notes} if self._notes else {}), **values)

    def stopped(self) -> bool:
        """Whether the client is gone or the bench is ending. A client sends one request, so
        anything that can be read after it is the end of the connection."""
        try:
            return self._closing.is_set() or self._connection.poll()
        except OSError:
            return True

    def stage(self, text: str, done: int | None = None, total: int | None = None) -> None:
        """Sends the stage in words, its count as a share."""
        if self.stopped():
            raise Stopped
        if self._throttle.passes(text, done, total):
            counted = done is not None and total and str(total) not in text
            self.send(stage=f"{text} ({100 * (done or 0) // (total or 1)} %)" if counted else text)

    def note(self, text: str) -> None:
        """Keeps the note for the last reply."""
        self._notes.append(text)
