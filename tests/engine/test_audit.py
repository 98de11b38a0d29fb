"""The audit: exact counts on a file whose faults are known, and remedies that mend them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.data import SOFT_FAULTS, open_data
from studio.data.findings import Report, blocking
from studio.engine.audit import audit
from studio.engine.report import Stopped
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import RunSpec, parse
from tests import planted
from tests.engine.helpers import Recorder

Audited = Callable[..., Report]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """The file with planted faults, and how often it has each."""
    path = tmp_path_factory.mktemp("planted") / "rows.jsonl"
    return path, planted.write(path, clean=60)


@pytest.fixture
def spec(file: tuple[Path, dict[str, int]], tiny_model: Path) -> RunSpec:
    path, counts = file
    held = f"[{counts['train_rows']}:{counts['rows']}]"
    return parse(
        {
            "model": {"name_or_path": str(tiny_model)},
            "data": {"path": str(path), "validation": held},
            "train": {"max_length": planted.MAX_LENGTH},
        }
    )


@pytest.fixture
def audited(settings: Settings, tmp_path: Path) -> Audited:
    def run(spec: RunSpec) -> Report:
        return audit(spec, settings, Recorder(), tmp_path)

    return run


def with_step(spec: RunSpec, step: dict[str, Any]) -> RunSpec:
    held = spec.model_dump(mode="json")
    held["data"]["steps"] = [*held["data"]["steps"], step]
    return parse(held)


def test_the_planted_faults_are_counted_exactly(
    file: tuple[Path, dict[str, int]], spec: RunSpec, audited: Audited
) -> None:
    _, counts = file
    report = audited(spec)
    assert {name: report.counts[name] for name in counts} == counts
    assert {f.id: f.count for f in report.findings if f.id in counts} == {
        name: count for name, count in counts.items() if name in {f.id for f in report.findings}
    }
    named = {
        "broken", "unreadable", "empty_answer", "rejected", "cut", "nothing_trained", "role_order",
        "bad_encoding", "duplicate", "near_duplicate", "leaked", "duplicate_answer",
        "other_language",
    }  # fmt: skip
    assert named <= {f.id for f in report.findings}
    for found in report.findings:
        if found.id in named:
            assert found.example and found.example["where"].startswith("rows.jsonl, line ")
            assert found.remedy, found.id
    stopping = {f.id for f in blocking(report.findings, [])}
    assert {*("broken", "unreadable", "empty_answer", "rejected", "nothing_trained")} <= stopping
    assert "leaked" in stopping
    assert (
        report.lengths["sampled"]
        + counts["broken"]
        + counts["unreadable"]
        + counts["empty_answer"]
        + counts["rejected"]
        == counts["rows"]
    )


@pytest.mark.parametrize(
    "fault",
    [
        "broken", "unreadable", "empty_answer", "rejected", "cut", "nothing_trained", "role_order",
        "bad_encoding", "duplicate", "near_duplicate", "leaked", "duplicate_answer",
        "other_language",
    ],
)  # fmt: skip
def test_the_remedy_of_a_finding_leaves_none_of_it(
    spec: RunSpec, audited: Audited, fault: str, settings: Settings
) -> None:
    mended = audited(with_step(spec, {"do": "drop", "what": fault}))
    assert not [f for f in mended.findings if f.id == fault]
    if fault in ("duplicate_answer", "other_language", "duplicate"):
        whole = open_data(spec.data, settings).total
        left = open_data(with_step(spec, {"do": "drop", "what": fault}).data, settings).total
        counted = audited(spec).counts[fault]
        assert whole - left == counted


def test_one_process_counts_what_two_count(
    spec: RunSpec, settings: Settings, tmp_path: Path
) -> None:
    from studio.engine.audit import Audit

    opened = Audit.open(spec, settings, Recorder())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    one = opened.run(Recorder(), scratch, crew=1)
    two = opened.run(Recorder(), scratch, crew=2)
    assert one.counts == two.counts and one.findings == two.findings
    assert one.languages == two.languages and list(scratch.iterdir()) == []


def test_an_audit_can_be_stopped_and_leaves_nothing(
    spec: RunSpec, settings: Settings, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(Stopped):
        audit(spec, settings, Recorder(stop_at="checking rows"), scratch)
    assert list(scratch.iterdir()) == []


def test_the_same_answer_twice_is_found_and_dropped(
    settings: Settings, audited: Audited, tiny_model: Path
) -> None:
    assert "same_pair" in SOFT_FAULTS
    pairs = [("Yes, it is.", "No."), ("The same.", "The same."), ("A.", "B."), ("C", "C")]
    rows = [
        {"prompt": f"Question {n}?", "chosen": yes, "rejected": no}
        for n, (yes, no) in enumerate(pairs)
    ]
    path = settings.workspace / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    spec = parse(
        {
            "model": {"name_or_path": str(tiny_model)},
            "data": {"path": str(path), "validation": "0"},
            "train": {"trainer": "dpo"},
        }
    )
    (found,) = [f for f in audited(spec).findings if f.id == "same_pair"]
    assert found.count == 2 and found.remedy is not None
    mended = audited(with_step(spec, found.remedy))
    assert mended.counts["same_pair"] == 0 and mended.counts["rows"] == 2


def test_what_is_not_read_of_turns_is_told(spec: RunSpec, audited: Audited, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "q", "name": "Ann"}, {"role": "assistant", "content": "a"}]
    turns = [said, [said[0], {**said[1], "train": False}], [{**said[0], "name": ""}, said[1]]]
    turns[2][1] = {**said[1], "thinking": "Hm.", "weight": 1}
    path = tmp_path / "turns.jsonl"
    path.write_text("".join(json.dumps({"messages": t}) + "\n" for t in turns), encoding="utf-8")
    held = spec.model_dump(mode="json")
    held["data"] |= {"path": str(path), "validation": "0"}
    report = audited(parse(held))
    found = {f.id: f for f in report.findings}
    told = found["turn_keys"]
    assert (told.count, told.severity, told.remedy) == (2, "info", None)
    assert "`name`, `train`" in told.words and told.example
    assert found["ignores_thoughts"].severity == "warn" and "thoughts" not in report.counts


def test_rows_of_another_kind_than_the_trainer_takes_are_refused(
    spec: RunSpec, audited: Audited
) -> None:
    held = spec.model_dump(mode="json")
    held["train"]["trainer"] = "dpo"
    with pytest.raises(StudioError, match=r"trainer dpo needs"):
        audited(parse(held))
