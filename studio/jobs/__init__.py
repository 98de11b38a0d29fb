"""Work that outlives the page: runs, exports and the model child."""

from studio.jobs.audit import audit, audit_going, audit_result, stop_audit
from studio.jobs.bench import Bench
from studio.jobs.conduct import ensure
from studio.jobs.export import export
from studio.jobs.index import index, stop_index
from studio.jobs.preview import batch, find, lengths, preview
from studio.jobs.runs import SIDES, chat, follow, start, stop
from studio.jobs.spawn import writing
from studio.jobs.waiting import enqueue, move, remove, resume
from studio.jobs.words import words

__all__ = [
    "SIDES",
    "Bench",
    "audit",
    "audit_going",
    "audit_result",
    "batch",
    "chat",
    "enqueue",
    "ensure",
    "export",
    "find",
    "follow",
    "index",
    "lengths",
    "move",
    "preview",
    "remove",
    "resume",
    "start",
    "stop",
    "stop_audit",
    "stop_index",
    "words",
    "writing",
]
