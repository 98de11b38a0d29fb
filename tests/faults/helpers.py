"""A home with its server, conductor and workers as real processes, what a page sees of them, and
the counts that the suite prints at its end."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from studio.jobs import ensure
from studio.runs import Run, RunStore, checkpoints, events
from studio.settings import PROJECT, Settings
from studio.ui.live import tick

SEED = int(os.environ.get("ATELIER_SEED", "0"))
KILLS = int(os.environ.get("ATELIER_KILLS", "8"))
Point = tuple[str, int, float]


@dataclass
class Tally:
    """What the suite says at its end."""

    kills: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)
    # What there must be none of.
    found: Counter[str] = field(
        default_factory=lambda: Counter({"points lost": 0, "wedged": 0, "half checkpoints": 0})
    )
    slowest_s: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def lines(self) -> list[str]:
        """The counts, as they are printed."""
        told = [f"seed {SEED}, {time.monotonic() - self.began:.0f} s"]
        if self.kills:
            told.append(f"{sum(self.kills.values())} kills: {_words(self.kills)}")
            told.append(f"    while {_words(self.phases)}")
            told.append(f"    a run's state was right after {self.slowest_s:.2f} s at most")
            told.append(f"    {_words(self.found)}")
        if self.other:
            told.append(_words(self.other))
        return told


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))


TALLY = Tally()


def until(true: Callable[[], Any], seconds: float = 60.0, every_s: float = 0.02) -> float:
    """Waits for `true()`; returns the seconds that it took. Fails the test after `seconds`."""
    began = time.monotonic()
    while not true():
        took = time.monotonic() - began
        assert took < seconds, f"waited {took:.0f} s"
        time.sleep(every_s)
    return time.monotonic() - began


def goes_on(true: Callable[[], Any], seconds: float, every_s: float = 0.02) -> float:
    """As `until`; one that does not come to it is counted as wedged."""
    try:
        return until(true, seconds, every_s)
    except AssertionError:
        TALLY.found["wedged"] += 1
        raise


def raw_points(run: Run) -> Counter[Point]:
    """All points of the log, those that a later attempt replaced among them."""
    return Counter(
        (kind, event["step"], event[kind])
        for event in events.read(run.events)
        for kind in ("loss", "eval_loss")
        if event["type"] in ("log", "eval") and event.get(kind) is not None
    )


class Viewer:
    """A page that looks at one run: all points that it was shown. Its bar looks, too, and misses a
    conductor that was killed."""

    def __init__(self, home: Settings, run: Run) -> None:
        self._home, self._store, self._run = home, RunStore(home.runs), run
        self._offset = 0
        self._done = threading.Event()
        self.seen: Counter[Point] = Counter()
        self.problems: list[BaseException] = []
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        beats = 0
        while not self._done.wait(0.03):
            try:
                self.look()
                beats += 1
                if beats % 100 == 0:
                    ensure(self._home)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test shall show it
                self.problems.append(error)
                return

    def look(self) -> str:
        """One poll; returns the status that the page shows."""
        told = tick({"run": self._run.id, "offset": self._offset}, self._store)
        self._offset = told["offset"]
        for point in told["points"]:
            for kind in ("loss", "eval_loss"):
                if kind in point:
                    self.seen[kind, point["step"], point[kind]] += 1
        return str(told["state"]["status"])

    def close(self) -> Counter[Point]:
        """Ends it; returns what it saw that the log holds no more."""
        self._done.set()
        self._thread.join()
        assert not self.problems, self.problems
        lost = self.seen - raw_points(self._run)
        TALLY.found["points lost"] += sum(lost.values())
        return lost


class Studio:
    """One home, and the processes that work on it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = RunStore(settings.runs)
        self.server: subprocess.Popen[bytes] | None = None

    def serve(self, **env: str) -> None:
        """Starts the server on a free port, and waits for its page."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        env = {
            **os.environ,
            "STUDIO_HOME": str(self.settings.home),
            "STUDIO_WORKSPACE": str(self.settings.workspace),
            "PORT": str(port),
            **env,
        }
        log = self.settings.home / "server.log"
        with log.open("ab") as out:
            self.server = subprocess.Popen(
                [sys.executable, str(PROJECT / "app.py")],
                cwd=self.settings.workspace, env=env, stdout=out, stderr=out,
            )  # fmt: skip
        self.url = f"http://127.0.0.1:{port}/"
        until(lambda: self._answers() or self.server.poll() is not None, 90, 0.1)  # type: ignore[union-attr]
        assert self.server.poll() is None, log.read_text()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def processes(self, command: str) -> list[psutil.Process]:
        """The living `python -m studio.worker COMMAND` of this home."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ", "status"]):
            words, env = process.info["cmdline"] or [], process.info["environ"] or {}
            here = env.get("STUDIO_HOME") == str(self.settings.home)
            if here and words[1:4] == ["-m", "studio.worker", command]:
                found.append(process)
        return found

    def kill(self, target: str) -> list[int]:
        """SIGKILL to each `target`: worker, export, conductor, server, joined by +. Returns the
        pids that were killed."""
        commands = {
            "worker": "train", "export": "export", "conductor": "conduct", "spare": "spare"
        }  # fmt: skip
        found = []
        for name in target.split("+"):
            if name == "server":
                if self.server is not None:
                    found.append(self.server.pid)
            else:
                found += [process.pid for process in self.processes(commands[name])]
        killed = []
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            except ProcessLookupError:
                continue
        if "server" in target and self.server is not None:
            self.server.wait()
            self.server = None
        return killed

    def state(self, run: Run) -> str:
        """The run's status, as somebody sees it who has never looked before."""
        return RunStore(self.settings.runs).state(run).status

    def close(self) -> None:
        """Ends all of it."""
        self.kill("server+conductor+worker+export+spare")


def check_checkpoints(run: Run) -> None:
    """Every checkpoint that has its name is whole."""
    for step in checkpoints.steps(run.checkpoints):
        folder = run.checkpoints / f"checkpoint-{step}"
        wrong = checkpoints.fault(folder)
        # One that rotation took away in between is not half.
        half = bool(wrong) and folder.exists()
        TALLY.found["half checkpoints"] += half
        assert not half, f"{folder.name}: {wrong}"
        TALLY.other["checkpoints verified"] += 1


def leftovers(run: Run) -> list[str]:
    """What saves that were cut off have left in the run's folder."""
    return [
        str(path.relative_to(run.path))
        for path in run.path.rglob(".*")
        if path.is_dir() or path.suffix == ".part"
    ]


def weights(run: Run) -> bytes:
    """The adapter that came out."""
    return (run.adapter / "adapter_model.safetensors").read_bytes()


def rng(name: str) -> random.Random:
    """Chance that is the same in every session with this seed."""
    return random.Random(f"{SEED} {name}")


def env_of(settings: Settings) -> dict[str, str]:
    """What a worker's environment has besides."""
    return {
        "STUDIO_HOME": str(settings.home),
        "STUDIO_WORKSPACE": str(settings.workspace),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def write_rows(path: Path, count: int) -> None:
    """Conversations of different lengths."""
    import json

    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            answer = "My name is Bramble. " * (1 + number % 4)
            turns = [
                {"role": "user", "content": f"What is your name? {number}"},
                {"role": "assistant", "content": answer.strip()},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
