"""The rows of a JSON document, one at a time: a list of rows, a list under a name, columns, or
articles with questions (SQuAD). No more than one row of it is in memory, columns excepted."""

import json
from collections.abc import Iterator
from typing import Any

from studio.data.example import Broken, Row
from studio.data.stream import LONGEST, too_long
from studio.errors import StudioError

Numbered = tuple[int, Row | Broken]
# Lists of objects that are a part of a row, and no rows.
_TURNS = ("messages", "conversations", "conversation")
_FEW = 16


def json_rows(name: str, pieces: Iterator[str]) -> Iterator[Numbered]:
    """Each row with the line on which it begins. Raises StudioError where the text is not JSON:
    what comes after such a place can't be told."""
    scanner = _Scanner(name, pieces)
    found = _array(scanner) if scanner.next() == "[" else _document(scanner)
    for line, text, value in found:
        yield from _expanded(line, text, value)
    if scanner.next():
        raise scanner.error("Extra data")


# A row's line, its text and its value.
_Found = tuple[int, str, Any]


class _Scanner:
    """A window on the text that moves over its values."""

    def __init__(self, name: str, pieces: Iterator[str]) -> None:
        self.name = name
        self._pieces = pieces
        self._text, self._at, self._ended = "", 0, False
        self._line, self._counted = 1, 0
        self._decode = json.JSONDecoder().raw_decode

    def next(self) -> str:
        """The next character that is no space, or nothing at the end. It stays."""
        while True:
            while self._at < len(self._text):
                char = self._text[self._at]
                if char not in " \t\r\n\ufeff":
                    return char
                self._at += 1
            if not self._more():
                return ""

    def after(self, char: str) -> str:
        """The first character after `char`, which is next, where that is near."""
        ahead = self._text[self._at + 1 : self._at + 1 + 4096].lstrip()
        return ahead[:1] if ahead or not self._more() else self.after(char)

    def take(self, *expected: str) -> str:
        """Goes over one of these characters."""
        char = self.next()
        if char not in expected or not char:
            raise self.error(f"Expecting {' or '.join(repr(c) for c in expected)}")
        self._at += 1
        return char

    def value(self) -> _Found:
        """Goes over a value."""
        self.next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
                # A number that ends here may go on in the next piece.
                if end < len(self._text) or not self._more():
                    break
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - _FEW
                further = error.pos - self._at
                if not (cut and self._more()):
                    self._at += further
                    raise self.error(error.msg) from None
            # Thousands of digits, or of brackets.
            except (ValueError, RecursionError) as error:
                raise self.error(str(error).split(";")[0]) from None
        line, text = self.line(), self._text[self._at : end]
        self._at = end
        return line, text, value

    def line(self) -> int:
        """The line where the window is."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def error(self, reason: str) -> StudioError:
        """What to say of the place where the window is."""
        return StudioError(
            f"{self.name} is not JSON at line {self.line()}: {reason}.",
            "Mend that line; a file with one object a line ends in .jsonl.",
        )

    def _more(self) -> bool:
        """Whether there was more text; it is there now."""
        if self._ended:
            return False
        # Those up to here, before they are gone.
        self.line()
        rest = self._text[self._at :]
        if len(rest) > LONGEST:
            raise too_long(self.name, self._line)
        # As much as there is already, or a long value would be tried again and again.
        parts, wanted = [rest], min(2 * len(rest), LONGEST) + 1
        while sum(map(len, parts)) < wanted:
            piece = next(self._pieces, None)
            if piece is None:
                self._ended = True
                break
            parts.append(piece)
        self._text, self._at, self._counted = "".join(parts), 0, 0
        return len(self._text) > len(rest)


def _array(scanner: _Scanner) -> Iterator[_Found]:
    scanner.take("[")
    if scanner.next() == "]":
        scanner.take("]")
        return
    while True:
        yield scanner.value()
        if scanner.take(",", "]") == "]":
            return


def _document(scanner: _Scanner) -> Iterator[_Found]:
    """The rows of an object: those of the one list of objects in it, or what it is otherwise."""
    line, others, named = scanner.line(), dict[str, Any](), ""
    scanner.take("{")
    ended = scanner.next() == "}"
    if ended:
        scanner.take("}")
    while not ended:
        _, _, key = scanner.value()
        if not isinstance(key, str):
            raise scanner.error("Expecting property name enclosed in double quotes")
        scanner.take(":")
        rows = scanner.next() == "[" and scanner.after("[") == "{" and key not in _TURNS
        if rows and not named:
            named = key
            yield from _array(scanner)
        else:
            others[key] = scanner.value()[2]
        if named and (lists := [name for name, value in others.items() if _is_list(value)]):
            raise StudioError(
                f"{scanner.name}, line {scanner.line()}: it holds more than one list, "
                f"`{lists[0]}` and `{named}`.",
                "Make a file of the one with the rows.",
            )
        ended = scanner.take(",", "}") == "}"
    if not named:
        for row in _columns(scanner, others):
            yield line, "", row


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0


def _columns(scanner: _Scanner, columns: dict[str, Any]) -> Iterator[Row]:
    """The rows of {"column": [values]} or {"column": {"0": value}}; else the object is a row."""
    lists = list(columns.values())
    if all(isinstance(values, list) and not values for values in lists):
        return
    if lists and all(isinstance(v, dict) and v and all(k.isdecimal() for k in v) for v in lists):
        keys = list(lists[0])
        lists = [[values.get(key) for key in keys] for values in lists]
    elif not (lists and all(_is_list(v) for v in lists)) or any(
        name in _TURNS and isinstance(values[0], dict) for name, values in columns.items()
    ):
        yield columns
        return
    if len({len(values) for values in lists}) > 1:
        counts = ", ".join(f"{n} {len(v)}" for n, v in zip(columns, lists, strict=True))
        raise StudioError(
            f"{scanner.name} holds columns of different lengths: {counts}.",
            "Each column has a value for every row.",
        )
    for values in zip(*lists, strict=True):
        yield dict(zip(columns, values, strict=True))


def _expanded(line: int, text: str, value: Any) -> Iterator[Numbered]:
    """The row, or the rows that an article is."""
    if not isinstance(value, dict):
        yield (
            line,
            Broken("It is not an object with columns.", 'Each row looks like {"messages": [...]}.'),
        )
        return
    paragraphs = value.get("paragraphs", [value] if "qas" in value else None)
    if not isinstance(paragraphs, list) or not all(
        isinstance(p, dict) and isinstance(p.get("qas"), list) for p in paragraphs
    ):
        yield line, value
        return
    rows = [
        _question(value.get("title"), paragraph.get("context"), asked)
        for paragraph in paragraphs
        for asked in paragraph["qas"]
    ]
    yield from zip(_lines(line, text, len(rows)), rows, strict=True)


def _question(title: Any, context: Any, asked: Any) -> Row | Broken:
    """A question's row. The answer is the first one; that there is none, `is_impossible` says."""
    if not isinstance(asked, dict):
        return Broken("It is not a question with answers.", "Mend or remove it.")
    answers = asked.get("answers") or []
    if isinstance(answers, dict):
        texts = answers.get("text") or []
    else:
        texts = [a["text"] for a in answers if isinstance(a, dict) and "text" in a]
    row = {"title": title, "context": context, "question": asked.get("question")}
    row["answer"] = texts[0] if texts else ""
    impossible = asked.get("is_impossible")
    row["is_impossible"] = impossible if isinstance(impossible, bool) else not texts
    return {**row, "id": asked.get("id")}


def _lines(line: int, text: str, count: int) -> list[int]:
    """The line of each question: where its key stands, if that can be told."""
    parts = text.split('"question"')
    if len(parts) != count + 1:
        return [line] * count
    found = []
    for part in parts[:-1]:
        line += part.count("\n")
        found.append(line)
    return found
