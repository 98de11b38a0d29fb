"""Looking at every row before a run starts, so that no row stops it later."""

from collections.abc import Iterator
from itertools import chain, islice

from studio.data.layouts import Row, detect, to_messages
from studio.data.read import local_rows, locate
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import DataSection

# A few seconds' worth; what comes after is looked at by the run itself.
_MOST = 100_000


def check_rows(section: DataSection, settings: Settings) -> None:
    """Turns every row of local data into messages, up to the first 100,000. Raises StudioError
    that names the first bad one and says how many there are. The Hub's data is not looked at."""
    found = locate(section.path, settings)
    if found is None:
        return
    rows: Iterator[Row] = islice(local_rows(section, found), _MOST)
    first = next(rows, None)
    if first is None:
        raise StudioError(f"{section.path} has no rows.", "Choose a file with at least two rows.")
    layout = detect([first])
    bad, total = 0, 0
    worst: tuple[int, StudioError] | None = None
    for total, row in enumerate(chain([first], rows), 1):
        try:
            to_messages(row, layout, section.system_prompt)
        except StudioError as error:
            bad += 1
            worst = worst or (total, error)
    if worst is not None:
        number, told = worst
        more = f" {bad} of {total} rows can't be used." if bad > 1 else ""
        raise StudioError(f"Row {number} of the data: {told.message}{more}", told.hint)
