"""What this machine has: cores, memory, GPUs. Asked without torch."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

from studio.plan import limits


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU; memory in bytes, `capability` as a number (8.0 is Ampere)."""

    name: str
    total: int
    used: int
    capability: float


@dataclass(frozen=True)
class Machine:
    """Cores and memory, in bytes, that this process may use. A run uses the first GPU, or else
    the CPU."""

    cores: int
    total: int
    available: int
    gpus: tuple[Gpu, ...]
    cpu_bfloat16: bool = False  # whether the CPU has instructions for it

    @property
    def words(self) -> str:
        """E.g. "CPU, 2 cores, 3.1 of 24 GB used" or "H100, 12 of 80 GB used"."""
        if self.gpus:
            gpu = self.gpus[0]
            more = f" (+{len(self.gpus) - 1} more)" if len(self.gpus) > 1 else ""
            return f"{gpu.name}{more}, {gb(gpu.used)} of {gb(gpu.total)} GB used"
        plural = "" if self.cores == 1 else "s"
        used = f"{gb(self.total - self.available)} of {gb(self.total)} GB used"
        return f"CPU, {self.cores} core{plural}, {used}"

    @property
    def free(self) -> int:
        """Bytes that a run could take where it will run."""
        return self.gpus[0].total - self.gpus[0].used if self.gpus else self.available


def gb(size: float) -> str:
    """Bytes as GB with one decimal below 10: "1.2", "24"."""
    value = size / 1e9
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def machine() -> Machine:
    """This machine, now; what nvidia-smi says may be two seconds old."""
    memory = psutil.virtual_memory()
    total, available = limits.memory() or (memory.total, memory.available)
    return Machine(
        _cores(),
        min(total, memory.total),
        min(available, memory.available),
        _chosen(_gpus()),
        _cpu_bfloat16(),
    )


@lru_cache(maxsize=1)
def _cpu_bfloat16() -> bool:
    """As far as Linux tells."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(told.split())


def _cores() -> int:
    """Cores that this process may run on, as far as its container's share of time goes."""
    # Not every system can tell.
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    else:
        usable = psutil.cpu_count(logical=True) or 1
    return max(1, min(usable, round(limits.cores() or usable)))


def first_visible() -> str:
    """The GPU that a run will use, by the number or the name that CUDA_VISIBLE_DEVICES has for it;
    empty or -1 where it hides all."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()


def _chosen(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The GPUs with the one first that a run will use: the first that CUDA_VISIBLE_DEVICES names.
    CUDA sees none where that is empty, or no GPU's number."""
    first = first_visible()
    if first.isdecimal():
        at = int(first)
        return (*gpus[at : at + 1], *gpus[:at], *gpus[at + 1 :]) if at < len(gpus) else ()
    return () if first in ("", "-1") else gpus


def _shared() -> tuple[int, int]:
    """Total and used bytes of the computer's own memory."""
    memory = psutil.virtual_memory()
    return memory.total, memory.total - memory.available


def _gpus() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    return () if program is None else _asked(program, int(time.monotonic() / 2))


@lru_cache(maxsize=1)
def _asked(program: str, moment: int) -> tuple[Gpu, ...]:
    """What nvidia-smi says at a `moment`, a number that changes every two seconds: the page asks
    at each change of a field."""
    query = "--query-gpu=name,memory.total,memory.used,compute_cap"
    try:
        out = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    for line in out.splitlines():
        # nvidia-smi counts in MiB.
        try:
            name, total, used, capability = (part.strip() for part in line.split(","))
            # A GPU that shares the computer's memory says [N/A].
            sizes = _shared() if total == "[N/A]" else (int(total) * 2**20, int(used) * 2**20)
            gpu = Gpu(name.removeprefix("NVIDIA "), *sizes, float(capability))
        except ValueError:
            continue
        found.append(gpu)
    return tuple(found)
