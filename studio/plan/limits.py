"""What a container leaves of the machine: the limits of control groups (version 2)."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def cores(root: Path = CGROUPS, own: Path = _OWN) -> float | None:
    """Cores' worth of time that this process may use, or None without a limit."""
    found = []
    for group in _groups(root, own):
        # "150000 100000" is one and a half cores; "max 100000" is no limit.
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (group / "cpu.max").read_text().split()
            found.append(int(quota) / int(period))
    return min(found, default=None)


def memory(root: Path = CGROUPS, own: Path = _OWN) -> tuple[int, int] | None:
    """Total and available bytes under the tightest limit, or None without one."""
    found = []
    for group in _groups(root, own):
        with suppress(OSError, ValueError):
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text()) - _reclaimable(group)
            found.append((limit, max(0, limit - used)))
    return min(found, key=lambda pair: pair[1], default=None)


def _reclaimable(group: Path) -> int:
    """Bytes of files read a while ago, which the kernel counts as used and gives up at need."""
    with suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                return int(line.split()[1])
    return 0


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """This process's group and those around it: each may set a limit."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # Version 2 is the line that names no controller.
        if line.startswith("0::/"):
            group = root / line.removeprefix("0::/")
            yield from (g for g in (group, *group.parents) if g.is_relative_to(root))
