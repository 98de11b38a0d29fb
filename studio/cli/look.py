"""Looking before anything is trained: the machine, the plan, the rows."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from studio import jobs, spec
from studio.cli.shared import Result, recipe_of, say, store_of, tell_stage
from studio.data.findings import blocking, to_dicts
from studio.errors import StudioError
from studio.plan.doctor import examine
from studio.plan.estimate import duration
from studio.settings import Settings
from studio.spec.reference import reference


def doctor(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Check what this machine has and what is missing."""
    checks = examine(settings)
    for check in checks:
        say(
            options,
            f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}"
            + ("" if check.ok else f"  {check.hint}"),
        )
    good = all(check.ok for check in checks)
    return (0 if good else 1), {"ok": good, "checks": [vars(check) for check in checks]}


def settings(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Every setting, with its default and its help."""
    page = reference()
    if options.write:
        Path(options.write).write_text(page, encoding="utf-8")
        say(options, f"{options.write} is written.")
    else:
        say(options, page, end="")
    return 0, {"settings": [f"{section}.{name}" for section, name, _, _ in spec.fields()]}


def plan(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Memory by part, time, and the fastest settings that fit; exit 0 only if it fits."""
    wanted = recipe_of(options)
    found = jobs.plan_recipe(store_of(settings), settings, wanted, options.gpu or "", options.probe)
    say(options, f"{found['model']} on {found['machine']}")
    for name, size in found["parts"].items():
        say(options, f"{name:<14} {size / 1e9:>8.2f} GB")
    verdict = "fits, but tight" if found["tight"] else "fits" if found["fits"] else "does not fit"
    took = duration(found["seconds"])
    total, free = found["total"] / 1e9, found["free"] / 1e9
    say(options, f"{'total':<14} {total:>8.2f} GB of {free:.2f}: {verdict}")
    say(options, f"time, about    {took} for {found['steps']} steps, {found['engine']} engine")
    if not found["rows_known"]:
        say(options, "The rows are not here: a thousand of a thousand characters are assumed.")
    for reason in found["chosen"]:
        changed = "" if reason["value"] == reason["was"] else f" (was {spec.show(reason['was'])})"
        say(options, f"{reason['field']} = {spec.show(reason['value'])}{changed}: {reason['why']}")
    auto = found["with_auto"]
    say(options, f"So it takes {auto['total'] / 1e9:.2f} GB and {duration(auto['seconds'])}.")
    if found["remedy"]:
        say(options, found["remedy"])
    return (0 if found["fits"] else 1), found


def _last(replies: Iterator[Result]) -> Result:
    """The last reply of the model's process; how it goes until then is told on stderr."""
    final: Result = {}
    stage = ""
    for final in replies:
        stage = tell_stage(final, stage)
    return {k: v for k, v in final.items() if k != "done"}


def preview(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Rows as the trainer gets them."""
    wanted = recipe_of(options)
    found = _last(jobs.preview(settings, wanted, options.start, options.rows))
    for row in found["rows"]:
        say(options, f"--- {row['where']} (row {row['index'] + 1} of {found['total']})")
        for sequence in row["sequences"]:
            name = f"{sequence['name']}: " if sequence["name"] else ""
            cut = f", {len(sequence['cut'])} cut off" if sequence["cut"] else ""
            trained = f"{sum(sequence['trained'])} trained{cut}"
            say(options, f"{name}{len(sequence['tokens'])} tokens, {trained}\n{sequence['text']}")
        if row["problem"]:
            say(options, f"{row['problem']} {row['hint']}")
    for finding in found["findings"]:
        say(options, f"{finding['severity']}: {finding['words']}")
    if options.batch is not None:
        try:
            found["batch"] = _last(jobs.batch(settings, wanted, options.batch))
        except StudioError as error:
            # The rows were shown all the same.
            say(options, f"batch {options.batch}: {error}")
            found["batch"] = {"error": error.message, "hint": error.hint}
            return 1, found
        height, width = found["batch"]["shape"]
        shape = f"{height} x {width} tokens, {found['batch']['trained']} trained"
        say(options, f"batch {options.batch}: {shape}, sha256 {found['batch']['sha256']}")
    return 0, found


def audit(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    """Look at all rows; exit 0 only if none would ruin a run."""
    wanted = recipe_of(options)
    told = ""
    for state in jobs.audit(settings, wanted):
        line = jobs.words(state)
        if line != told:
            print(f"({line})", file=sys.stderr, flush=True)
            told = line
    report = jobs.audit_result(settings, wanted)
    if report is None:
        raise StudioError("The audit was stopped.", "Start it again.")
    stopping = blocking(report.findings, wanted.data.accepted)
    for name, count in report.counts.items():
        say(options, f"{name:<20} {count:>14,}")
    for finding in report.findings:
        say(options, f"{finding.severity}: {finding.words}")
        if finding.example:
            say(options, f"      {finding.example['where']}: {finding.example['shown'][:120]}")
    return (1 if stopping else 0), {
        "counts": report.counts,
        "findings": to_dicts(report.findings),
        "stopping": [finding.id for finding in stopping],
        "languages": report.languages,
        "lengths": report.lengths,
        "seconds": report.seconds,
    }
