"""What this machine has: cores, memory, GPUs. Asked without torch."""

import shutil
import subprocess
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU; memory in bytes, `capability` as a number (8.0 is Ampere)."""

    name: str
    total: int
    used: int
    capability: float


@dataclass(frozen=True)
class Machine:
    """Memory in bytes. A run uses the first GPU, or else the CPU."""

    cores: int
    total: int
    available: int
    gpus: tuple[Gpu, ...]

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

    @property
    def native_bf16(self) -> bool:
        """Whether bfloat16 is what a run computes in by default here."""
        return bool(self.gpus) and self.gpus[0].capability >= 8.0


def gb(size: float) -> str:
    """Bytes as GB with one decimal below 10: "1.2", "24"."""
    value = size / 1e9
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def machine() -> Machine:
    """This machine, now."""
    memory = psutil.virtual_memory()
    cores = psutil.cpu_count(logical=True) or 1
    return Machine(cores, memory.total, memory.available, _gpus())


def _shared() -> tuple[int, int]:
    """Total and used bytes of the computer's own memory."""
    memory = psutil.virtual_memory()
    return memory.total, memory.total - memory.available


def _gpus() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
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
