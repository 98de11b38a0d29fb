"""From rows to the trainer's data sets: split, counted, refused, and found again."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.data import open_data
from studio.engine.audit import audit
from studio.engine.dataset import Prepared, prepare
from studio.engine.encode import Encoder
from studio.engine.preview import Preview
from studio.engine.tokenizer import load_tokenizer
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import RunSpec
from tests.engine.helpers import Recorder

SpecWith = Callable[..., RunSpec]
Rows = list[dict[str, Any]]


@pytest.fixture
def prepared(
    settings: Settings, tiny_model: Path, spec_with: SpecWith, recorder: Recorder, tmp_path: Path
) -> Callable[..., Prepared]:
    """The rows, prepared under a spec with some fields changed."""

    def make(rows: Rows, **sections: dict[str, Any]) -> Prepared:
        path = tmp_path / "given.jsonl"
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
        data = {"path": str(path), **sections.pop("data", {})}
        spec = spec_with(data=data, **sections)
        opened = open_data(spec.data, settings)
        tokenizer = load_tokenizer(tiny_model, spec.data).tokenizer
        return prepare(opened, tokenizer, spec, settings, recorder)

    return make


def test_rows_are_split_and_each_is_what_the_encoder_makes_of_it(
    rows: Rows, prepared: Callable[..., Prepared], tiny_tokenizer: Any, rows_file: Path,
    settings: Settings, spec_with: SpecWith, recorder: Recorder,
) -> None:  # fmt: skip
    made = prepared(rows, data={"test": "3"})
    assert made.validation is not None and made.test is not None
    assert (len(made.train), len(made.validation), len(made.test)) == (13, 4, 3)
    data = open_data(spec_with().data, settings)
    encoder = Encoder(tiny_tokenizer, "assistant", 128)
    seen = []
    for part in (made.train, made.validation, made.test):
        for row in part:
            (tokens,) = encoder.one(data.example(data.row(row["position"]))).sequences
            assert row["input_ids"] == tokens.input_ids.tolist()
            assert row["labels"] == tokens.labels.tolist() and row["length"] == tokens.length
            seen.append(row["position"])
    assert sorted(seen) == list(range(20))
    assert recorder.stages[-1] == "tokenizing 20 of 20"
    assert (made.counts, made.notes) == ({}, ())


def test_nothing_is_held_back_where_nothing_is_asked_for(
    rows: Rows, prepared: Callable[..., Prepared]
) -> None:
    made = prepared(rows, data={"validation": "0"})
    assert made.validation is None and made.test is None and len(made.train) == 20


LONG = {"messages": [{"role": "user", "content": "x" * 500}, {"role": "assistant", "content": "y"}]}
EMPTY = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]}
NONE = {"messages": [{"role": "user"}]}


@pytest.mark.parametrize(
    ("bad", "fault", "words"),
    [
        (LONG, "nothing_trained", "1 of 21 rows have nothing left to learn"),
        (EMPTY, "empty_answer", "1 of 21 rows have an empty answer"),
        (NONE, "unreadable", "1 of 21 rows are no rows of this layout"),
    ],
)
def test_a_row_that_would_ruin_the_run_stops_it_until_it_is_dropped_or_accepted(
    rows: Rows, prepared: Callable[..., Prepared], bad: dict[str, Any], fault: str, words: str
) -> None:
    given = [*rows[:3], bad, *rows[3:]]
    with pytest.raises(StudioError, match=words) as caught:
        prepared(given)
    assert "given.jsonl, line 4" in caught.value.message
    assert f"what: {fault}" in caught.value.hint and f"[{fault}]" in caught.value.hint
    for way in ({"steps": [{"do": "drop", "what": fault}]}, {"accepted": [fault]}):
        made = prepared(given, data=way)
        assert len(made.train) + len(made.validation or ()) == 20
    assert "1 of 21 rows" in " ".join(made.notes) and made.counts[fault] == 1


def test_a_row_that_is_left_out_as_cut_has_no_other_fault(
    rows: Rows, prepared: Callable[..., Prepared], settings: Settings, spec_with: SpecWith,
    recorder: Recorder, tmp_path: Path,
) -> None:  # fmt: skip
    data = {"steps": [{"do": "drop", "what": "cut"}], "validation": "0"}
    made = prepared([*rows, LONG], data=data)
    assert made.counts == {"cut": 1} and len(made.train) == 20
    spec = spec_with(data={**data, "path": str(tmp_path / "given.jsonl")})
    found = audit(spec, settings, recorder, tmp_path)
    assert not any(finding.severity == "stop" for finding in found.findings)
    # And one that is left out as it has nothing to learn is none of too many that are cut.
    data["steps"] = [{"do": "drop", "what": "nothing_trained"}]
    made = prepared([*rows, *[LONG] * 30], data=data)
    assert made.counts == {"nothing_trained": 30} and len(made.train) == 20


def test_all_that_would_ruin_a_run_is_told_at_once(
    rows: Rows, prepared: Callable[..., Prepared]
) -> None:
    with pytest.raises(StudioError) as caught:
        prepared([*rows, EMPTY, NONE, EMPTY])
    assert "2 of 23 rows have an empty answer; the first is given.jsonl, line 21" in str(
        caught.value
    )
    assert "1 of 23 rows are no rows of this layout" in caught.value.message
    for name in ("empty_answer", "unreadable"):
        assert f"{{do: drop, what: {name}}}" in caught.value.hint
    assert "data.accepted: [unreadable, empty_answer]" in caught.value.hint
    # One of the two is not enough.
    with pytest.raises(StudioError, match="no rows of this layout"):
        prepared([*rows, EMPTY, NONE], data={"accepted": ["empty_answer"]})


def test_a_template_that_would_ruin_a_run_stops_it_before_any_row(
    rows: Rows, prepared: Callable[..., Prepared], recorder: Recorder
) -> None:
    endless = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    data = {"chat_template": "custom", "chat_template_jinja": endless}
    with pytest.raises(StudioError, match="would not know when to end") as caught:
        prepared(rows, data=data)
    assert "data.chat_template to chatml" in caught.value.hint
    assert "data.accepted: [end_of_turn]" in caught.value.hint
    assert recorder.stages == []


def test_rows_that_are_held_back_and_learned_stop_the_run(
    rows: Rows, prepared: Callable[..., Prepared], settings: Settings, spec_with: SpecWith,
    recorder: Recorder, tmp_path: Path,
) -> None:  # fmt: skip
    data: dict[str, Any] = {"validation": "[20:22]", "test": "[22:23]"}
    given = [*rows, rows[3], {"messages": rows[4]["messages"][:2]}, rows[0]]
    words = "2 of 3 rows that are held back say the same as a row that is learned"
    with pytest.raises(StudioError, match=words) as caught:
        prepared(given, data=data)
    assert "given.jsonl, line 21" in caught.value.message
    assert "[leaked]" in caught.value.hint and "what: leaked" in caught.value.hint
    spec = spec_with(data={**data, "path": str(tmp_path / "given.jsonl")})
    (stop,) = [
        f for f in audit(spec, settings, recorder, tmp_path).findings if f.severity == "stop"
    ]
    assert stop.id == "leaked" and stop.count >= 2
    made = prepared(given, data={**data, "accepted": ["leaked"]})
    assert len(made.train) == 20 and words in " ".join(made.notes)
    steps = [{"do": "drop", "what": "leaked"}]
    made = prepared(given, data={**data, "steps": steps})
    assert len(made.train) < 20 and made.notes == ()
    # Some among very many are no reason to stop.
    many = [json.loads(json.dumps(row).replace("What is", f"{n}, is")) for n in range(15)
            for row in rows]  # fmt: skip
    made = prepared([*many, rows[3], *many[:1]], data={"validation": "[100:302]"})
    assert "1 of 202 rows that are held back say the same" in " ".join(made.notes)


def test_another_verdict_or_answer_is_no_leak(prepared: Callable[..., Prepared]) -> None:
    marks = [{"prompt": "q", "completion": "a", "label": n % 2 == 0} for n in range(2)]
    for trainer, given in (
        ("kto", marks),
        ("grpo", [{"prompt": "q", "completion": f"{n}"} for n in range(2)]),
    ):
        train = {"trainer": trainer, "per_device_train_batch_size": 4}
        for rows_, leaks in ((given, 0), ([*given, given[1]], 1)):
            data = {"validation": f"[{len(rows_) - 1}:]", "accepted": ["leaked"]}
            made = prepared([*rows_], data=data, train=train)
            assert len(made.notes) == leaks, (trainer, made.notes)


def test_cut_rows_are_counted_and_stop_the_run_where_they_are_many(
    rows: Rows, prepared: Callable[..., Prepared]
) -> None:
    with pytest.raises(StudioError, match="rows are longer than 32 tokens"):
        prepared(rows, train={"max_length": 32})
    made = prepared(rows, train={"max_length": 32}, data={"accepted": ["cut", "nothing_trained"]})
    assert made.counts["cut"] > 9 and "were cut" in " ".join(made.notes)


def test_rows_that_are_all_cut_before_their_answer_are_refused(
    rows: Rows, prepared: Callable[..., Prepared]
) -> None:
    data = {"accepted": ["cut", "nothing_trained"]}
    with pytest.raises(StudioError, match="first 8 tokens") as caught:
        prepared(rows, train={"max_length": 8}, data=data)
    assert "max_length" in caught.value.hint


def test_what_was_prepared_is_found_again_until_something_changes(
    rows: Rows, prepared: Callable[..., Prepared], recorder: Recorder
) -> None:
    first = prepared(rows)
    recorder.stages.clear()
    again = prepared(rows)
    assert recorder.stages == ["the rows are tokenized already"]
    assert again.train[:] == first.train[:]
    for change in ({"max_length": 100}, {"seed": 7}):
        prepared(rows, train=change)
        assert any("tokenizing" in stage for stage in recorder.stages)
        recorder.stages.clear()
    prepared(rows[:-1])
    assert any("tokenizing" in stage for stage in recorder.stages)


def test_rows_of_another_kind_than_the_trainer_takes_are_refused(
    rows: Rows, prepared: Callable[..., Prepared]
) -> None:
    with pytest.raises(StudioError, match="the trainer dpo needs") as caught:
        prepared(rows, train={"trainer": "dpo"})
    assert "train.trainer to sft" in caught.value.hint


def test_a_row_that_fails_shows_its_problem_and_the_others_show(
    settings: Settings, spec_with: SpecWith, recorder: Recorder, tmp_path: Path
) -> None:
    data = tmp_path / "two.jsonl"
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    data.write_text(good + '\n{"messages": []}\n', encoding="utf-8")
    preview = Preview(settings)
    spec = spec_with(data={"path": str(data), "validation": "0"})
    shown = preview.show(spec, 0, 5, recorder)
    assert [bool(row["problem"]) for row in shown["rows"]] == [False, True]
    assert shown["rows"][1]["sequences"] == [] and shown["rows"][1]["fault"] == "unreadable"
    assert (shown["total"], shown["layout"]["name"], shown["context"]) == (2, "messages", 8192)
    assert shown["parts"] == {"train": 2, "validation": 0, "test": 0}
    # A change of the file shows at once.
    data.write_text(good + "\n", encoding="utf-8")
    assert preview.show(spec, 0, 5, recorder)["total"] == 1


def test_lengths_are_measured_on_a_sample_and_rows_are_found(
    settings: Settings, spec_with: SpecWith, recorder: Recorder
) -> None:
    preview = Preview(settings)
    told = preview.lengths(spec_with(train={"max_length": 40}), 8, recorder)
    assert (told["sampled"], told["total"], told["max_length"]) == (8, 20, 40)
    assert sum(count for _, _, count in told["bins"]) == 8 and 0 < told["cut"] <= 8
    assert preview.find(spec_with(), "NAME? 13", 0, True, recorder) == {"index": 13}
    assert preview.find(spec_with(), "NAME? 13", 14, True, recorder) == {"index": None}
    assert preview.find(spec_with(), "name? 1", 12, False, recorder) == {"index": 12}


def test_a_template_without_an_end_costs_seconds_and_not_an_hour(
    settings: Settings, spec_with: SpecWith, recorder: Recorder
) -> None:
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    spec = spec_with(data={"chat_template": "custom", "chat_template_jinja": loops})
    began = time.monotonic()
    with pytest.raises(StudioError, match="was stopped"):
        Preview(settings).lengths(spec, 20, recorder)
    with pytest.raises(StudioError, match="was stopped"):
        audit(spec, settings, recorder, settings.home)
    assert time.monotonic() - began < 20


def test_of_a_long_row_both_ends_are_shown_and_all_is_counted(
    settings: Settings, spec_with: SpecWith, recorder: Recorder, tmp_path: Path
) -> None:
    turns = [{"role": "user", "content": "a" * 300}, {"role": "assistant", "content": "b" * 300}]
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"messages": turns}), encoding="utf-8")
    spec = spec_with(data={"path": str(path), "validation": "0"}, train={"max_length": 400})
    preview = Preview(settings)
    (whole,) = preview.show(spec, 0, 1, recorder)["rows"][0]["sequences"]
    (short,) = preview.show(spec, 0, 1, recorder, most=100)["rows"][0]["sequences"]
    for name in ("length", "learned", "lost", "text"):
        assert short[name] == whole[name]
    assert (whole["length"], whole["gap"], len(whole["tokens"])) == (400, None, 400)
    assert whole["lost"] == len(whole["cut"]) == len(whole["cut_ids"])
    assert short["gap"] == [75, 300] and len(short["cut"]) == min(25, whole["lost"])
    for name in ("tokens", "input_ids", "trained"):
        assert short[name] == whole[name][:75] + whole[name][375:]


def test_a_batch_that_is_not_there_is_refused(
    settings: Settings, spec_with: SpecWith, recorder: Recorder
) -> None:
    for number in (-1, 4):
        with pytest.raises(StudioError, match="no batch"):
            Preview(settings).batch(spec_with(), number, recorder)
