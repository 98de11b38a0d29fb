"""The audit of a data set: a process of its own that several can watch, and its report, which
counts for the very settings and files that it was made with and for no others.

What belongs to one audit lies in a folder named after all that its report depends on. Where that is
not all on this disk yet, as a model that has to be fetched, the report is put where it is looked
for afterwards.
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from studio import spec as specs
from studio.data import fingerprint
from studio.data.cache import key, stamp
from studio.data.findings import Report, blocking
from studio.errors import StudioError
from studio.jobs.spawn import alone, spawn, writing
from studio.plan.catalogue import CATALOGUE
from studio.plan.model import folder_of, is_hub_id
from studio.runs import ENDED, RunState, events, files, fold
from studio.settings import Settings
from studio.spec import ModelSection, RunSpec

_LOOK_S = 0.15
_KEPT = 50
# Part of the name: another version counts other things.
_VERSION = 3
# What a tokenizer is made of, and the configuration with the length of its context.
_TOKENIZER = (".json", ".jinja", ".model", ".txt")


def audit(settings: Settings, spec: RunSpec) -> Iterator[RunState]:
    """Starts the audit, or watches one that goes on already; yields its states until it has ended.
    Done already, it ends at once. Raises StudioError where it fails or was stopped."""
    if audit_result(settings, spec) is not None:
        return
    folder = audit_folder(settings, spec)
    with writing(folder), alone(folder.parent / "lock"):
        if files.read_process(folder / "pid") is None:
            _tidy(folder.parent, folder)
            for left in ("events.jsonl", "stop", "pid"):
                (folder / left).unlink(missing_ok=True)
            files.write_text(folder / "spec.json", json.dumps(specs.tree(spec)))
            process = spawn(["audit", str(folder)], folder / "worker.log", settings)
            with suppress(psutil.NoSuchProcess):
                files.write_process(folder / "pid", process.pid)
    yield from _watch(folder)


def audit_result(settings: Settings, spec: RunSpec) -> Report | None:
    """The report for these settings and these files, if it was made. Raises StudioError where the
    data is not there."""
    try:
        path = audit_folder(settings, spec) / "report.json"
        return Report.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def refuse_found(settings: Settings, spec: RunSpec) -> None:
    """Raises StudioError where an audit with these settings has found what would ruin the run, and
    that is not accepted. Rows that were not checked are left to the run, which looks at all."""
    report = None
    # Where the data can't be found, the run says so.
    with suppress(StudioError):
        report = audit_result(settings, spec)
    stopping = blocking(report.findings, spec.data.accepted) if report else []
    if stopping:
        more = f" And {len(stopping) - 1} more of that kind." if len(stopping) > 1 else ""
        named = ", ".join(finding.id for finding in stopping)
        raise StudioError(
            f"{stopping[0].words}{more}",
            "Mend or accept it on the Data tab, under the findings; in a recipe, accept it by "
            f"data.accepted: [{named}].",
        )


def keep_report(settings: Settings, spec: RunSpec, folder: Path, report: Report) -> None:
    """Keeps the report that was made of what `folder` is named after. Raises StudioError where a
    file has changed since."""
    if audit_folder(settings, spec) != folder:
        raise StudioError(
            "The data or the model was changed while its rows were being checked.",
            "Check them again.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "report.json", report.to_json())


def audit_going(settings: Settings, spec: RunSpec) -> bool:
    """Whether it is being made now."""
    return files.read_process(audit_folder(settings, spec) / "pid") is not None


def stop_audit(settings: Settings, spec: RunSpec) -> None:
    """Asks the audit to end; what it has counted so far is not kept."""
    folder = audit_folder(settings, spec)
    if files.read_process(folder / "pid") is not None:
        (folder / "stop").touch()


def audit_folder(settings: Settings, spec: RunSpec) -> Path:
    """The folder of these settings and files, named after everything that the report depends on."""
    found = _model(settings, spec.model)
    made_of = sorted(p for p in found.iterdir() if p.suffix in _TOKENIZER) if found else []
    told = [
        _VERSION,
        fingerprint(spec.data, settings),
        spec.model.name_or_path,
        spec.model.revision,
        [stamp(path) for path in made_of],
        spec.train.max_length,
        spec.train.trainer,
        spec.train.seed,
        spec.train.packing,
        spec.train.packing_strategy,
        spec.cpt.add_eos_token,
    ]
    return settings.home / "audits" / key(*told)


def _model(settings: Settings, section: ModelSection) -> Path | None:
    """The folder with the model's tokenizer, where it is on this disk."""
    name, revision = section.name_or_path, section.revision
    if revision is None and (folder := folder_of(name, settings)) is not None:
        return folder
    entry = CATALOGUE.get(name)
    if not is_hub_id(repo := entry.hub_id if entry else name):
        return None
    # Here: a model on this disk needs no Hub.
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _watch(folder: Path) -> Iterator[RunState]:
    state, offset = RunState(), 0
    while state.status not in ENDED:
        # Before the log is read: a worker that ends in between has written its end by then.
        alive = files.read_process(folder / "pid") is not None
        new, offset = events.tail(folder / "events.jsonl", offset)
        state = fold(state, new)
        if state.problem:
            raise StudioError(state.problem["message"], state.problem["hint"])
        if state.status == "stopped":
            raise StudioError("The check of the rows was stopped.", "Start it again when you like.")
        if not alive and not new and state.status not in ENDED:
            raise StudioError(
                "The check of the rows ended without a word.",
                f"It may have run out of memory; see {folder / 'worker.log'}.",
            )
        yield state
        if state.status not in ENDED:
            time.sleep(_LOOK_S)


def _tidy(root: Path, ours: Path) -> None:
    """Removes all but the newest audits, and what a killed one has left."""
    for left in ours.glob("rows-*"):
        shutil.rmtree(left, ignore_errors=True)
    found = [path for path in root.iterdir() if path.is_dir() and path != ours]
    for path in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)[_KEPT:]:
        if files.read_process(path / "pid") is None:
            shutil.rmtree(path, ignore_errors=True)
