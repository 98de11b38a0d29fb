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
        return f"CPU, {self.cores} core{plural}, {gb(self.total - self.available)} of {gb(self.total)} GB used"

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
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def machine() -> Machine:
    """This machine, now."""
    memory = psutil.virtual_memory()
    cores = psutil.cpu_count(logical=True) or 1
    return Machine(cores, memory.total, memory.available, _gpus())


def _gpus() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = "--query-gpu=name,memory.total,memory.used,compute_cap"
    try:
        out = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=5, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    for line in out.splitlines():
        name, total, used, capability = (part.strip() for part in line.split(","))
        # nvidia-smi counts in MiB.
        found.append(Gpu(name.removeprefix("NVIDIA "), int(total) * 2**20, int(used) * 2**20, float(capability)))
    return tuple(found)
