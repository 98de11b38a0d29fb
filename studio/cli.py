"""`python -m studio`: everything the page does, from the command line.

With `--json` the last line on stdout is one JSON object; words go to stderr. The exit status is 0
only if what was asked for was done.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio import jobs, spec
from studio.data.findings import blocking, to_dicts
from studio.errors import SpecError, StudioError
from studio.plan.doctor import examine
from studio.plan.estimate import duration
from studio.runs import Run, RunState, RunStore, keep, queue
from studio.runs.control import WISHES
from studio.settings import Settings
from studio.spec import RunSpec
from studio.spec.reference import reference

Result = dict[str, Any]
Command = Callable[[argparse.Namespace, Settings], tuple[int, Result]]


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        settings = Settings.from_env()
        if options.home:
            settings = replace(settings, home=settings.resolve(options.home, Path.cwd()))
        code, result = command(options, settings)
    except StudioError as error:
        return _fail(options, error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(
            options, StudioError(f"{where}{error.strerror}.", "Is the disk full or not yours?")
        )
    except KeyboardInterrupt:
        return _fail(options, StudioError("Interrupted."), 130)
    if options.json:
        print(json.dumps(result, ensure_ascii=False), flush=True)
    return code


def _fail(options: argparse.Namespace, error: StudioError, code: int = 1) -> int:
    print(str(error), file=sys.stderr)
    if options.json:
        result: Result = {"error": error.message, "hint": error.hint}
        if isinstance(error, SpecError):
            result["problems"] = [
                {"field": p.field, "message": p.message, "hint": p.hint} for p in error.problems
            ]
        print(json.dumps(result, ensure_ascii=False), flush=True)
    return code


def _say(options: argparse.Namespace, text: str, end: str = "\n") -> None:
    print(text, file=sys.stderr if options.json else sys.stdout, end=end, flush=True)


def _recipe(options: argparse.Namespace) -> RunSpec:
    return spec.load(Path(options.recipe), options.set)


def _store(settings: Settings) -> RunStore:
    return RunStore(settings.runs)


# The commands. Each returns the exit status and what --json prints.


def _doctor(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    checks = examine(settings)
    for check in checks:
        _say(
            options,
            f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}"
            + ("" if check.ok else f"  {check.hint}"),
        )
    good = all(check.ok for check in checks)
    return (0 if good else 1), {"ok": good, "checks": [vars(check) for check in checks]}


def _run(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    wanted = _recipe(options)
    store = _store(settings)
    run = jobs.start(store, settings, wanted, Path(options.recipe).stem)
    if options.detach:
        _say(options, f"{run.id} has started. `python -m studio show {run.id}` tells how it goes.")
        return 0, _summary(run, store.state(run))
    _say(options, f"run {run.id}")
    state = _watch(options, store, run)
    return (0 if state.status == "finished" else 1), _summary(run, state)


def _watch(options: argparse.Namespace, store: RunStore, run: Run) -> RunState:
    """Tells how the run goes until it ends; Ctrl+C asks it to stop and keep what it has."""
    told = ""
    asked = False
    while True:
        try:
            for state in jobs.follow(store, run):
                line = _line(state)
                if line != told:
                    _say(options, line)
                    told = line
            if state.problem:
                _say(options, f"{state.problem['message']} {state.problem['hint']}")
            return state
        except KeyboardInterrupt:
            if asked:
                raise
            asked = True
            jobs.stop(run)
            _say(
                options,
                "Stopping: it finishes the step and saves. Ctrl+C again leaves it to itself.",
            )


def _line(state: RunState) -> str:
    if state.status == "running" and state.step:
        line = f"step {state.step} of {state.max_steps}"
        line += f"  loss {state.loss:.4f}" if state.loss is not None else ""
        return line + (
            f"  evaluation loss {state.eval_loss:.4f}" if state.eval_loss is not None else ""
        )
    return jobs.words(state) if state.status in ("created", "starting", "running") else state.status


def _summary(run: Run, state: RunState) -> Result:
    return {
        "run": run.id,
        "status": state.status,
        "global_step": state.step,
        "train_loss": state.train_loss,
        "eval_loss": state.eval_loss,
    }


def _runs(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    store = _store(settings)
    found = [_summary(run, store.state(run)) for run in store.list()]
    for row in found:
        loss = f"{row['train_loss']:.4f}" if row["train_loss"] is not None else "-"
        _say(
            options,
            f"{row['run']:<44} {row['status']:<12} step {row['global_step']:<7} loss {loss}",
        )
    if not found:
        _say(options, "No runs yet. Start one: python -m studio run presets/persona.yaml")
    return 0, {"runs": found}


def _show(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    store = _store(settings)
    run = store.get(options.run)
    state = store.state(run)
    points = run.history()
    problem = None
    if state.problem:
        problem = {
            "what": state.problem["message"],
            "do": state.problem["hint"],
            "stage": state.problem["stage"],
        }
        _say(options, f"{problem['what']} {problem['do']}")
    _say(options, f"{run.id}: {_line(state)}\n{spec.dump(run.spec())}".rstrip())
    return 0, {
        **_summary(run, state),
        "max_steps": state.max_steps,
        "history": [point for point in points if "loss" in point],
        "evaluations": [
            {"step": point["step"], "eval_loss": point["eval_loss"]}
            for point in points
            if "eval_loss" in point
        ],
        "problem": problem,
        "notes": list(state.notes),
        "folder": str(run.path),
    }


def _queue(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    store = _store(settings)
    added: list[Run] = []
    match options.action:
        case "add":
            added = _added(options, settings, Path(_given(options, "a recipe")))
        case "move":
            run = store.get(_given(options, "a run"))
            if options.place is None:
                raise StudioError("The place is missing.", "`queue move RUN 1` makes it the next.")
            jobs.move(store, run, options.place)
        case "remove":
            jobs.remove(store, store.get(_given(options, "a run")))
        case _:
            # Whoever looks sees to it that somebody works on it.
            jobs.ensure(settings)
    for run in added:
        _say(options, f"{run.id} waits for its turn.")
    waiting = queue.waiting(store.root)
    active = store.active()
    if active is not None:
        _say(options, f"   {active.id:<44} {_line(store.state(active))}")
    for place, run_id in enumerate(waiting, 1):
        _say(options, f"{place:>2} {run_id}")
    if active is None and not waiting:
        _say(options, "Nothing trains and nothing waits.")
    result: Result = {"active": active.id if active else None, "waiting": waiting}
    return 0, {**result, "added": [run.id for run in added]} if added else result


def _added(options: argparse.Namespace, settings: Settings, recipe: Path) -> list[Run]:
    """The recipe in the queue, once or, with --sweep, once for each combination of values."""
    wanted, store = spec.load(recipe, options.set), _store(settings)
    if not options.sweep:
        return [jobs.enqueue(store, settings, wanted, recipe.stem)]
    values: dict[str, list[Any]] = {}
    for text in options.sweep:
        key, equals, listed = text.partition("=")
        if not equals:
            raise StudioError(
                f"{text} is not SECTION.FIELD=VALUE,VALUE,….",
                "As in --sweep train.learning_rate=1e-4,2e-4",
            )
        values[key.strip()] = [
            spec.value_of(key.strip(), one.strip()) for one in listed.split(",") if one.strip()
        ]
    return jobs.sweep(store, settings, wanted, recipe.stem, values, paired=options.paired)


def _given(options: argparse.Namespace, what: str) -> str:
    if options.item is None:
        raise StudioError(f"Say {what}.", f"As in `queue {options.action} NAME`.")
    return str(options.item)


def _stop(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    store = _store(settings)
    run = store.get(options.run)
    jobs.stop(run, now=options.now)
    state = store.state(run) if options.detach else list(jobs.follow(store, run))[-1]
    _say(options, f"{run.id}: {state.status} at step {state.step}")
    return 0, _summary(run, state)


def _pause(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    store = _store(settings)
    run = store.get(options.run)
    jobs.pause(run)
    state = store.state(run) if options.detach else list(jobs.follow(store, run))[-1]
    word = "paused" if state.paused else state.status
    _say(options, f"{run.id}: {word} at step {state.step}")
    return 0, {**_summary(run, state), "paused": state.paused}


def _resume(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    store = _store(settings)
    run = store.get(options.run)
    if options.as_new != (options.checkpoint is not None):
        raise StudioError(
            "--checkpoint and --as-new go together.",
            "A run goes on from its newest checkpoint; from an earlier one, a new run does.",
        )
    if options.as_new:
        wanted = spec.with_overrides(run.spec(), options.set)
        run = jobs.branch(store, settings, run, options.checkpoint, wanted)
    elif options.set:
        raise StudioError("--set changes no run that has begun.", "Use it with --as-new.")
    elif options.epochs is not None:
        jobs.extend(store, settings, run, options.epochs)
    else:
        jobs.resume(store, settings, run)
    state = store.state(run) if options.detach else _watch(options, store, run)
    _say(options, f"{run.id}: {state.status} at step {state.step}")
    return (0 if options.detach or state.status == "finished" else 1), _summary(run, state)


def _ask(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    run = _store(settings).get(options.run)
    jobs.ask(run, options.wish, options.value)
    _say(options, f"{run.id} does that after its present step.")
    return 0, {"run": run.id, "wish": options.wish, "value": options.value}


def _archive(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    run = _store(settings).get(options.run)
    out = settings.resolve(options.file, Path.cwd())
    keep.pack(run, out)
    _say(options, f"{run.id} is in {out}.")
    return 0, {"run": run.id, "file": str(out), "bytes": out.stat().st_size}


def _take_in(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    store = _store(settings)
    run = keep.unpack(store, settings.resolve(options.file, Path.cwd()))
    _say(options, f"{run.id} is here now.")
    return 0, _summary(run, store.state(run))


def _chat(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    store = _store(settings)
    run = store.get(options.run)
    used = run.spec()
    overridden = spec.with_overrides(used, options.set)
    messages = [{"role": "user", "content": options.prompt}]
    if overridden.generate.system_prompt:
        messages.insert(0, {"role": "system", "content": overridden.generate.system_prompt})
    text, final = "", {}
    for reply in jobs.chat(
        store, settings, run, used, {options.model: messages}, overridden.generate
    ):
        delta = reply.get("delta", {}).get(options.model, "")
        text += delta
        if not options.json:
            print(delta, end="", flush=True)
        if "stage" in reply:
            print(f"({reply['stage']})", file=sys.stderr, flush=True)
        if reply.get("done"):
            final = reply
    if not options.json:
        # With beams nothing is streamed: the answer comes whole.
        print("" if text else final["text"][options.model])
    return 0, {
        "run": run.id,
        "model": options.model,
        "text": final["text"][options.model],
        "tokens": final["tokens"][options.model],
        "seconds": final["seconds"],
    }


def _last(replies: Iterator[Result]) -> Result:
    """The last reply of the model's process; how it goes until then is told on stderr."""
    final: Result = {}
    for final in replies:
        if "stage" in final:
            print(f"({final['stage']})", file=sys.stderr, flush=True)
    return {k: v for k, v in final.items() if k != "done"}


