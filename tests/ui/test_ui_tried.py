"""The answers that grpo tried, as the page reads them."""

import json

from studio.runs import RunStore
from studio.settings import Settings
from studio.spec import DEFAULTS
from studio.ui.tried import tried


def line(step: int, text: str) -> str:
    return json.dumps({"step": step, "rows": [{"completion": text}]}) + "\n"


def test_the_newest_steps_come_first_each_once(settings: Settings) -> None:
    run = RunStore(settings.runs).create(DEFAULTS, "tried")
    assert tried(run) == []
    lines = [line(step, "before") for step in range(1, 14)]
    # An attempt that goes on from step 11 does 12 and 13 again; the last line is half written.
    lines += [line(12, "again"), line(13, "again"), '{"step": 14, "ro']
    run.completions.write_text("".join(lines))
    found = tried(run)
    assert [entry["step"] for entry in found] == [13, 12, 11, 10, 9, 8, 7, 6, 5, 4]
    said = [entry["rows"][0]["completion"] for entry in found[:3]]
    assert said == ["again", "again", "before"]


def test_a_long_file_is_read_from_its_end(settings: Settings) -> None:
    run = RunStore(settings.runs).create(DEFAULTS, "tried")
    run.completions.write_text("".join(line(step, "x" * 50_000) for step in range(1, 40)))
    assert [entry["step"] for entry in tried(run)] == [39, 38, 37]
