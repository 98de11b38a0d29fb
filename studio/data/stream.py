"""A file's bytes and text, piece by piece: unpacked, decoded, and never too much at once."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from studio.errors import StudioError

# Of one line, one row or one cell. Nobody trains on more, and a file may have no second line.
LONGEST = 64 * 2**20
_PIECE = 2**20
# Text shrinks to a tenth, seldom to a fiftieth.
_BOMB_RATIO = 200
_BOMB_FROM = 256 * 2**20

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # Before UTF-16, which begins alike.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Unpacked:
    """A gzip file's content. Raises StudioError where it is broken, or a bomb."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._packed = path.open("rb")
        self._file = gzip.GzipFile(fileobj=self._packed)
        self._given = 0

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, and at most a mebibyte."""
        try:
            piece = self._file.read(_PIECE if size < 0 else min(size, _PIECE))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            reason = str(error).rstrip(".")
            raise StudioError(
                f"{self._name} can't be unpacked: {reason}.", "Pack or download it again."
            ) from None
        self._given += len(piece)
        if self._given > _BOMB_FROM and self._given > _BOMB_RATIO * self._packed.tell():
            raise StudioError(
                f"{self._name} unpacks to more than {_BOMB_RATIO} times its size, which text does "
                "not; it was not read further.",
                "If it is really data, unpack it yourself.",
            )
        return piece

    def tell(self) -> int:
        """How much of the packed file was read."""
        return self._packed.tell()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        self._packed.close()


def opened(path: Path, packed: bool) -> BinaryIO | Unpacked:
    """The file's content, unpacked. To be closed."""
    return Unpacked(path) if packed else path.open("rb")


def encoding_of(head: bytes) -> str:
    """The encoding that a file's first bytes speak of; utf-8 where they speak of none."""
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    # Latin letters and all of JSON's signs have a zero as their other half.
    sample = head[: len(head) // 2 * 2][:200]
    if len(sample) >= 8 and (b"\0" in sample):
        if sample[1::2].count(0) > 0.4 * len(sample) / 2 and 0 not in sample[::2]:
            return "utf-16-le"
        if sample[::2].count(0) > 0.4 * len(sample) / 2 and 0 not in sample[1::2]:
            return "utf-16-be"
    return "utf-8"


class Progress:
    """How many of a file's own bytes were read."""

    def __init__(self) -> None:
        self.done = 0


def pieces(path: Path, packed: bool, progress: Progress | None = None) -> Iterator[bytes]:
    """The file's content, unpacked, a mebibyte at a time."""
    progress = progress or Progress()
    with closing(opened(path, packed)) as file:
        while piece := file.read(_PIECE):
            progress.done = file.tell()
            yield piece


def text(
    path: Path, packed: bool, encoding: str, progress: Progress | None = None
) -> Iterator[str]:
    """The file's text in pieces. Raises StudioError at the first byte that is no text."""
    # A mark at the beginning is none of the text, whoever named the encoding.
    name = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    decoder = codecs.getincrementaldecoder(name)()
    line, given = 1, 0
    for piece in chain(pieces(path, packed, progress), [b""]):
        waiting = len(decoder.getstate()[0])
        try:
            decoded = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            raise undecodable(path.name, error, name, line, given - waiting) from None
        yield decoded
        line += decoded.count("\n")
        given += len(piece)


def undecodable(
    name: str, error: UnicodeDecodeError, encoding: str, line: int, begin: int = 0
) -> StudioError:
    """What to say of bytes that are no text. `line` and `begin` are where the bytes that could not
    be decoded begin in the file."""
    before = error.object[: error.start].decode(encoding, "replace")
    shown = "UTF-8" if encoding.startswith("utf-8") else encoding
    where = f"{name}, line {line + before.count(chr(10))}"
    return StudioError(
        f"{where}: byte 0x{error.object[error.start]:02x} at offset {begin + error.start} is no "
        f"{shown} text.",
        encoding_hint(error.object, error.start),
    )


# Those that files still come in. Others are guessed more often than they are right.
_GUESSED = (
    *(f"cp125{n}" for n in range(9)),
    *("koi8_r", "mac_roman", "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr"),
)


def encoding_hint(raw: bytes, position: int) -> str:
    """What to set data.encoding to, with a guess where one can be made from the bytes."""
    try:
        from charset_normalizer import from_bytes
    # It comes with other packages and is none of ours.
    except ImportError:
        best = None
    else:
        sample = raw[max(0, position - 20_000) : position + 20_000]
        best = from_bytes(sample, cp_isolation=list(_GUESSED)).best()
    name = best.encoding.replace("cp", "windows-").replace("_", "-") if best else ""
    guess = f", perhaps to {name}," if name else ""
    return f"Set data.encoding{guess} or save the file again as UTF-8."


def lines(
    path: Path, packed: bool, encoding: str, progress: Progress | None = None
) -> Iterator[tuple[int, str]]:
    """The numbers and texts of the lines, each with its end. Raises StudioError where one is too
    long."""
    number, waiting, length = 1, [""], 0
    for piece in text(path, packed, encoding, progress):
        first, *rest = piece.split("\n")
        waiting.append(first)
        length += len(first)
        for part in rest:
            yield number, "".join(waiting) + "\n"
            number, waiting, length = number + 1, [part], len(part)
        if length > LONGEST:
            raise too_long(path.name, number)
    if length:
        yield number, "".join(waiting)


def too_long(name: str, line: int) -> StudioError:
    """What to say of a line that nobody could train on."""
    return StudioError(
        f"{name}, line {line}, is longer than {LONGEST // 2**20} MiB.",
        "Put each row on a line of its own, or leave that one out.",
    )
