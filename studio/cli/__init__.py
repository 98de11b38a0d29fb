"""`python -m studio`: everything the page does, from the command line.

With `--json` the last line on stdout is one JSON object; words go to stderr. The exit status is 0
only if what was asked for was done.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio import jobs
from studio.cli import look, results, runs, waiting
from studio.cli.shared import Result
from studio.errors import SpecError, StudioError
from studio.runs.control import WISHES
from studio.settings import Settings

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
    "--probe": {"action": "store_true", "help": "run a few real steps here and plan by them"},
    "--format": {"choices": ("adapter", "merged"), "required": True},
    "--out": {"required": True, "help": "a new or empty folder"},
    "--write": {"metavar": "FILE", "help": "write them there, as Markdown"},
    "--home": {"help": "where runs and models are kept (else STUDIO_HOME, else ~/.atelier)"},
    "--json": {"action": "store_true", "help": "the last line on stdout is one JSON object"},
}


_COMMANDS: tuple[tuple[str, Command, str, str], ...] = (
    ("doctor", look.doctor, "check what this machine has and what is missing", ""),
    ("run", runs.run, "train a recipe; exit 0 only if the run finished", "recipe --set --detach"),
    ("runs", runs.runs, "list all runs", ""),
    ("show", runs.show, "one run: its state, settings, chart, and what went wrong", "run"),
    (
        "queue",
        waiting.line,
        "runs that wait: add RECIPE, list, move RUN PLACE, remove RUN",
        "action item place --set --sweep --paired",
    ),
    ("stop", runs.stop, "finish the step, save, end", "run --now --detach"),
    ("pause", runs.pause, "finish the step, save, give the memory back", "run --detach"),
    (
        "resume",
        runs.resume,
        "go on from the newest checkpoint; from another as a new run",
        "run --checkpoint --as-new --epochs --set --detach",
    ),
    ("ask", runs.ask, "of a run that goes: save, evaluate, learning_rate", "run wish --value"),
    ("archive", runs.archive, "write a run as one file", "run file"),
    ("take-in", runs.take_in, "make a run of such a file", "file"),
    ("chat", results.chat, "ask a run's base, tuned or merged model", "run --prompt --model --set"),
    (
        "plan",
        look.plan,
        "memory by part, time, and the fastest settings that fit; exit 0 only if it fits",
        "recipe --gpu --probe --set",
    ),
    (
        "preview",
        look.preview,
        "rows as the trainer gets them",
        "recipe --rows --start --batch --set",
    ),
    ("audit", look.audit, "look at all rows; exit 0 only if none would ruin a run", "recipe --set"),
    ("final", runs.final, "a run's settings once more, over all of its rows", "run --detach"),
    ("settings", look.settings, "every setting, with its default and its help", "--write"),
    ("export", results.export, "write the adapter, or a merged model", "run --format --out"),
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
