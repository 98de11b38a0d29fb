"""GPUs by name: their memory, what their products reach, and how fast their memory is.

`product` is the dense bfloat16 figure of the makers' data sheets (float16 before Ampere), of which
a large product reaches about four fifths: 793 of 989 TFLOP/s were measured on an H100.
"""

import re
from dataclasses import dataclass

from studio.plan.machine import Gpu, Machine

REACHED = 0.80


@dataclass(frozen=True)
class Kind:
    """Memory in GiB, dense 16-bit product in TFLOP/s, memory bandwidth in GB/s."""

    memory: float
    product: float
    bandwidth: float
    capability: float

    @property
    def flops(self) -> float:
        """Flops a second that a large product reaches."""
        return self.product * 1e12 * REACHED


# By the words that all stand in nvidia-smi's name; the first that fits is taken.
_KINDS: tuple[tuple[str, Kind], ...] = (
    ("b200", Kind(179.0, 2250, 8000, 10.0)),
    ("h200", Kind(139.8, 989, 4800, 9.0)),
    ("h100-nvl", Kind(93.6, 835, 3900, 9.0)),
    ("h100-pcie", Kind(79.6, 756, 2000, 9.0)),
    ("h100", Kind(79.6, 989, 3350, 9.0)),
    ("gh200", Kind(95.6, 989, 4000, 9.0)),
    ("a100-40gb", Kind(39.4, 312, 1555, 8.0)),
    ("a100", Kind(79.3, 312, 2000, 8.0)),
    ("l40s", Kind(44.5, 362, 864, 8.9)),
    ("l40", Kind(44.5, 181, 864, 8.9)),
    ("l4", Kind(22.5, 121, 300, 8.9)),
    ("a10g", Kind(22.0, 70, 600, 8.6)),
    ("a10", Kind(22.0, 125, 600, 8.6)),
    ("a40", Kind(44.4, 150, 696, 8.6)),
    ("a6000", Kind(47.5, 155, 768, 8.6)),
    ("a5000", Kind(23.6, 111, 768, 8.6)),
    ("5090", Kind(31.8, 210, 1790, 12.0)),
    ("4090", Kind(23.6, 165, 1008, 8.9)),
    ("4080", Kind(15.6, 97, 717, 8.9)),
    ("4070", Kind(11.6, 58, 504, 8.9)),
    ("4060", Kind(7.6, 30, 272, 8.9)),
    ("3090", Kind(23.6, 71, 936, 8.6)),
    ("3080", Kind(9.6, 60, 760, 8.6)),
    ("3060", Kind(11.6, 25, 360, 8.6)),
    ("v100", Kind(31.7, 125, 900, 7.0)),
    ("p100", Kind(15.9, 19, 732, 6.0)),
    ("t4", Kind(14.6, 65, 300, 7.5)),
    ("2080", Kind(10.6, 54, 616, 7.5)),
)
# What is assumed of one that nobody has listed: a card of the middle.
_UNKNOWN = Kind(0, 120, 700, 8.0)
NAMES: tuple[str, ...] = tuple(words for words, _ in _KINDS)


def kind_of(name: str) -> Kind:
    """What is known of a GPU by its name: nvidia-smi's, or one such as "h100-80gb"."""
    return _found(name) or _UNKNOWN


def _found(name: str) -> Kind | None:
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    return next((kind for held, kind in _KINDS if set(held.split("-")) <= words), None)


def with_gpu(machine: Machine, name: str) -> Machine | None:
    """The machine, if it had this GPU, unused; None for a GPU that is not known here. A size in its
    name, as in "a100-40gb" or "rtx-3080-12gb", counts."""
    kind = _found(name)
    if kind is None:
        return None
    size = re.search(r"(\d+)\s*g", name.lower())
    memory = int(kind.memory * 2**30)
    # Those that are listed by their size say what is left of it for a program.
    if size and abs(int(size[1]) - kind.memory) > 0.08 * int(size[1]):
        memory = int(0.985 * int(size[1]) * 2**30)
    gpu = Gpu(name.upper(), memory, 0, kind.capability)
    return Machine(machine.cores, machine.total, machine.available, (gpu,))
