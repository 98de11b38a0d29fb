"""Which audit's report counts for which settings."""

from pathlib import Path
from typing import Any

import pytest

from studio.data.findings import Report
from studio.jobs.audit import audit_folder, audit_result, keep_report
from studio.settings import Settings
from studio.spec import RunSpec, parse
from tests.unit.data_files import jsonl

ROWS = [{"question": f"q{n}", "answer": "a"} for n in range(4)]


@pytest.fixture
def spec(settings: Settings) -> RunSpec:
    jsonl(settings.workspace / "a.jsonl", ROWS)
    return parse({"data": {"path": "a.jsonl"}})


def changed(spec: RunSpec, section: str, **values: Any) -> RunSpec:
    held = spec.model_dump(mode="json")
    return parse({**held, section: {**held[section], **values}})


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("train", {"max_length": 77}),
        ("train", {"trainer": "cpt"}),
        ("train", {"seed": 7}),
        ("train", {"packing": True}),
        ("train", {"packing": True, "packing_strategy": "wrapped"}),
        ("cpt", {"add_eos_token": False}),
        ("data", {"train_on": "last"}),
        ("data", {"validation": "0"}),
    ],
)
def test_a_report_counts_for_the_settings_it_was_made_with(
    settings: Settings, spec: RunSpec, section: str, values: dict[str, Any]
) -> None:
    report = Report({"rows": 4}, (), {})
    keep_report(settings, spec, audit_folder(settings, spec), report)
    assert audit_result(settings, changed(spec, section, **values)) is None
    assert audit_result(settings, changed(spec, "data", accepted=["cut"])) == report
    assert audit_result(settings, changed(spec, "train", learning_rate=1e-3)) == report


def test_a_report_ends_with_the_file_that_it_was_made_of(settings: Settings, spec: RunSpec) -> None:
    keep_report(settings, spec, audit_folder(settings, spec), Report({}, (), {}))
    jsonl(Path(settings.workspace / "a.jsonl"), ROWS[1:])
    assert audit_result(settings, spec) is None
