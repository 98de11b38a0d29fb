"""The audit: every row looked at once, as the trainer would see it, and what is wrong counted.

What is noted of a row are a few numbers, on disk and mapped into memory: in memory itself there are
about 100 bytes a row, and never a row's text for longer than it is looked at.
"""

import gc
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from studio.data import Data, Example, Numbers, open_data
from studio.data.findings import Finding
from studio.data.findings import Report as Found
from studio.data.languages import Languages
from studio.engine import audit_crew, template
from studio.engine.audit_findings import Facts, findings
from studio.engine.audit_rows import CHUNK, Examiner, Noted
from studio.engine.audit_sums import Sums
from studio.engine.audit_tokens import Measurer
from studio.engine.encode import Encoder
from studio.engine.preview import context, histogram
from studio.engine.report import Report
from studio.engine.source import resolve
from studio.engine.takers import example_problem
from studio.engine.tokenizer import Tokenizer, load_tokenizer
from studio.settings import Settings
from studio.spec import RunSpec


@dataclass(frozen=True)
class Audit:
    """Data and tokenizer, opened for an audit."""

    spec: RunSpec
    data: Data
    tokenizer: Tokenizer
    context: int | None

    @classmethod
    def open(cls, spec: RunSpec, settings: Settings, report: Report) -> "Audit":
        """Gets and opens what is needed. Raises StudioError where that fails, or the trainer takes
        no rows of that kind."""
        report.stage("reading the data")
        data = open_data(spec.data, settings, report)
        wrong = example_problem(Example(data.kind), spec.train.trainer)
        if wrong is not None:
            raise wrong
        folder = resolve(spec.model, settings, report, weights=False)
        report.stage("loading the tokenizer")
        tokenizer = load_tokenizer(folder, spec.data)
        return cls(spec, data, tokenizer, context(folder))

    def run(self, report: Report, scratch: Path, crew: int | None = None) -> Found:
        """Looks at all rows, with as many processes as there are cores, or `crew`. `scratch`: a
        folder for 560 bytes a row, which are gone afterwards. Raises StudioError."""
        began = time.monotonic()
        parts = self.data.parts(self.spec.train.seed)
        positions = np.concatenate([parts.train, parts.validation, parts.test])
        part = np.repeat(np.arange(3), [len(parts.train), len(parts.validation), len(parts.test)])
        # In the order in which they lie.
        order = np.argsort(positions)
        positions, part = positions[order], part[order]
        with tempfile.TemporaryDirectory(dir=scratch, prefix="rows-") as folder:
            noted = Noted.make(Path(folder), len(positions))
            languages = Languages()
            encoder = self._encoder()
            examiner = Examiner(self.data, Measurer(encoder), languages, noted)
            self._look(positions, examiner, report, crew or audit_crew.processes())
            report.stage("comparing rows")
            sums = Sums.of(self.data, positions, part, noted, languages.names, report)
            facts = Facts(self.spec, self.data, encoder, self.context, positions, noted, sums)
            found = (*findings(facts), *self._template(noted))
        lengths = histogram(sums.lengths, len(positions), self.spec.train.max_length)
        seconds = round(time.monotonic() - began, 2)
        ranked = sorted(found, key=lambda f: ("stop", "warn", "info").index(f.severity))
        return Found(sums.counts, tuple(ranked), lengths, sums.languages, seconds)

    def _encoder(self) -> Encoder:
        return Encoder.of(self.tokenizer.tokenizer, self.spec)

    def _look(self, positions: Numbers, examiner: Examiner, report: Report, crew: int) -> None:
        total = len(positions)

        def look(piece: int) -> None:
            begin = piece * CHUNK
            examiner.look(positions[begin : begin + CHUNK], begin)

        def tell(done: int) -> None:
            report.stage("checking rows", min(done * CHUNK, total), total)

        # Nothing that is there now is looked at by the forks' collectors, which would copy it.
        gc.collect()
        gc.freeze()
        try:
            audit_crew.share(look, -(-total // CHUNK), crew, tell)
        finally:
            gc.unfreeze()

    def _template(self, noted: Noted) -> list[Finding]:
        if self.data.kind == "text":
            return []
        found = template.examine(
            self.tokenizer.tokenizer,
            self.spec.data,
            tools=bool(noted.has("tools").any()),
            thoughts=bool(noted.has("thoughts").any()),
        )
        # Where everything is learned, no answer has to be found.
        free = self.spec.data.train_on == "everything"
        return [f for f in found if not (free and f.severity == "stop")]


def audit(spec: RunSpec, settings: Settings, report: Report, scratch: Path) -> Found:
    """Opens and runs it."""
    return Audit.open(spec, settings, report).run(report, scratch)
