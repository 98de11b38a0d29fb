"""Work that outlives the page: runs, exports and the model child."""

from studio.jobs.again import branch, extend, resume
from studio.jobs.audit import audit, audit_going, audit_result, refuse_found, stop_audit
from studio.jobs.bench import Bench
from studio.jobs.conduct import ensure, make_ready
from studio.jobs.export import export, refuse
from studio.jobs.final import final
from studio.jobs.index import first_rows, index, stop_index
from studio.jobs.plan import plan_recipe
from studio.jobs.preview import batch, code, find, lengths, preview, tree
from studio.jobs.probe import probe, stop_probe
from studio.jobs.runs import SIDES, chat, follow, pause, start, stop
from studio.jobs.spawn import writing
from studio.jobs.sweep import combinations, sweep
from studio.jobs.token import keep_token
from studio.jobs.waiting import enqueue, move, remove, waits_for
from studio.jobs.words import words
from studio.runs.control import ask

__all__ = [
    "SIDES",
    "Bench",
    "ask",
    "audit",
    "audit_going",
    "audit_result",
    "batch",
    "branch",
    "chat",
    "code",
    "combinations",
    "enqueue",
    "ensure",
    "export",
    "extend",
    "final",
    "find",
    "first_rows",
    "follow",
    "index",
    "keep_token",
    "lengths",
    "make_ready",
    "move",
    "pause",
    "plan_recipe",
    "preview",
    "probe",
    "refuse",
    "refuse_found",
    "remove",
    "resume",
    "start",
    "stop",
    "stop_audit",
    "stop_index",
    "stop_probe",
    "sweep",
    "tree",
    "waits_for",
    "words",
    "writing",
]
