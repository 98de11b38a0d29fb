"""Data: rows from wherever they are, their layout, and the split. No torch here."""

from studio.data.check import check_rows
from studio.data.layouts import Layout, Message, detect, to_messages
from studio.data.read import BUNDLED, SUFFIXES, Rows, iterate, load_rows, locate, split

__all__ = [
    "BUNDLED",
    "SUFFIXES",
    "Layout",
    "Message",
    "Rows",
    "check_rows",
    "detect",
    "iterate",
    "load_rows",
    "locate",
    "split",
    "to_messages",
]
