"""From rows to the trainer's data sets, and on into its batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.data import Layout, split
from studio.engine.dataset import prepare
from studio.engine.load import hardware, load_model
from studio.engine.prepare import encode, encode_row
from studio.engine.preview import Preview
from studio.engine.train import build
from studio.errors import StudioError
from studio.runs import Run
from studio.settings import Settings
from studio.spec import RunSpec
from tests.engine.helpers import Recorder

SpecWith = Callable[..., RunSpec]
MESSAGES = Layout("messages", "")


def test_rows_are_split_as_the_seed_says(
    rows: list[dict[str, Any]], tiny_tokenizer: Any, spec_with: SpecWith, recorder: Recorder
) -> None:
    spec = spec_with()
    prepared = prepare(rows, tiny_tokenizer, spec, recorder)
    train, held_back = split(len(rows), spec.data.test_size, spec.train.seed)
    assert prepared.held_back is not None
    for indices, dataset in ((train, prepared.train), (held_back, prepared.held_back)):
        for index, row in zip(indices, dataset, strict=True):
            _, encoded = encode_row(rows[index], MESSAGES, tiny_tokenizer, "assistant", 128)
            assert row == {"input_ids": encoded.input_ids, "labels": encoded.labels}
    assert recorder.stages[-1] == "tokenizing 20 of 20"
    assert (prepared.cut, prepared.dropped, prepared.notes) == (0, 0, ())


def test_nothing_is_held_back_where_nothing_is_asked_for(
    rows: list[dict[str, Any]], tiny_tokenizer: Any, spec_with: SpecWith, recorder: Recorder
) -> None:
    prepared = prepare(rows, tiny_tokenizer, spec_with(data={"test_size": 0.0}), recorder)
    assert prepared.held_back is None
    assert len(prepared.train) == 20


def test_rows_without_anything_to_learn_are_counted_not_lost_in_silence(
    rows: list[dict[str, Any]], tiny_tokenizer: Any, spec_with: SpecWith, recorder: Recorder
) -> None:
    long = {"messages": [{"role": "user", "content": "x" * 500}, rows[0]["messages"][1]]}
    prepared = prepare([*rows, long], tiny_tokenizer, spec_with(), recorder)
    assert len(prepared.train) + len(prepared.held_back or ()) == 20
    assert (prepared.cut, prepared.dropped) == (1, 1)
    assert "1 of 21 rows are longer than 128 tokens" in prepared.notes[0]
    assert "1 of 21 rows have nothing to learn" in prepared.notes[1]


def test_rows_that_are_all_cut_before_their_answer_are_refused(
    rows: list[dict[str, Any]], tiny_tokenizer: Any, spec_with: SpecWith, recorder: Recorder
) -> None:
    with pytest.raises(StudioError, match="first 8 tokens") as caught:
        prepare(rows, tiny_tokenizer, spec_with(train={"max_length": 8}), recorder)
    assert "max_length" in caught.value.hint


def test_a_bad_row_is_named_by_its_number(
    rows: list[dict[str, Any]], tiny_tokenizer: Any, spec_with: SpecWith, recorder: Recorder
) -> None:
    bad = [*rows[:3], {"messages": [{"role": "user"}]}, *rows[3:]]
    with pytest.raises(StudioError, match=r"^Row 4 of the data: .*content"):
        prepare(bad, tiny_tokenizer, spec_with(), recorder)


def test_what_the_preview_shows_is_what_reaches_the_model(
    rows: list[dict[str, Any]],
    tiny_model: Path,
    tiny_tokenizer: Any,
    spec_with: SpecWith,
    settings: Settings,
    recorder: Recorder,
    tmp_path: Path,
) -> None:
    spec = spec_with(data={"test_size": 0.0}, train={"max_length": 50})
    shown = Preview(settings).show(spec, 0, len(rows), recorder)["rows"]
    where = hardware(spec.model)
    model = load_model(spec.model, tiny_model, where, recorder)
    prepared = prepare(rows, tiny_tokenizer, spec, recorder)
    trainer = build(Run(tmp_path), spec, where, model, tiny_tokenizer, prepared)
    seen = []
    for batch in trainer.get_train_dataloader():
        for ids, labels, mask in zip(
            batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
        ):
            kept = mask.bool()
            assert (labels[~kept] == -100).all()
            seen.append(
                (ids[kept].tolist(), (labels[kept] != -100).tolist(), labels[kept].tolist())
            )
    assert sorted(row[:2] for row in seen) == sorted((r["input_ids"], r["trained"]) for r in shown)
    encoded = [encode(tiny_tokenizer, r["messages"], "assistant", 50) for r in rows]
    assert sorted(labels for *_, labels in seen) == sorted(row.labels for row in encoded)
    assert any(row.cut for row in encoded)


def test_a_row_that_fails_shows_its_problem_and_the_others_show(
    settings: Settings, spec_with: SpecWith, recorder: Recorder, tmp_path: Path
) -> None:
    data = tmp_path / "two.jsonl"
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    data.write_text(good + '\n{"messages": []}\n', encoding="utf-8")
    preview = Preview(settings)
    shown = preview.show(spec_with(data={"path": str(data)}), 0, 5, recorder)
    assert [bool(row["problem"]) for row in shown["rows"]] == [False, True]
    assert shown["rows"][1]["input_ids"] == []
    assert (shown["total"], shown["layout"]["name"], shown["context"]) == (2, "messages", 256)
    # A change of the file shows at once.
    data.write_text(good + "\n", encoding="utf-8")
    assert preview.show(spec_with(data={"path": str(data)}), 0, 5, recorder)["total"] == 1