def _plan(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    wanted = _recipe(options)
    found = jobs.plan_recipe(_store(settings), settings, wanted, options.gpu or "", options.probe)
    _say(options, f"{found['model']} on {found['machine']}")
    for name, size in found["parts"].items():
        _say(options, f"{name:<14} {size / 1e9:>8.2f} GB")
    verdict = "fits, but tight" if found["tight"] else "fits" if found["fits"] else "does not fit"
    took = duration(found["seconds"])
    total, free = found["total"] / 1e9, found["free"] / 1e9
    _say(options, f"{'total':<14} {total:>8.2f} GB of {free:.2f}: {verdict}")
    _say(options, f"time, about    {took} for {found['steps']} steps, {found['engine']} engine")
    if not found["rows_known"]:
        _say(options, "The rows are not here: a thousand of a thousand characters are assumed.")
    for reason in found["chosen"]:
        changed = "" if reason["value"] == reason["was"] else f" (was {spec.show(reason['was'])})"
        _say(options, f"{reason['field']} = {spec.show(reason['value'])}{changed}: {reason['why']}")
    auto = found["with_auto"]
    _say(options, f"So it takes {auto['total'] / 1e9:.2f} GB and {duration(auto['seconds'])}.")
    if found["remedy"]:
        _say(options, found["remedy"])
    return (0 if found["fits"] else 1), found


def _preview(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    wanted = _recipe(options)
    found = _last(jobs.preview(settings, wanted, options.start, options.rows))
    for row in found["rows"]:
        _say(options, f"--- {row['where']} (row {row['index'] + 1} of {found['total']})")
        for sequence in row["sequences"]:
            name = f"{sequence['name']}: " if sequence["name"] else ""
            cut = f", {len(sequence['cut'])} cut off" if sequence["cut"] else ""
            trained = f"{sum(sequence['trained'])} trained{cut}"
            _say(options, f"{name}{len(sequence['tokens'])} tokens, {trained}\n{sequence['text']}")
        if row["problem"]:
            _say(options, f"{row['problem']} {row['hint']}")
    for finding in found["findings"]:
        _say(options, f"{finding['severity']}: {finding['words']}")
    if options.batch is not None:
        try:
            found["batch"] = _last(jobs.batch(settings, wanted, options.batch))
        except StudioError as error:
            # The rows were shown all the same.
            _say(options, f"batch {options.batch}: {error}")
            found["batch"] = {"error": error.message, "hint": error.hint}
            return 1, found
        height, width = found["batch"]["shape"]
        shape = f"{height} x {width} tokens, {found['batch']['trained']} trained"
        _say(options, f"batch {options.batch}: {shape}, sha256 {found['batch']['sha256']}")
    return 0, found


def _audit(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    wanted = _recipe(options)
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
        _say(options, f"{name:<20} {count:>14,}")
    for finding in report.findings:
        _say(options, f"{finding.severity}: {finding.words}")
        if finding.example:
            _say(options, f"      {finding.example['where']}: {finding.example['shown'][:120]}")
    return (1 if stopping else 0), {
        "counts": report.counts,
        "findings": to_dicts(report.findings),
        "stopping": [finding.id for finding in stopping],
        "languages": report.languages,
        "lengths": report.lengths,
        "seconds": report.seconds,
    }


def _export(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    store = _store(settings)
    run = store.get(options.run)
    out = settings.resolve(options.out, Path.cwd())
    told = ""
    for state in jobs.export(settings, run, options.format, out):
        line = jobs.words(state)
        if line != told:
            print(line, file=sys.stderr, flush=True)
            told = line
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    _say(options, f"{options.format} of {run.id} is in {out}")
    return 0, {"run": run.id, "format": options.format, "out": str(out), "files": files}


def _settings(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    page = reference()
    if options.write:
        Path(options.write).write_text(page, encoding="utf-8")
        _say(options, f"{options.write} is written.")
    else:
        _say(options, page, end="")
    return 0, {"settings": [f"{section}.{name}" for section, name, _, _ in spec.fields()]}


def _final(options: argparse.Namespace, settings: Settings) -> tuple[int, Result]:
    store = _store(settings)
    run = jobs.final(store, settings, store.get(options.run))
    _say(options, f"run {run.id}")
    state = store.state(run) if options.detach else _watch(options, store, run)
    return (0 if options.detach or state.status == "finished" else 1), _summary(run, state)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0")
    return int(text)


def _count(text: str) -> int:
    number = _natural(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError("1 to 1000 rows can be shown at once")
    return number


_ARGUMENTS: dict[str, dict[str, Any]] = {
    "recipe": {"help": "a YAML recipe, such as presets/persona.yaml"},
    "run": {"help": "a run's id, or the beginning or end of it"},
    "--set": {
        "action": "append",
        "default": [],
        "metavar": "SECTION.FIELD=VALUE",
        "help": "override one field; may be given again",
    },
    "action": {"choices": ("add", "list", "move", "remove"), "help": "what to do"},
    "item": {"nargs": "?", "help": "a recipe to add; a run's id to move or remove"},
    "place": {"nargs": "?", "type": _natural, "help": "1 is the next"},
    "--sweep": {
        "action": "append",
        "default": [],
        "metavar": "SECTION.FIELD=A,B,…",
        "help": "a run for each value; given again, one for each combination",
    },
    "--paired": {"action": "store_true", "help": "the first values together, then the second, …"},
    "--checkpoint": {"type": _natural, "metavar": "STEP", "help": "go from here"},
    "--as-new": {"action": "store_true", "help": "as a new run, in the queue"},
    "--epochs": {"type": float, "help": "so many more for a run that has finished"},
    "--value": {"type": float, "help": "the new learning rate"},
    "wish": {"choices": WISHES, "help": "what it is to do"},
    "file": {"help": "a .tar file"},
    "--detach": {"action": "store_true", "help": "return at once, without waiting for the end"},
    "--now": {"action": "store_true", "help": "end it at once, keeping only earlier checkpoints"},
    "--prompt": {"required": True, "help": "what to ask"},
    "--model": {"choices": jobs.SIDES, "default": "tuned", "help": "who answers (tuned)"},
    "--rows": {"type": _count, "default": 3, "help": "how many (3)"},
    "--start": {"type": _natural, "default": 0, "help": "the first one, from 0"},
    "--batch": {
        "type": _natural,
        "metavar": "N",
        "help": "also batch N of the first epoch, 0 being the first, with its sha256",
    },
    "--gpu": {"metavar": "NAME", "help": "for this GPU, such as h100-80gb"},
    "--probe": {"action": "store_true", "help": "run two real steps here and plan by them"},
    "--format": {"choices": ("adapter", "merged"), "required": True},
    "--out": {"required": True, "help": "a new or empty folder"},
    "--write": {"metavar": "FILE", "help": "write them there, as Markdown"},
    "--home": {"help": "where runs and models are kept (else STUDIO_HOME, else ~/.atelier)"},
    "--json": {"action": "store_true", "help": "the last line on stdout is one JSON object"},
}
_COMMANDS: tuple[tuple[str, Command, str, str], ...] = (
    ("doctor", _doctor, "check what this machine has and what is missing", ""),
    ("run", _run, "train a recipe; exit 0 only if the run finished", "recipe --set --detach"),
    ("runs", _runs, "list all runs", ""),
    ("show", _show, "one run: its state, settings, chart, and what went wrong", "run"),
    (
        "queue",
        _queue,
        "runs that wait: add RECIPE, list, move RUN PLACE, remove RUN",
        "action item place --set --sweep --paired",
    ),
    ("stop", _stop, "finish the step, save, end", "run --now --detach"),
    ("pause", _pause, "finish the step, save, give the memory back", "run --detach"),
    (
        "resume",
        _resume,
        "go on from the newest checkpoint; from another as a new run",
        "run --checkpoint --as-new --epochs --set --detach",
    ),
    ("ask", _ask, "of a run that goes: save, evaluate, learning_rate", "run wish --value"),
    ("archive", _archive, "write a run as one file", "run file"),
    ("take-in", _take_in, "make a run of such a file", "file"),
    ("chat", _chat, "ask a run's base, tuned or merged model", "run --prompt --model --set"),
    (
        "plan",
        _plan,
        "memory by part, time, and the fastest settings that fit; exit 0 only if it fits",
        "recipe --gpu --probe --set",
    ),
    ("preview", _preview, "rows as the trainer gets them", "recipe --rows --start --batch --set"),
    ("audit", _audit, "look at all rows; exit 0 only if none would ruin a run", "recipe --set"),
    ("final", _final, "a run's settings once more, over all of its rows", "run --detach"),
    ("settings", _settings, "every setting, with its default and its help", "--write"),
    ("export", _export, "write the adapter, or a merged model", "run --format --out"),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studio", description="Fine-tune chat models: look, train, talk, take home."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command, words, arguments in _COMMANDS:
        one = commands.add_parser(name, help=words, description=words)
        for argument in (*arguments.split(), "--home", "--json"):
            one.add_argument(argument, **_ARGUMENTS[argument])
        one.set_defaults(command=command)
    return parser
