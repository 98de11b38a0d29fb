"""The child process's entry: python -m studio.worker COMMAND; see `_parser`.

Whatever happens in here ends as an event that says so, and as a traceback in the log. torch is
imported only inside what turns a crash into such an event.
"""

import argparse
import faulthandler
import json
import math
import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NoReturn

from studio.engine.explain import explain, tell
from studio.engine.report import Reporter, Stopped
from studio.errors import StudioError
from studio.plan.catalogue import CATALOGUE, EMBEDDED
from studio.plan.device import device_lock, gpu_lock
from studio.plan.machine import machine
from studio.runs import Run, checkpoints, events, files, queue
from studio.runs.control import Wishes
from studio.runs.lock import try_lock
from studio.settings import Settings
from studio.spec import parse

# How long a worker that has ended may take to go.
_GONE_S = 30.0
# How many rows of a set are shown while it is downloaded.
_FIRST = 50
_ENVIRONMENT = {
    # Idle threads that spin take the cores from whatever else runs: a factor of two on two cores.
    "OMP_WAIT_POLICY": "PASSIVE",
    # But not to sleep at once: a small product is over sooner than a thread wakes up. Four times
    # as many are no faster alone and half as fast beside another busy process.
    # With huge pages on top a step of the embedded model takes 0.7 of the time.
    "GOMP_SPINCOUNT": "5000",
    "THP_MEM_ALLOC_ENABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    # Of rows of many lengths the allocator otherwise keeps half as much again as it uses.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # nvidia-smi's order, so that GPU 0 is the one that the page shows.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "CUDA_VISIBLE_DEVICES": "0",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command; 0 only if it did what was asked."""
    arguments = _parser().parse_args(argv)
    fill_environment(os.environ)
    settings = Settings.from_env()
    match arguments.command:
        case "train":
            return _train(Run(arguments.run), settings, arguments.lock)
        case "spare":
            return _spare(arguments.line, settings)
        case "export":
            return _export(Run(arguments.run), arguments.format, arguments.out, settings)
        case "bench":
            return _bench(settings)
        case "index":
            return _index(arguments.folder, settings)
        case "audit":
            return _audit(arguments.folder, settings)
        case "conduct":
            return _conduct(settings)
        case _:
            return _setup(settings)


def fill_environment(env: MutableMapping[str, str]) -> None:
    """Adds what is not set there yet, and keeps one GPU of several."""
    for name, value in _ENVIRONMENT.items():
        env.setdefault(name, value)
    # torch counts the computer's cores, not a container's share of them: more threads than cores
    # wait for each other.
    env.setdefault("OMP_NUM_THREADS", str(machine().cores))
    # One process trains on one GPU; with more in sight, the trainer refuses.
    env["CUDA_VISIBLE_DEVICES"] = env["CUDA_VISIBLE_DEVICES"].split(",")[0].strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m studio.worker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train the run in this folder")
    train.add_argument("run", type=_folder)
    train.add_argument("--lock", type=int, help="the run's lock, as a file that was inherited")
    spare = commands.add_parser("spare", help="load the libraries and wait for a run")
    spare.add_argument("--line", type=int, required=True, help="the socket on which it comes")
    export = commands.add_parser("export", help="write a run's adapter or merged model")
    export.add_argument("run", type=_folder)
    export.add_argument("--format", choices=("adapter", "merged"), required=True)
    export.add_argument("--out", type=lambda text: Path(text).resolve(), required=True)
    commands.add_parser("bench", help="serve preview and chat")
    commands.add_parser("conduct", help="start the waiting runs one by one")
    audit = commands.add_parser("audit", help="look at all rows of this folder's spec")
    audit.add_argument("folder", type=_folder)
    index = commands.add_parser("index", help="make the data of this folder's section ready")
    index.add_argument("folder", type=_folder)
    commands.add_parser("setup", help="get the embedded model")
    return parser


def _folder(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path}")
    return path


def _train(run: Run, settings: Settings, lock: int | None) -> int:
    try:
        with nullcontext(True) if lock else try_lock(run.path / "lock", _GONE_S) as ours:
            if ours:
                return _train_alone(run, settings)
        print("Another worker has this run.", file=sys.stderr)
        return 1
    finally:
        # Whoever waits is started, though no page looks and the conductor may be gone.
        with suppress(StudioError, OSError):
            from studio.jobs import ensure

            ensure(settings)


def _spare(line: int, settings: Settings) -> int:
    """Loads what a run needs, waits for one, and trains it as if it had been started for that."""
    with socket.socket(fileno=line) as heard:
        try:
            from studio.engine.ready import load

            load()
        # The run meets it again, and says it where people look.
        except Exception:  # noqa: BLE001
            traceback.print_exc()
        told, lent, *_ = socket.recv_fds(heard, 65_536, 2)
    if not told:
        # Whoever was to tell is gone, or needs nobody.
        return 0
    out, lock = lent
    for number in (1, 2):
        os.dup2(out, number)
    os.close(out)
    return _train(Run(Path(json.loads(told))), settings, lock)


def _train_alone(run: Run, settings: Settings) -> int:
    """Both locks are held until this process ends; the kernel takes them back however that
    happens."""
    report = Reporter(run.events, stop=run.stop)

    def work() -> None:
        said = run.events.stat().st_size if run.events.exists() else 0
        report.keep_reserve()
        files.write_process(run.pid, os.getpid(), said)
        # Whoever started it may have been killed before it could do this.
        with queue.changing(run.path.parent) as waiting:
            waiting[:] = [other for other in waiting if other != run.id]
        with _device(settings, report) as ours:
            if not ours:
                raise StudioError(
                    "Another run is being trained on this machine.",
                    "Stop it, or put this one into the queue.",
                )
            # Before the seconds that the libraries take: a recipe that can't be read needs none.
            run.spec()
            _begin_again(run, report)
            report.stage("loading the libraries")
            from studio.engine.train import train

            train(run, settings, report)

    return _reported(report, work, run, settings)


@contextmanager
def _device(settings: Settings, report: Reporter) -> Iterator[bool]:
    """Has this worker alone on its device; whether it is. Raises Stopped while it waits."""
    while True:
        # One that has said its end takes a moment to go.
        with try_lock(device_lock(settings), _GONE_S) as free:
            if free or gpu_lock() is None:
                yield free is not None
                return
        # Another home's conductor was as quick as ours.
        report.stage("waiting for the GPU, which a run of another home has")


def _begin_again(run: Run, report: Reporter) -> None:
    """Says from which step a run that ended goes on; one that just begins says nothing."""
    checkpoints.sweep(run.checkpoints)
    files.sweep(run.adapter)
    Wishes(run).clear()
    if not run.events.exists():
        return
    found, wrong = checkpoints.newest(run.checkpoints)
    step = checkpoints.step_of(found) if found else 0
    changes = events.changes(events.read(run.events), step) if found else []
    report.event("attempt", step=step, changes=changes)
    for words in wrong:
        report.note(words)


def _export(run: Run, kind: str, out: Path, settings: Settings) -> int:
    out.parent.mkdir(parents=True, exist_ok=True)
    report = Reporter(out.with_name(f"{out.name}.events.jsonl"))

    def work() -> None:
        # One at a time, even where whoever started the first one was killed at that moment.
        with try_lock(run.export / f".{kind}.worker", math.inf):
            files.sweep(out)
            if not out.is_dir() or out != run.export / kind:
                from studio.engine.export import export

                export(run, kind, out, settings, report)
        report.end("finished")

    return _reported(report, work)


def _index(folder: Path, settings: Settings) -> int:
    report = Reporter(folder / "events.jsonl", stop=folder / "stop")

    def work() -> None:
        from studio.data import open_data, peek_ahead
        from studio.runs import files
        from studio.spec import DataSection

        text = (folder / "section.json").read_text(encoding="utf-8")
        section = DataSection.model_validate_json(text)
        # What is wrong with them is told by the reading of all.
        with suppress(StudioError):
            if first := peek_ahead(section, settings, _FIRST, report):
                files.write_text(folder / "first.json", json.dumps(first.tree()))
        open_data(section, settings, report)
        report.end("finished")

    return _reported(report, work)


def _reported(
    report: Reporter,
    work: Callable[[], None],
    run: Run | None = None,
    settings: Settings | None = None,
) -> int:
    """Does the work; a stop or a crash becomes its last event."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        work()
    except Stopped:
        with suppress(OSError):
            report.end("stopped", **({"paused": True} if run and run.wish() == "pause" else {}))
    # The whole point of this function: nothing may end a worker without a word.
    except BaseException as error:  # noqa: BLE001
        if run and settings:
            told = tell(error, report.current, run, settings)
        else:
            told = dict(zip(("message", "hint"), explain(error, report.current), strict=True))
        # Where not even the log of events can be written, its process's end has to do.
        report.drop_reserve()
        with suppress(OSError):
            report.end("failed", **told, stage=report.current)
        with suppress(OSError):
            traceback.print_exc()
        return 1
    return 0


def _stop(number: int, frame: object) -> None:
    # A second TERM would interrupt the writing of the end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


def _bench(settings: Settings) -> int:
    from studio.engine.bench import serve

    signal.signal(signal.SIGTERM, _stop)
    try:
        serve(settings)
    except Stopped:
        pass
    # As above: the log has to say why there is no bench.
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        return 1
    # A thread that is inside torch while the interpreter takes itself apart would crash it. All
    # that has to be tidy is tidy by now, and the kernel takes the memory and the lock back.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _audit(folder: Path, settings: Settings) -> int:
    report = Reporter(folder / "events.jsonl", stop=folder / "stop")

    def work() -> None:
        report.stage("loading the libraries")
        from studio.engine.audit import Audit
        from studio.jobs.audit import audit_folder, keep_report

        spec = parse(json.loads((folder / "spec.json").read_text(encoding="utf-8")))
        opened = Audit.open(spec, settings, report)
        # Now that all of it is on this disk.
        place = audit_folder(settings, spec)
        keep_report(settings, spec, place, opened.run(report, folder))
        report.end("finished")

    return _reported(report, work)


def _conduct(settings: Settings) -> int:
    from studio.jobs.conduct import conduct

    conduct(settings)
    return 0


def _setup(settings: Settings) -> int:
    """Gets the embedded model, with a bar where somebody looks."""
    bar = _Bar()
    signal.signal(signal.SIGTERM, _stop)
    try:
        from studio.engine.embedded import is_prepared, prepare

        if not is_prepared(CATALOGUE[EMBEDDED], settings):
            settings.models.mkdir(parents=True, exist_ok=True)
            prepare(CATALOGUE[EMBEDDED], settings, bar)
            bar.close()
        print(f"{EMBEDDED} is ready.")
    except (Stopped, KeyboardInterrupt):
        bar.close()
        print("Stopped.", file=sys.stderr)
        return 1
    # As above: somebody waits in front of this terminal for a sentence.
    except Exception as error:  # noqa: BLE001
        bar.close()
        if not isinstance(error, StudioError | OSError):
            traceback.print_exc()
        message, hint = explain(error, "getting the model")
        print(f"{message}\n{hint}", file=sys.stderr)
        return 1
    return 0


class _Bar:
    """Progress on one line of a terminal; a line a stage where there is none."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = ""

    def stage(self, text: str, done: int | None = None, total: int | None = None) -> None:
        """Redraws the line."""
        if not self._terminal:
            if text != self._last:
                print(text, file=sys.stderr, flush=True)
        else:
            width = shutil.get_terminal_size().columns
            share = f" [{'#' * (20 * done // total):<20}]" if done is not None and total else ""
            print(f"\r\033[K{(text + share)[: width - 1]}", end="", file=sys.stderr, flush=True)
        self._last = text

    def note(self, text: str) -> None:
        """A line of its own."""
        self.close()
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the line."""
        if self._terminal and self._last:
            print(file=sys.stderr)
        self._last = ""


def _leave(status: int) -> NoReturn:
    """Ends this process. One that hung while it goes would keep its locks, and all who wait for
    them waiting."""
    faulthandler.dump_traceback_later(_GONE_S, exit=True)
    sys.exit(status)


if __name__ == "__main__":
    _leave(main())
