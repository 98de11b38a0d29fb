"""Data: rows from wherever they are, what they mean, what is done to them, how they are split.

No torch here, and no file is ever read as a whole where it could be large.
"""

from studio.data.convert import to_example
from studio.data.example import (
    SOFT_FAULTS,
    Broken,
    Example,
    Kind,
    Message,
    Row,
    RowError,
    likeness,
    soft_faults,
    texts,
)
from studio.data.kinds import SUFFIXES
from studio.data.layouts import Layout, detect
from studio.data.opened import Data
from studio.data.opening import confine, fingerprint, is_ready, open_data
from studio.data.peeking import Peek, peek, peek_ahead
from studio.data.progress import Report, Silent
from studio.data.prompts import FORMATS
from studio.data.sources import BUNDLED, locate
from studio.data.split import Parts
from studio.data.table import Numbers

__all__ = [
    "BUNDLED",
    "FORMATS",
    "SOFT_FAULTS",
    "SUFFIXES",
    "Broken",
    "Data",
    "Example",
    "Kind",
    "Layout",
    "Message",
    "Numbers",
    "Parts",
    "Peek",
    "Report",
    "Row",
    "RowError",
    "Silent",
    "confine",
    "detect",
    "fingerprint",
    "is_ready",
    "likeness",
    "locate",
    "open_data",
    "peek",
    "peek_ahead",
    "soft_faults",
    "texts",
    "to_example",
]
