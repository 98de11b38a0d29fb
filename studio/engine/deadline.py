"""An end to work that may never end by itself: a template's loops run in our own thread, where
nothing but an exception from outside stops them."""

import ctypes
import threading
import time
from types import TracebackType

_LOOK_S = 0.25
# Looks without work, after which the watcher goes home.
_IDLE = 4


class TooLong(BaseException):
    """The work took longer than it may. No `Exception`: nothing on the way may take it for its
    own."""


class Deadline:
    """`with deadline: ...` raises TooLong in the block that takes longer than `seconds`. Costs a
    microsecond; one thread watches over all blocks of this object, which come one at a time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._began: float | None = None
        self._thread = 0
        self._fired = False
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._thread = threading.get_ident()
            self._fired = False
            self._began = time.monotonic()
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, daemon=True)
                self._watcher.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._began = None
        if self._fired and kind is not TooLong:
            # It is on its way to this thread and must not arrive later, somewhere else.
            end = time.monotonic() + 1
            while time.monotonic() < end:
                time.sleep(0)

    def _watch(self) -> None:
        idle = 0
        while True:
            time.sleep(_LOOK_S)
            with self._lock:
                began = self._began
                idle = idle + 1 if began is None else 0
                if idle > _IDLE:
                    # The next block starts another one.
                    self._watcher = None
                    return
                if began is None or self._fired or time.monotonic() - began < self._seconds:
                    continue
                self._fired = True
                thread = ctypes.c_ulong(self._thread)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TooLong))
