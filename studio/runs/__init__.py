"""Runs as folders on disk: their events, their state, their processes."""

from studio.runs.events import ENDED, Event, RunState, fold
from studio.runs.store import GOING, Run, RunStore

__all__ = ["ENDED", "GOING", "Event", "Run", "RunState", "RunStore", "fold"]
