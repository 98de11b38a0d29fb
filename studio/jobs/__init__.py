"""Work that outlives the page: runs, exports and the model child."""

from studio.jobs.bench import Bench
from studio.jobs.export import export
from studio.jobs.runs import SIDES, chat, follow, preview, start, stop
from studio.jobs.spawn import writing
from studio.jobs.words import words

__all__ = [
    "SIDES",
    "Bench",
    "chat",
    "export",
    "follow",
    "preview",
    "start",
    "stop",
    "words",
    "writing",
]
