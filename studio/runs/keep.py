"""Keeping runs: what people write about them, what they take on the disk, deleting with a way
back, and a run as one file that another machine can open."""

import json
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from studio.errors import StudioError
from studio.runs import checkpoints, files, queue
from studio.runs.lock import try_lock
from studio.runs.store import NEW, Run, RunStore
from studio.spec.field import whole_text

TRASH = ".trash"
# Nobody takes longer to change a word; one that is stopped amidst it holds nobody up for ever.
_WORDS_S = 5.0
_KEPT_S = 7 * 24 * 3600.0
# No run takes so long to be made, or to be taken in.
_MADE_S = 24 * 3600.0
_ARCHIVED = ("spec.yaml", "events.jsonl", "worker.log", "exit.json", "meta.json", "adapter")


@dataclass(frozen=True)
class Meta:
    """What a person says about a run."""

    title: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""
    star: bool = False


def meta(run: Run) -> Meta:
    """What was said about the run; nothing where nothing readable is there."""
    try:
        held = json.loads((run.path / "meta.json").read_text(encoding="utf-8"))
        return _meta(held)
    except files.UNREADABLE:
        return Meta()


def _meta(held: Mapping[str, Any]) -> Meta:
    return Meta(
        title=whole_text(str(held.get("title") or ""))[:100],
        tags=tuple(dict.fromkeys(_tag(t) for t in held.get("tags") or () if _tag(t)))[:20],
        notes=whole_text(str(held.get("notes") or ""))[:20_000],
        star=held.get("star") is True,
    )


def _tag(text: Any) -> str:
    return re.sub(r"[\s,]+", "-", whole_text(str(text)).strip())[:30]


def describe(run: Run, **changes: Any) -> Meta:
    """Changes some of it (title, tags, notes, star); returns the whole. What others change
    meanwhile is kept as well."""
    with try_lock(run.path / "meta.lock", wait_s=_WORDS_S):
        new = _meta({**asdict(meta(run)), **changes})
        files.write_text(run.path / "meta.json", json.dumps(asdict(new), ensure_ascii=False))
    return new


def usage(run: Run) -> dict[str, int]:
    """Bytes on the disk by part: checkpoints, adapter, export, and the total."""
    parts = {p.name: _size(p) for p in (run.checkpoints, run.adapter, run.export)}
    return {**parts, "total": _size(run.path)}


def _size(folder: Path) -> int:
    """Bytes in the folder; a file of several names, as links make them, counts once."""
    seen: dict[tuple[int, int], int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                stat = os.lstat(Path(parent, name))
            except FileNotFoundError:
                continue
            seen[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(seen.values())


def delete(store: RunStore, run: Run) -> None:
    """Moves the run aside, from where `restore` brings it back for a week. Raises StudioError
    while it is going, or files are made of it."""
    with queue.changing(store.root) as waiting:
        if run.process() is not None:
            raise StudioError(f"The run {run.id} is still going.", "Stop it first.")
        if any(files.read_process(run.export_pid(kind)) for kind in ("adapter", "merged")):
            raise StudioError(
                f"The files of {run.id} are being made.", "Delete it when that is done."
            )
        if run.id in waiting:
            waiting.remove(run.id)
        trash = store.root / TRASH
        trash.mkdir(exist_ok=True)
        run.path.rename(trash / run.id)
        # The week begins now.
        os.utime(trash / run.id)


def restore(store: RunStore, run_id: str) -> Run:
    """Brings a deleted run back. Raises StudioError where it is not there any more."""
    found = store.root / TRASH / run_id
    if "/" in run_id or not run_id or run_id.startswith(".") or not found.is_dir():
        raise StudioError(f"{run_id} is not among the deleted runs.", "They are kept for a week.")
    if (store.root / run_id).exists():
        raise StudioError(f"There is a run {run_id} already.", "Delete or rename that one first.")
    found.rename(store.root / run_id)
    return Run(store.root / run_id)


def deleted(store: RunStore) -> list[Run]:
    """The deleted runs that can still be brought back, the last deleted first."""
    trash = store.root / TRASH
    found = [p for p in trash.iterdir() if p.is_dir()] if trash.is_dir() else []
    return [Run(p) for p in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)]


def purge(store: RunStore, *, now: float | None = None) -> None:
    """Removes for good what was deleted more than a week ago, and what was to become a run, had its
    maker not been killed."""
    now = now or time.time()
    for run in deleted(store):
        if run.path.stat().st_mtime < now - _KEPT_S:
            shutil.rmtree(run.path, ignore_errors=True)
    for left in store.root.glob(f"{NEW}*"):
        # One that has just become a run is there no more.
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < now - _MADE_S:
                shutil.rmtree(left, ignore_errors=True)


def forget(store: RunStore, run_id: str) -> int:
    """Removes a deleted run for good; returns the bytes freed. Raises StudioError where it is not
    among the deleted ones."""
    for run in deleted(store):
        if run.id == run_id:
            freed = _size(run.path)
            shutil.rmtree(run.path, ignore_errors=True)
            return freed
    raise StudioError(f"{run_id} is not among the deleted runs.", "They are kept for a week.")


def spare(run: Run, *, all_of_it: bool = False, quick: bool = False) -> list[Path]:
    """The checkpoints that can go. The newest whole one stays, which a resume needs, and the best,
    which early stopping goes back to; unless `all_of_it` is meant. `quick` believes the newest
    that has a manifest, without reading all of it."""
    folders = [
        run.checkpoints / f"checkpoint-{step}" for step in checkpoints.steps(run.checkpoints)
    ]
    if all_of_it:
        return folders
    if quick:
        newest = next((f for f in reversed(folders) if (f / "manifest.json").is_file()), None)
    else:
        newest, _ = checkpoints.newest(run.checkpoints)
    kept = {newest, _best(newest)} if newest else set()
    return [folder for folder in folders if folder not in kept]


def _best(newest: Path) -> Path | None:
    """The checkpoint that the newest one names as the best so far."""
    try:
        held = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))
        return newest.with_name(Path(held["best_model_checkpoint"]).name)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def clean(store: RunStore, run: Run, *, all_of_it: bool = False) -> int:
    """Removes the run's spare checkpoints; returns the bytes freed. Raises StudioError while the
    run is going or waits."""
    with queue.changing(store.root) as waiting:
        if run.process() is not None or run.id in waiting:
            raise StudioError(
                f"The run {run.id} is going, or waits for its turn.", "Clean up when it has ended."
            )
        freed = 0
        for folder in spare(run, all_of_it=all_of_it):
            freed += _size(folder)
            # In one step: a checkpoint that is half deleted would look like a damaged one.
            old = folder.with_name(f".old-{folder.name}")
            folder.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        return freed


