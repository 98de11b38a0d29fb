"""Which audit's report counts for which settings."""

from pathlib import Path
from typing import Any

import pytest

from studio import jobs
from studio.data.findings import Finding, Report
from studio.errors import StudioError
from studio.jobs.audit import audit_folder, audit_result, keep_report
from studio.runs import RunStore
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


def test_what_an_audit_found_holds_back_whatever_starts_a_run(
    settings: Settings, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.conduct, "ensure", lambda _: None)
    store = RunStore(settings.runs)
    found = [Finding(name, "stop", 3, f"3 rows: {name}.") for name in ("leaked", "cut")]
    keep_report(settings, spec, audit_folder(settings, spec), Report({}, tuple(found), {}))
    values = {"train.max_length": [1024, 99]}
    for begin in (
        lambda wanted: jobs.start(store, settings, wanted, "a"),
        lambda wanted: jobs.enqueue(store, settings, wanted, "a"),
        lambda wanted: jobs.sweep(store, settings, wanted, "a", values),
    ):
        with pytest.raises(StudioError, match=r"3 rows: leaked\. And 1 more") as caught:
            begin(spec)
        assert "data.accepted: [leaked, cut]" in caught.value.hint and not store.list()
    jobs.start(store, settings, changed(spec, "data", accepted=["leaked", "cut"]), "a")
    jobs.enqueue(store, settings, changed(spec, "train", max_length=99), "b")
    # Where the data can't be found, the run says so.
    jobs.enqueue(store, settings, changed(spec, "data", path="nix.jsonl"), "c")
    assert len(store.list()) == 3
