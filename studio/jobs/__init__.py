"""Work that outlives the page: runs, exports and the model child."""

from studio.jobs.bench import Bench
from studio.jobs.runs import SIDES, chat, export, follow, preview, start, stop, words

__all__ = ["SIDES", "Bench", "chat", "export", "follow", "preview", "start", "stop", "words"]