def size(paths: Iterable[Path]) -> int:
    """Bytes in these folders."""
    return sum(_size(path) for path in paths)


def pack(run: Run, target: Path) -> None:
    """Writes the run as one file: its settings, events, log, notes and adapter; no checkpoints,
    which only a run of the same machine can go on from."""
    aside = target.with_name(f".{target.name}.part")
    try:
        with tarfile.open(aside, "w") as archive:
            for name in _ARCHIVED:
                if (run.path / name).exists():
                    archive.add(run.path / name, f"{run.id}/{name}", filter=_plain)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Files and folders only, without whose they were."""
    if not (member.isfile() or member.isdir()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def unpack(store: RunStore, archive: Path) -> Run:
    """Makes a run of a file that `pack` wrote. Raises StudioError where it is none."""
    choose = "Choose a file that “Take the run along” made."
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=store.root, prefix=NEW, ignore_cleanup_errors=True
        ) as made:
            aside = Path(made)
            _extract(archive, aside)
            found = [p for p in aside.iterdir() if (p / "spec.yaml").is_file()]
            if len(found) != 1 or not (found[0] / "events.jsonl").is_file():
                raise StudioError(f"{archive.name} holds no run.", choose)
            return _take_in(store, found[0])
    except StudioError:
        raise
    except OSError as error:
        raise StudioError(
            f"{archive.name} can't be taken in: {error.strerror or error}.",
            f"Free some disk, if that is full. {choose}",
        ) from None
    # For one that is damaged, each compression has errors of its own.
    except Exception as error:  # noqa: BLE001
        raise StudioError(f"{archive.name} is no archive of a run: {error}.", choose) from None


def _extract(archive: Path, folder: Path) -> None:
    """What `pack` would have put there, and nothing else: no links, no pid, nothing that stops."""
    with tarfile.open(archive, "r:*") as held:
        members = [
            member
            for member in held.getmembers()
            if (member.isfile() or member.isdir())
            and PurePosixPath(member.name).parts[1:2] in {(name,) for name in _ARCHIVED}
        ]
        if sum(member.size for member in members) > shutil.disk_usage(folder).free:
            raise StudioError(
                f"{archive.name} is larger than the disk has room for.", "Free some disk."
            )
        held.extractall(folder, members, filter="data")


def _take_in(store: RunStore, folder: Path) -> Run:
    spec = Run(folder).spec()
    named = re.fullmatch(r"[0-9]{8}-[0-9]{6}-([a-z0-9-]{1,40})", folder.name)
    if named and not (store.root / folder.name).exists():
        folder.rename(store.root / folder.name)
        return Run(store.root / folder.name)
    run = store.create(spec, named[1] if named else "imported")
    for path in folder.iterdir():
        if path.name != "spec.yaml":
            path.rename(run.path / path.name)
    return run
