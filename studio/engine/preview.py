"""Rows, lengths and batches as the trainer will get them, for the data page and `preview`: the same
functions that training uses."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studio.data import Data, Example, Parts, RowError, open_data
from studio.data.findings import to_dicts
from studio.engine import template
from studio.engine.encode import IGNORED, Encoded, Encoder, Tokens
from studio.engine.report import Report
from studio.engine.source import resolve
from studio.engine.takers import example_problem, row_limit
from studio.engine.tokenizer import Tokenizer, load_tokenizer
from studio.errors import StudioError
from studio.plan.shapes import text_config
from studio.plan.summary import number
from studio.settings import Settings
from studio.spec import DataSection, ModelSection, RunSpec

Reply = dict[str, Any]
_BINS = 40
_EMPTY: Reply = {
    "messages": [], "tools": None, "chosen": [], "rejected": [], "label": None, "sequences": [],
}  # fmt: skip


class Preview:
    """Keeps the last model's tokenizer and the last data, as long as their files stay the same."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model: tuple[ModelSection, Path] | None = None
        self._tokenizer: tuple[object, Tokenizer] | None = None
        self._encoder: tuple[object, Encoder] | None = None
        self._parts: tuple[object, Parts] | None = None

    def show(
        self, spec: RunSpec, start: int, count: int, report: Report, most: int | None = None
    ) -> Reply:
        """`total`, `parts` (rows to learn, to evaluate, to test), `layout`, `columns`, `context`
        (tokens the model can hold, or None), `note`, `findings` about the template, and the rows
        from `start` on. A row that fails carries its `problem`, `hint` and `fault`, and as
        `messages` what can be shown of it. Of a sequence longer than `most` tokens the middle is
        left out. Raises StudioError where the model or the data can't be read at all."""
        data = open_data(spec.data, self._settings, report)
        folder = self._resolve(spec.model, report)
        loaded = self._load_tokenizer(folder, spec.data, report)
        encoder = self._encoder_for(spec, loaded)
        parts = self._split(data, spec.train.seed)
        start = max(0, start)
        raw = data.raw(start, count)
        tools = any(isinstance(row, dict) and row.get("tools") for row in raw)
        rows = []
        for position, row in enumerate(raw, start):
            part = next(
                (p for p in ("validation", "test") if _holds(getattr(parts, p), position)), ""
            )
            seen = self._row(data, row, encoder, spec, most)
            where = {"index": position, "where": data.where(position), "part": part or "train"}
            rows.append({**where, "raw": row if isinstance(row, dict) else None, **seen})
        return {
            "total": data.total,
            "parts": {p: len(getattr(parts, p)) for p in ("train", "validation", "test")},
            "layout": vars(data.layout),
            "columns": data.columns,
            "context": context(folder),
            "note": loaded.note,
            "findings": to_dicts(template.examine(loaded.tokenizer, spec.data, tools=tools)),
            "rows": rows,
        }

    def batch(self, spec: RunSpec, number: int, report: Report) -> Reply:
        """Batch `number`, from 0, of the first epoch, exactly as a run of `spec` gets it: of which
        rows it is made, how long they are, its shape, how many of its tokens are learned and how
        many only fill it up, and its digest; and of the whole epoch how many `prepared` rows became
        how many `sequences`, where they are packed by which `strategy` and with how much of these
        full. Raises StudioError."""
        # Here: they bring trl with them, and a row is shown without.
        report.stage("loading the libraries")
        from studio.engine import batches
        from studio.engine.dataset import prepare

        data = open_data(spec.data, self._settings, report)
        loaded = self._load_tokenizer(self._resolve(spec.model, report), spec.data, report)
        prepared = prepare(data, loaded.tokenizer, spec, self._settings, report)
        report.stage("making the batch")
        rows = batches.arranged(spec, prepared.train, train=True)
        size = batches.batch_size(spec)
        sampled = batches.order(spec, rows)
        count = -(-len(sampled) // size)
        if not 0 <= number < count:
            raise StudioError(
                f"There is no batch {number + 1}; an epoch has {count}.", "Choose a smaller number."
            )
        order = list(sampled)[number * size : (number + 1) * size]
        chosen = rows.select(order)
        made = batches.collator(spec, loaded.tokenizer.pad_token_id)(list(batches.bare(chosen)))
        used = sum(rows["length"]) if spec.train.packing else None
        return {
            "number": number,
            "batches": count,
            "prepared": len(prepared.train),
            "sequences": len(rows),
            "strategy": spec.train.packing_strategy,
            "packed_full": used and round(used / (len(rows) * spec.train.max_length), 4),
            **_described(chosen, made, batches.digest(made)),
        }

    def lengths(self, spec: RunSpec, sample: int, report: Report) -> Reply:
        """How long the rows are in tokens, from at most `sample` of them, evenly spread; see
        `histogram`. Raises StudioError, also for a template under which no row can be trained."""
        data = open_data(spec.data, self._settings, report)
        loaded = self._load_tokenizer(self._resolve(spec.model, report), spec.data, report)
        encoder = self._encoder_for(spec, loaded)
        positions = np.unique(np.linspace(0, data.total - 1, min(sample, data.total)).astype(int))
        lengths: list[int] = []
        for _, rows in data.iterate(positions, 100):
            report.stage("measuring rows", len(lengths), len(positions))
            examples = [e for e in (_example(data, row) for row in rows) if e is not None]
            for found in encoder.encode(examples):
                if isinstance(found, Encoded):
                    lengths.append(max(s.total for s in found.sequences))
                elif not isinstance(found, RowError):
                    raise found
        return histogram(np.asarray(lengths), data.total, spec.train.max_length)

    def find(self, spec: RunSpec, text: str, start: int, forward: bool, report: Report) -> Reply:
        """The `index` of the next row from `start` on that holds the text, or None."""
        data = open_data(spec.data, self._settings, report)
        return {"index": data.find(text, start, forward, report)}

    def _row(
        self, data: Data, row: Any, encoder: Encoder, spec: RunSpec, most: int | None
    ) -> Reply:
        try:
            example = data.example(row)
        except RowError as error:
            shown = {"kind": data.kind, "messages": data.glimpse(row)}
            return {**_EMPTY, **shown, **_problem(error)}
        said = {
            "kind": example.kind,
            "messages": example.messages,
            "tools": example.tools,
            "chosen": example.chosen,
            "rejected": example.rejected,
            "label": example.label,
        }
        wrong = example_problem(example, spec.train.trainer)
        (found,) = [wrong] if wrong else encoder.encode([example])
        if isinstance(found, StudioError):
            return {**_EMPTY, **said, **_problem(found)}
        sequences = [_sequence(tokens, most) for tokens in found.sequences]
        if not found.learns:
            lost = RowError(
                "Nothing of this row is learned: all of its answers are cut off.",
                "Raise max_length, or drop such rows.",
                "nothing_trained",
            )
            return {**_EMPTY, **said, "sequences": sequences, **_problem(lost)}
        none = {"problem": None, "hint": None, "fault": None}
        return {**_EMPTY, **said, "sequences": sequences, **none}

    def _resolve(self, section: ModelSection, report: Report) -> Path:
        # Asking the Hub again for every row that is looked at would take seconds without a network.
        if (
            self._model is None
            or self._model[0] != section
            or not (self._model[1] / "config.json").is_file()
        ):
            self._model = (section, resolve(section, self._settings, report, weights=False))
        return self._model[1]

    def _load_tokenizer(self, folder: Path, section: DataSection, report: Report) -> Tokenizer:
        chosen = (
            section.chat_template,
            section.chat_template_jinja,
            section.add_template_tokens,
            bool(section.prompt_template),
        )
        key = (_signature(folder), chosen)
        if self._tokenizer is None or self._tokenizer[0] != key:
            report.stage("loading the tokenizer")
            self._tokenizer = (key, load_tokenizer(folder, section))
        return self._tokenizer[1]

    def _split(self, data: Data, seed: int) -> Parts:
        # Drawing from a million rows takes longer than all the rest of a row.
        key = (data.fingerprint, seed)
        if self._parts is None or self._parts[0] != key:
            self._parts = (key, data.parts(seed))
        return self._parts[1]

    def _encoder_for(self, spec: RunSpec, loaded: Tokenizer) -> Encoder:
        trainer, limit = spec.train.trainer, row_limit(spec)
        key = (id(loaded), spec.data.train_on, trainer, limit, spec.cpt)
        if self._encoder is None or self._encoder[0] != key:
            made = Encoder.of(loaded.tokenizer, spec)
            self._encoder = (key, made)
        return self._encoder[1]


def histogram(lengths: "np.ndarray[Any, Any]", total: int, max_length: int) -> Reply:
    """Lengths in tokens as `bins` of [from, to, count], with how many were measured (`sampled`) of
    how many (`total`), how many are longer than `max_length` (`cut`), the `longest` and the `mean`.
    """
    if not len(lengths):
        lengths = np.zeros(0, dtype=int)
    longest = int(lengths.max(initial=0))
    width = max(1, -(-(longest + 1) // _BINS))
    counts = np.bincount(lengths // width, minlength=1).tolist()
    return {
        "sampled": len(lengths),
        "total": total,
        "bins": [[n * width, (n + 1) * width, count] for n, count in enumerate(counts)],
        "max_length": max_length,
        "cut": int((lengths > max_length).sum()),
        "longest": longest,
        "mean": round(float(lengths.mean()), 1) if len(lengths) else 0.0,
    }


def _holds(positions: Any, position: int) -> bool:
    """Whether the ascending positions hold this one."""
    at = bisect_right(positions, position)
    return at > 0 and positions[at - 1] == position


def _example(data: Data, row: Any) -> Example | None:
    try:
        return data.example(row)
    except RowError:
        return None


def _problem(error: StudioError) -> Reply:
    fault = error.fault if isinstance(error, RowError) else None
    return {"problem": error.message, "hint": error.hint, "fault": fault}


def _sequence(tokens: Tokens, most: int | None) -> Reply:
    """A sequence's tokens with their ids, those that are learned, and those that are cut off; all
    of them, or of more than `most` those at its beginning and its end: `gap` says after how many
    how many are left out. `length`, `learned` and `lost` count all."""
    pieces, ids, length = tokens.pieces(), tokens.encoding.ids, tokens.length
    trained = (tokens.labels != IGNORED).tolist()
    head, tail = length, length
    if most is not None and length > most:
        head, tail = most - most // 4, length - most // 4
    end = tokens.total if most is None else min(tokens.total, length + most // 4)
    return {
        "name": tokens.name,
        "text": tokens.text,
        "input_ids": ids[:head] + ids[tail:length],
        "tokens": pieces[:head] + pieces[tail:length],
        "trained": trained[:head] + trained[tail:],
        "gap": [head, tail - head] if tail > head else None,
        "cut": pieces[length:end],
        "cut_ids": ids[length:end],
        "length": length,
        "learned": tokens.trained,
        "lost": tokens.cut,
    }


def _described(chosen: Any, batch: Any, sha256: str) -> Reply:
    """What is in a batch, row of the batch by row."""
    if isinstance(batch, list):
        return _prompts(chosen, batch, sha256)
    # Here, as in `batch`.
    from studio.engine.batches import learned

    ids = batch["input_ids"]
    if "positions" in chosen.column_names:
        # Where rows see each other, the trainer is not told how long each is.
        told = "seq_lengths" if "seq_lengths" in chosen.column_names else "lengths"
        rows, lengths = list(chosen["positions"]), list(chosen[told])
    else:
        lengths = [[length] for length in batch["attention_mask"].sum(dim=1).tolist()]
        # A preference comes twice: all that are chosen, then all that are rejected.
        times = len(lengths) // len(chosen)
        rows = [[position] for position in chosen["position"]] * times
    # Packed rows come as one without padding.
    tokens = int(batch["attention_mask"].sum()) if "attention_mask" in batch else ids.numel()
    return {
        "rows": rows,
        "lengths": lengths,
        "shape": list(ids.shape),
        "tokens": tokens,
        "trained": int((learned(batch) != IGNORED).sum()),
        "padding": ids.numel() - tokens,
        "sha256": sha256,
    }


def _prompts(chosen: Any, batch: list[Any], sha256: str) -> Reply:
    """What is in a batch of prompts, each once for every answer that will be tried."""
    lengths = [len(row["prompt"]) for row in batch]
    height, width = len(batch), max(lengths)
    return {
        "rows": [[position] for position in chosen["position"]],
        "lengths": [[length] for length in lengths],
        "shape": [height, width],
        "tokens": sum(lengths),
        "trained": 0,
        "padding": height * width - sum(lengths),
        "sha256": sha256,
    }


def _signature(path: Path) -> object:
    """Changes when a file of the folder does."""
    stats: Sequence[Any] = [(p.name, p.stat()) for p in sorted(path.iterdir()) if p.is_file()]
    return (path, tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


def context(folder: Path) -> int | None:
    """The longest row that the folder's model was made for, where its config tells."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return number(text_config(config), "max_position_embeddings") or None
