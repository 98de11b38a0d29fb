"""Run folders: create, list, look at. The folder is the run; nothing about it is kept elsewhere."""

import errno
import json
import re
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from studio import spec as specs
from studio.errors import StudioError
from studio.runs import checkpoints, events, files, queue
from studio.runs.events import ENDED, RunState, Status
from studio.spec import RunSpec

_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[a-z0-9-]{1,40}")
# How the names of folders begin that are to become runs.
NEW = ".new."
# Where a worker is at work, or about to be.
GOING: tuple[Status, ...] = ("starting", "running", "stopping")
# What a stop file asks for that waits for nothing to be saved.
AT_ONCE = ("now", "discard")


@dataclass(frozen=True)
class Run:
    """One run's folder and the names of what is in it."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def name(self) -> str:
        """The recipe's name, as it stands at the end of the id."""
        return self.id[16:]

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def completions(self) -> Path:
        """The answers that the trainer grpo tried, some of each step, a line of JSON each."""
        return self.path / "completions.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "worker.log"

    @property
    def pid(self) -> Path:
        return self.path / "pid"

    @property
    def stop(self) -> Path:
        return self.path / "stop"

    @property
    def exit(self) -> Path:
        return self.path / "exit.json"

    @property
    def adapter(self) -> Path:
        """What was trained: an adapter, or a whole model where all of its weights were."""
        return self.path / "adapter"

    @property
    def tuned(self) -> bool:
        """Whether there is something that was trained."""
        return any((self.adapter / n).is_file() for n in ("adapter_config.json", "config.json"))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        return self.path / "export"

    def export_pid(self, kind: str) -> Path:
        """Names the process that makes files of that `kind`: adapter or merged."""
        return self.export / f".{kind}.pid"

    def spec(self) -> RunSpec:
        """The settings it was started with. Raises StudioError where they can't be read."""
        return specs.load(self.path / "spec.yaml")

    def process(self) -> psutil.Process | None:
        """The worker, if it lives."""
        return files.read_process(self.pid)

    def judge(self, state: RunState, *, alive: bool, waits: bool, silent: bool) -> RunState:
        """Adds to the folded events what only the process and the queue can tell: whether it was
        `alive` before they were read, has been `silent` since it came, and whether the run
        `waits` for its turn."""
        # One that has said its end may take a moment to go.
        if waits and (not alive or (state.status in ENDED and not silent)):
            return replace(state, status="queued", problem=None)
        if alive:
            if state.status in (*ENDED, "created"):
                # One that has not said a word yet, or none that is left to say.
                return replace(state, status="starting", problem=None) if silent else state
            return replace(state, status="stopping") if self.stop.exists() else state
        if state.status in ENDED or (state.status == "created" and not self.pid.exists()):
            return state
        if self.wish() in AT_ONCE:
            return replace(state, status="stopped", paused=False)
        message, hint = self._death()
        if self.stop.exists():
            message = f"{message} {self._unsaved()}"
        problem = {"message": message, "hint": hint, "stage": state.stage or "starting"}
        if changes := self._exit().get("changes"):
            problem["changes"] = json.dumps(changes)
        return replace(state, status="interrupted", problem=problem)

    def wish(self) -> str:
        """What the stop file asks for: "pause", one of `AT_ONCE`, or "" for an end that keeps
        all."""
        try:
            return self.stop.read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def _unsaved(self) -> str:
        """What became of a stop that its worker did not live to heed."""
        asked = "pause" if self.wish() == "pause" else "stop"
        saved = checkpoints.steps(self.checkpoints)
        last = (
            f"The last checkpoint is of step {saved[-1]}." if saved else "There is no checkpoint."
        )
        return f"It was asked to {asked}, and could not save any more. {last}"

    def _death(self) -> tuple[str, str]:
        """How a worker ended that could not say it, as far as its parent or the log tells."""
        seen = self._exit()
        code, peak = seen.get("code"), seen.get("peak")
        size = peak if isinstance(peak, int | float) and peak < 1e18 else 0
        held = f"{size / 1e9:.1f} GB"
        smaller = "A smaller batch, a shorter max_length or 4-bit weights need less."
        if seen.get("oom"):
            return f"The system ended it for want of memory; it held {held}.", smaller
        if code == -signal.SIGKILL:
            hint = f"It held {held}. If nobody did that by hand, memory had run out. {smaller}"
            return "The worker was killed (signal 9).", hint
        if isinstance(code, int) and code < 0:
            return f"The worker was ended by signal {-code}.", self._last_words() or "See its log."
        return (
            "The worker ended without a word: it was killed, ran out of memory, or the machine "
            "went down.",
            self._last_words() or f"Look at the log. {smaller}",
        )

    def _exit(self) -> dict[str, Any]:
        """What the worker's parent saw of its end; nothing where it saw none."""
        try:
            seen = json.loads(self.exit.read_text(encoding="utf-8"))
        except files.UNREADABLE:
            return {}
        return seen if isinstance(seen, dict) else {}

    def _last_words(self) -> str:
        """The last line of the log, where it looks like an error."""
        lines = [line for line in self.read_log(4096).splitlines() if line.strip()]
        return f"Its last words: {lines[-1]}" if lines and "Error" in lines[-1] else ""

    def read_log(self, size: int = 20_000) -> str:
        """The last `size` bytes of the worker's log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - size))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def history(self) -> list[dict[str, object]]:
        """The chart's points, in order of step: what was logged at each, evaluation included."""
        points: dict[int, dict[str, object]] = {}
        for event in events.shown(list(events.read(self.events))):
            values = {k: v for k, v in event.items() if k not in ("type", "time")}
            points.setdefault(event["step"], {}).update(values)
        return [points[step] for step in sorted(points)]


