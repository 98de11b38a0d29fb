"""Files that are whole or absent, and the identity of a process."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

import psutil

# What may be raised by a file that another version wrote, another program, or a bad disk.
UNREADABLE = (
    OSError,
    TypeError,
    ValueError,
    KeyError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
# In the names of folders that are not whole yet, so that nobody else's are taken for such.
_MAKING = ".making-"


def write_text(path: Path, text: str) -> None:
    """Replaces the file in one step: readers see the old text or the new, never a half."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill beside `path`, which takes the place of `path` once it is complete. Where it
    is to lie has to be there: a run that was deleted meanwhile is not made again by its export."""
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}{_MAKING}"))
    try:
        yield aside
        aside.chmod(0o755)
        for made in aside.rglob("*"):
            sync(made)
        # The old one is gone only when the new one has its name.
        old = Path(f"{aside}.old")
        if path.is_dir():
            path.rename(old)
        aside.replace(path)
        sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sweep(path: Path) -> None:
    """Removes what was left beside `path` by one that was to take its place, and puts back an old
    one that had made room for it. Only for who alone writes there."""
    for left in path.parent.glob(f".{escape(path.name)}{_MAKING}*"):
        if left.name.endswith(".old") and not path.exists():
            left.rename(path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def sync(path: Path) -> None:
    """Has the disk hold the file or the folder's names, as they are now."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_process(path: Path, pid: int, said: int = 0) -> None:
    """Stores who works here: the pid with the process's birth, since pids are used again, and how
    many bytes of events had been `said` before it came."""
    write_text(path, json.dumps({"pid": pid, "birth": _birth(pid), "said": said}))


def read_process(path: Path) -> psutil.Process | None:
    """The living process that `write_process` stored, or None."""
    stored = _stored(path)
    try:
        pid = int(stored["pid"])
        if _birth(pid) != stored["birth"]:
            return None
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except (*UNREADABLE, psutil.Error):
        return None


def said_before(path: Path) -> int:
    """The `said` of `write_process`; 0 where nothing readable is stored."""
    said = _stored(path).get("said")
    return said if isinstance(said, int) else 0


def _stored(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except UNREADABLE:
        return {}
    return stored if isinstance(stored, dict) else {}


def _birth(pid: int) -> str:
    """When the process began, as no other of any machine does. A clock that is set anew changes
    it nowhere: Linux counts from the boot, which has a name of its own. Raises psutil.Error."""
    if pid <= 0:
        raise psutil.NoSuchProcess(pid)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The name in brackets may hold anything; after it stand the state and its followers.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return f"{boot} {fields[19]}"
    except (OSError, IndexError):
        return f"{psutil.Process(pid).create_time():.2f}"
