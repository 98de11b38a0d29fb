"""The rows of tables in text (csv, tsv) and of plain text."""

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from studio.data.example import Broken, Row
from studio.data.stream import LONGEST
from studio.errors import StudioError

Numbered = tuple[int, Row | Broken]
Line = tuple[int, str]
# So much of a file is looked at before it is decided how it is read.
_LOOKED_AT = 2000


def table_rows(name: str, lines: Iterator[Line], kind: str) -> tuple[str, Iterator[Numbered]]:
    """What to say of how the table is read, and each row with its line. Raises StudioError where a
    quote is never closed or the header is none."""
    head = list(islice(lines, _LOOKED_AT))
    sign, quoted, note = _dialect(name, [text for _, text in head], kind)
    return note, _cells(name, chain(head, lines), sign, quoted)


def _dialect(name: str, head: list[str], kind: str) -> tuple[str, bool, str]:
    """The sign between the cells, whether quotes mean something, and what to say of it."""
    first = re.sub('"[^"]*"', "", head[0]) if head else ""
    if kind == "tsv":
        # Without them a quote is a letter like any other.
        wraps = any(re.search(r'(^|\t)"[^\t]*"(\t|\r?\n|$)', line) for line in head)
        return "\t", wraps, "" if wraps else f"{name}: quotes are read as letters."
    for sign, called in ((";", "semicolons"), ("\t", "tabs")):
        if "," not in first and sign in first:
            return sign, True, f"{name}: its cells are parted by {called}."
    return ",", True, ""


def _cells(name: str, lines: Iterable[Line], sign: str, quoted: bool) -> Iterator[Numbered]:
    # The limit is one for all of Python; the module's own is 131,072 characters, less than a book.
    csv.field_size_limit(LONGEST)
    # Strict, or a quote that is never closed would swallow the rest of the file unseen.
    reader = csv.reader(
        (text for _, text in lines),
        delimiter=sign,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # Without a header, or with a quote that never ends, there is no row after this one.
            if header is None or any(words in str(error) for words in _ENDLESS):
                raise _unreadable(name, line, error) from None
            yield line, Broken(f"It is not CSV: {error}.", f"Mend that line; {_QUOTE}")
            continue
        if header is None and cells:
            header = _header(name, line, cells)
        elif header is not None and cells:
            yield line, _row(header, cells)


_QUOTE = "a quote inside quoted text is written twice."
_ENDLESS = ("unexpected end", "field larger")


def _unreadable(name: str, line: int, error: csv.Error) -> StudioError:
    if any(words in str(error) for words in _ENDLESS):
        return StudioError(
            f"{name}, line {line}: a quote is opened and never closed.", f"Close it; {_QUOTE}"
        )
    return StudioError(
        f"{name}, line {line}, which names the columns, is not CSV: {error}.",
        f"Mend it; {_QUOTE}",
    )


def _header(name: str, line: int, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({cell for cell in header if header.count(cell) > 1 or not cell})
    if twice:
        raise StudioError(
            f"{name}, line {line}, names a column twice or not at all: {twice[0] or '(no name)'}.",
            "The first line names each column once.",
        )
    return header


def _row(header: list[str], cells: list[str]) -> Row | Broken:
    if len(cells) == len(header):
        return dict(zip(header, cells, strict=True))
    return Broken(
        f"It has {len(cells)} cells, and the header has {len(header)}.",
        "Mend that line; text with the sign between the cells stands in quotes.",
    )


def paragraphs(lines: Iterator[Line]) -> tuple[str, Iterator[Numbered]]:
    """What to say of how the text is read, and each row with its line: a paragraph where blank
    lines part the text, a line where there are none."""
    head = list(islice(lines, _LOOKED_AT))
    blank = [not text.strip() for _, text in head]
    begin = blank.index(False) if False in blank else 0
    end = len(blank) - blank[::-1].index(False) if False in blank else 0
    whole = chain(head, lines)
    if any(blank[begin:end]):
        return "each paragraph is a row, for blank lines part them", _parted(whole)
    return "each line is a row, for no blank lines part the text", (
        (number, {"text": text.strip()}) for number, text in whole if text.strip()
    )


def _parted(lines: Iterable[Line]) -> Iterator[Numbered]:
    begin, kept, length = 0, list[str](), 0
    for number, text in chain(lines, [(0, "")]):
        if text.strip() and length <= LONGEST:
            begin = begin if kept else number
            kept.append(text)
            length += len(text)
        elif kept:
            yield begin, {"text": "".join(kept).strip()}
            kept, length = ([text], len(text)) if text.strip() else ([], 0)
            begin = number
