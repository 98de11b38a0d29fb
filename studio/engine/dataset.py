"""All rows of a data set, tokenized and split, as files that the trainer maps into its memory."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value
from datasets import Sequence as Listed
from datasets.arrow_writer import ArrowWriter
from transformers import PreTrainedTokenizerBase

from studio.data import Data, Example, Numbers, RowError
from studio.engine.encode import Encoded, Encoder, reference_answer
from studio.engine.gate import Tally, notes, refuse_rows, refuse_template
from studio.engine.report import Report
from studio.engine.takers import example_problem, row_limit
from studio.errors import StudioError
from studio.runs import files
from studio.settings import Settings
from studio.spec import NEXT_TOKEN, PAIRED, RunSpec, diff

_CHUNK = 500
# Prepared data that is kept for the next run or preview of the same.
_KEPT = 6
PARTS = ("train", "validation", "test")
# What decides which tokens a row becomes: tokens that an earlier version made are not used.
_CODE = ("encode.py", "render.py", "dataset.py", "template.py")


@dataclass(frozen=True)
class Prepared:
    """Data sets by part, each with the rows' `position` and `length`. A part without rows is None.
    `counts`: rows that were cut, and by fault those that were left out."""

    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    counts: dict[str, int]
    notes: tuple[str, ...]


def prepare(
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    spec: RunSpec,
    settings: Settings,
    report: Report,
) -> Prepared:
    """Tokenizes every row, or finds that this was done already. Raises StudioError, in one
    sentence for each, where something was found that would ruin the run and is not accepted."""
    folder = settings.home / "cache" / "tokens" / _key(data, tokenizer, spec)
    if not (folder / "told.json").is_file():
        refuse_template(tokenizer, spec, data)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.whole_folder(folder) as aside:
            told = _write(data, tokenizer, spec, report, aside)
            (aside / "told.json").write_text(json.dumps(told), encoding="utf-8")
        _forget_old(folder.parent)
    else:
        report.stage("the rows are tokenized already")
    told = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    (folder / "told.json").touch()
    loaded = {part: _load(folder / f"{part}.arrow") for part in PARTS}
    train = loaded["train"]
    if train is None:
        raise StudioError(
            f"No row has anything to learn within its first {spec.train.max_length} tokens.",
            "Raise train.max_length, or look at the data page: all answers are cut off there.",
        )
    return Prepared(
        train, loaded["validation"], loaded["test"], told["counts"], tuple(told["notes"])
    )


def _key(data: Data, tokenizer: PreTrainedTokenizerBase, spec: RunSpec) -> str:
    """Everything that the tokens depend on."""
    parts = [
        data.fingerprint,
        tokenizer.backend_tokenizer.to_str(),
        str(tokenizer.chat_template),
        str(tokenizer.special_tokens_map),
        spec.data.train_on,
        row_limit(spec),
        spec.train.trainer,
        spec.cpt.add_eos_token,
        spec.train.seed,
        sorted(spec.data.accepted),
        diff(spec).get("data", {}),
        *[Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _CODE],
    ]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]


def _forget_old(root: Path) -> None:
    known = sorted(root.glob("*/told.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in known[_KEPT:]:
        shutil.rmtree(path.parent, ignore_errors=True)


def _load(path: Path) -> Dataset | None:
    return Dataset.from_file(str(path)) if path.is_file() else None


def _features(trainer: str) -> Features:
    ids = Listed(Value("int32"))
    text = Value("string")
    pair = {"prompt_ids": ids, "chosen_ids": ids, "rejected_ids": ids}
    columns = {
        "sft": {"input_ids": ids, "labels": ids},
        "cpt": {"input_ids": ids, "labels": ids},
        "dpo": pair,
        "orpo": pair,
        "reward": pair,
        "kto": {"prompt_ids": ids, "completion_ids": ids, "label": Value("bool")},
        # `prompt` are its tokens; `messages` the same as JSON, for those who judge the answers.
        "grpo": {"prompt": ids, "messages": text, "answer": text},
    }[trainer]
    return Features({**columns, "position": Value("int64"), "length": Value("int32")})


def _write(
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    spec: RunSpec,
    report: Report,
    folder: Path,
) -> dict[str, Any]:
    encoder = Encoder.of(tokenizer, spec)
    parts, tally = data.parts(spec.train.seed), Tally()
    total = sum(len(getattr(parts, part)) for part in PARTS)
    tally.held = total - len(parts.train)
    empty = []
    for part in PARTS:
        positions = getattr(parts, part)
        if not len(positions):
            continue
        path = folder / f"{part}.arrow"
        kept = 0
        with ArrowWriter(features=_features(spec.train.trainer), path=str(path)) as writer:
            for found in _encoded(data, positions, encoder, spec, tally, report, total):
                writer.write_batch(_columns(spec.train.trainer, found))
                kept += len(found)
                for position, row in found:
                    tally.leaks.add(part, position, _said(spec.train.trainer, row))
            writer.finalize()
        if not kept:
            path.unlink()
            empty.append(part)
    report.stage(f"tokenizing {total} of {total}", total, total)
    refuse_rows(tally, spec, data)
    told = notes(tally, spec)
    if "validation" in empty:
        told.append("No row held back has anything to learn, so there is no evaluation loss.")
    return {"counts": tally.counts, "notes": told}


def _said(trainer: str, row: Encoded) -> str:
    """Everything that a row says: another text, answer or verdict makes it another row."""
    answer = reference_answer(row.example) if trainer == "grpo" else ""
    texts = [sequence.text for sequence in row.sequences]
    return json.dumps([*texts, answer, row.example.label])


def _encoded(
    data: Data,
    positions: Numbers,
    encoder: Encoder,
    spec: RunSpec,
    tally: Tally,
    report: Report,
    total: int,
) -> Iterator[list[tuple[int, Encoded]]]:
    """The rows that are kept, with their positions, a chunk at a time."""
    for chunk, rows in data.iterate(positions, _CHUNK):
        report.stage(f"tokenizing {tally.rows} of {total}", tally.rows, total)
        tally.rows += len(rows)
        examples: list[Example] = []
        places: list[int] = []
        for position, row in zip(chunk.tolist(), rows, strict=True):
            try:
                example = data.example(row)
            except RowError as error:
                tally.add(error.fault, position, error.message)
                continue
            wrong = example_problem(example, spec.train.trainer)
            if wrong is not None:
                raise wrong
            examples.append(example)
            places.append(position)
        kept = _kept(data, encoder.encode(examples), places, tally)
        if kept:
            yield kept


def _kept(
    data: Data,
    encoded: Sequence[Encoded | StudioError],
    places: Sequence[int],
    tally: Tally,
) -> list[tuple[int, Encoded]]:
    kept = []
    for position, found in zip(places, encoded, strict=True):
        if isinstance(found, RowError):
            tally.add(found.fault, position, found.message)
            continue
        if isinstance(found, StudioError):
            raise found
        faults = {}
        if found.cut:
            faults["cut"] = ""
        if not found.learns:
            empty = len(found.sequences[0].ranges) == 0
            why = "Its prompt is longer." if empty else "All of its answers are cut off."
            faults["nothing_trained"] = why
        # What a step leaves out for one fault can do no harm by another.
        gone = [fault for fault in faults if fault in data.token_drops]
        for fault in gone[:1] or faults:
            tally.add(fault, position, faults[fault])
        if found.learns and not gone:
            kept.append((position, found))
    return kept


def _columns(trainer: str, kept: list[tuple[int, Encoded]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        "position": [position for position, _ in kept],
        "length": [max(s.length for s in e.sequences) for _, e in kept],
    }
    if trainer in NEXT_TOKEN:
        sequences = [e.sequences[0] for _, e in kept]
        return {
            **columns,
            "input_ids": [s.input_ids for s in sequences],
            "labels": [s.labels for s in sequences],
        }
    if trainer in PAIRED:
        # Of the worse answer all that follows the prompt is judged, whatever the trainer.
        pairs = [e.sequences for _, e in kept]
        return {
            **columns,
            "prompt_ids": [worse.input_ids[: worse.prompt] for _, worse in pairs],
            "chosen_ids": [better.input_ids[worse.prompt :] for better, worse in pairs],
            "rejected_ids": [worse.input_ids[worse.prompt :] for _, worse in pairs],
        }
    if trainer == "grpo":
        return {
            **columns,
            "prompt": [e.sequences[0].input_ids for _, e in kept],
            "messages": [_asked(e.example) for _, e in kept],
            "answer": [reference_answer(e.example) for _, e in kept],
        }
    return {
        **columns,
        "prompt_ids": [e.sequences[0].input_ids[: e.sequences[0].prompt] for _, e in kept],
        "completion_ids": [e.sequences[0].input_ids[e.sequences[0].prompt :] for _, e in kept],
        "label": [bool(e.example.label) for _, e in kept],
    }


def _asked(example: Example) -> str:
    """The conversation up to the answer, as JSON."""
    at = max(n for n, m in enumerate(example.messages) if m["role"] == "assistant")
    return json.dumps(example.messages[:at], ensure_ascii=False)