@dataclass(frozen=True)
class _Seen:
    """How far a log was read, and what it came to. `files` are the marks of the files that the
    judgement rests on."""

    offset: int
    state: RunState
    judged: RunState
    files: tuple[Any, ...]


@dataclass
class RunStore:
    """The folder of runs. What it remembers is only how far it has read each log."""

    root: Path
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _queue: tuple[Any, tuple[str, ...]] = (None, ())

    def create(self, spec: RunSpec, name: str) -> Run:
        """A new run folder with its spec. Two made in the same second get different names."""
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:32] or "run"
        self.root.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for n in range(1, 1000):
            path = self.root / (f"{stamp}-{slug}" if n == 1 else f"{stamp}-{slug}-{n}")
            if path.exists():
                continue
            # Made aside: a run without its spec never exists.
            aside = Path(tempfile.mkdtemp(dir=self.root, prefix=NEW))
            try:
                files.write_text(aside / "spec.yaml", specs.dump(spec))
                aside.chmod(0o755)
                aside.rename(path)
            except OSError as error:
                shutil.rmtree(aside, ignore_errors=True)
                # Another made a run of that name in between.
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    continue
                raise
            return Run(path)
        raise StudioError("A thousand runs were made this second.", "Wait a second.")

    def get(self, run_id: str) -> Run:
        """The run of that id, or of the only id that ends or begins so. Raises StudioError."""
        if _ID.fullmatch(run_id) and (self.root / run_id).is_dir():
            return Run(self.root / run_id)
        found = []
        if run_id:
            found = [r for r in self.list() if r.id.startswith(run_id) or r.id.endswith(run_id)]
        if len(found) == 1:
            return found[0]
        if found:
            raise StudioError(
                f"{run_id} could be {len(found)} runs.",
                f"Say which: {', '.join(r.id for r in found)}.",
            )
        raise StudioError(
            f"There is no run {run_id or '(no name)'}.", "`python -m studio runs` lists them."
        )

    def list(self) -> list[Run]:
        """All runs, newest first."""
        if not self.root.is_dir():
            return []
        names = (p for p in self.root.iterdir() if _ID.fullmatch(p.name) and p.is_dir())
        return [Run(p) for p in sorted(names, key=lambda p: p.name, reverse=True)]

    def state(self, run: Run) -> RunState:
        """The run's state now; reads only what was added since this store last looked."""
        waits = run.id in self.waiting()
        marks = tuple(_mark(path) for path in (run.events, run.pid, run.stop, run.exit))
        seen = self._seen.get(run.id)
        # A process that is gone stays gone, and who comes after it writes another pid file.
        if seen and seen.judged.status in ENDED and not waits and seen.files == marks:
            return seen.judged
        offset, state = (seen.offset, seen.state) if seen else (0, RunState())
        if offset > events.size(run.events):
            # Cut off, or another file: what was read of it holds no more.
            offset, state = 0, RunState()
        # Whether the process lives is asked before the log is read the last time: a worker that
        # ends in between has written its end by then, and is not taken for one that vanished.
        alive = run.process() is not None
        for new, end in events.rest(run.events, offset):
            offset, state = end, events.fold(state, new)
        silent = alive and offset <= files.said_before(run.pid)
        judged = run.judge(state, alive=alive, waits=waits, silent=silent)
        self._seen[run.id] = _Seen(offset, state, judged, () if alive else marks)
        return judged

    def waiting(self) -> tuple[str, ...]:
        """The ids of the runs that wait, the next one first; read anew only where that changed."""
        mark = _mark(queue.path(self.root))
        if mark is None or self._queue[0] != mark:
            self._queue = (mark, tuple(queue.waiting(self.root)))
        return self._queue[1]

    def look(self, run: Run) -> RunState | None:
        """As `state`; None where the run can't be understood: one bad folder stops nobody."""
        try:
            return self.state(run)
        except files.UNREADABLE:
            return None

    def active(self) -> Run | None:
        """The run that is being trained now, if any."""
        states = ((run, self.look(run)) for run in self.list())
        return next((run for run, state in states if state and state.status in GOING), None)


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
