"""What can be done with a run: each act of the page's buttons, done here and told in words.

An act comes from the browser as {"do": name, "run": id, ...}, so nothing in it is trusted: it can
do what its button can, and no more.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import quote

from studio import jobs
from studio import spec as specs
from studio.errors import StudioError
from studio.jobs import writing
from studio.runs import Run, RunStore, keep
from studio.settings import Settings
from studio.spec import RunSpec
from studio.ui import html
from studio.ui.run_view import changes_of
from studio.ui.runs_list import title_of

Act = Mapping[str, Any]


@dataclass(frozen=True)
class Done:
    """What came of an act: words for the line above the runs (HTML), and where the page goes."""

    message: str = ""
    run: str | None = None
    tab: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    download: str = ""


@dataclass(frozen=True)
class Hands:
    """What acts work with; `form` gives the form's settings, or raises SpecError."""

    store: RunStore
    settings: Settings
    form: Callable[[], RunSpec]


def button(words: str, act: Act, *, sure: bool = False) -> str:
    """A button that does `act`; with `sure`, only when it is pressed once more."""
    twice = " data-sure='Press again to confirm'" if sure else ""
    return (
        f"<button type='button' class='act'{twice} "
        f"data-run-act='{escape(json.dumps(act), quote=True)}'>{escape(words)}</button>"
    )


def read(event: Any) -> Act:
    """The act that an event brings; an empty one for what is none."""
    try:
        act = json.loads(str(event.act))
    except (AttributeError, ValueError):
        return {}
    return act if isinstance(act, dict) else {}


def perform(hands: Hands, act: Act) -> Done:
    """Does it. What can't be done is told in the message."""
    name = str(act.get("do"))
    try:
        hands.settings.check_writable()
        with writing(hands.settings.home):
            if name in _ON_ALL:
                return _ON_ALL[name](hands, act)
            if name in _ON_ONE:
                return _ON_ONE[name](hands, hands.store.get(str(act.get("run"))), act)
    except StudioError as error:
        return Done(html.problem(error))
    return Done()


def _said(words: str, *buttons: str) -> str:
    """A line that says what was done, with what can be done about it. `words` are text."""
    return f"<div class='note said-line' role='status'>{escape(words)} {''.join(buttons)}</div>"


def _describe(hands: Hands, run: Run, act: Act) -> Done:
    known = ("title", "tags", "notes", "star")
    wanted = {name: act[name] for name in known if name in act}
    if "tags" in wanted:
        wanted["tags"] = str(wanted["tags"]).split(",")
    keep.describe(run, **wanted)
    return Done()


def _move(hands: Hands, run: Run, act: Act) -> Done:
    waiting = hands.store.waiting()
    at = waiting.index(run.id) + 1 if run.id in waiting else 1
    to = {"first": 1, "up": at - 1, "down": at + 1}[str(act["do"])]
    jobs.move(hands.store, run, max(1, to))
    return Done()


def _remove(hands: Hands, run: Run, act: Act) -> Done:
    jobs.remove(hands.store, run)
    return Done(_said(f"{title_of(run)} waits no longer. Its settings are kept."))


def _pause(hands: Hands, run: Run, act: Act) -> Done:
    jobs.pause(run)
    words = "Pausing: it finishes the step, saves, and gives its memory back. Resume goes on."
    return Done(_said(words))


def _stop(hands: Hands, run: Run, act: Act) -> Done:
    if act["do"] == "discard":
        jobs.stop(run, discard=True)
        return Done(_said(f"{title_of(run)} is stopped; what it had saved is removed."))
    jobs.stop(run, now=act["do"] == "kill")
    return Done()


def _ask(hands: Hands, run: Run, act: Act) -> Done:
    wish = str(act["do"])
    if wish != "learning_rate":
        jobs.ask(run, wish)
        what = "It saves a checkpoint" if wish == "save" else "It evaluates"
        return Done(_said(f"{what} when the step it is in is done."))
    rate = _number(act.get("value"), "learning rate", "Write it like 1e-4.")
    jobs.ask(run, wish, rate)
    return Done(_said(f"From the next step on its learning rate is {specs.show(rate)}."))


def _number(value: Any, what: str, hint: str) -> float:
    try:
        return float(str(value).strip())
    except ValueError:
        raise StudioError(f"“{str(value)[:40]}” is no {what}.", hint) from None


def _resume(hands: Hands, run: Run, act: Act) -> Done:
    jobs.resume(hands.store, hands.settings, run)
    return Done(run=run.id)


def _extend(hands: Hands, run: Run, act: Act) -> Done:
    epochs = _number(act.get("value"), "number of epochs", "Write it like 1 or 0.5.")
    jobs.extend(hands.store, hands.settings, run, epochs)
    return Done(_said(f"{title_of(run)} goes on for {specs.show(epochs)} more epochs."), run.id)


def _final(hands: Hands, run: Run, act: Act) -> Done:
    new = jobs.final(hands.store, hands.settings, run)
    return Done(_said(f"{title_of(new)} learns from all rows of {title_of(run)}."), new.id)


def _branch(hands: Hands, run: Run, act: Act) -> Done:
    step = act.get("step")
    if not isinstance(step, int):
        raise StudioError("No checkpoint is chosen.", "Choose the step to go on from.")
    spec = hands.form() if act.get("form") is True else None
    new = jobs.branch(hands.store, hands.settings, run, step, spec, run.name)
    return Done(_said(f"{title_of(new)} goes on from step {step} of {title_of(run)}."), new.id)


def _use(hands: Hands, run: Run, act: Act) -> Done:
    tree = specs.tree(run.spec())
    changes = changes_of(hands.store.state(run)) if act.get("fit") is True else {}
    fields = {f"{s}.{name}": value for s, held in tree.items() for name, value in held.items()}
    fields |= {key: value for key, value in changes.items() if key in fields}
    return Done(tab="Tune", fields=fields)


def _talk(hands: Hands, run: Run, act: Act) -> Done:
    return Done(run=run.id, tab="Chat")


def _pack(hands: Hands, run: Run, act: Act) -> Done:
    # Of a run, the server gives away nothing but what lies in its export folder.
    target = run.export / f"{run.id}.tar"
    target.parent.mkdir(exist_ok=True)
    keep.pack(run, target)
    url = f"/gradio_api/file={quote(target.as_posix())}"
    size = html.size(target.stat().st_size)
    link = f"<a href='{escape(url, quote=True)}' download='{target.name}'>{target.name}</a>"
    return Done(_said(f"{title_of(run)} as one file ({size}):", link), download=url)


def _delete(hands: Hands, run: Run, act: Act) -> Done:
    title, runs = title_of(run), hands.store.list()
    keep.delete(hands.store, run)
    keep.purge(hands.store)
    undo = button("Undo", {"do": "restore", "run": run.id})
    # The one below it in the list comes into view, or else the one above.
    at = runs.index(run)
    following = [r.id for r in (*runs[at + 1 :], *reversed(runs[:at]))]
    return Done(_said(f"Deleted {title}.", undo), following[0] if following else "")


def _clean(hands: Hands, run: Run, act: Act) -> Done:
    everything = act.get("all") is True
    freed = keep.clean(hands.store, run, all_of_it=everything)
    return Done(_said(f"{html.size(freed)} freed from {title_of(run)}."))


def _clean_all(hands: Hands, act: Act) -> Done:
    freed = 0
    for run in hands.store.list():
        if run.process() is None and run.id not in hands.store.waiting():
            freed += keep.clean(hands.store, run)
    return Done(_said(f"{html.size(freed)} freed. The newest checkpoint of each run is kept."))


def _restore(hands: Hands, act: Act) -> Done:
    run = keep.restore(hands.store, str(act.get("run")))
    return Done(_said(f"{title_of(run)} is back."), run.id)


def _forget(hands: Hands, act: Act) -> Done:
    freed = keep.forget(hands.store, str(act.get("run")))
    return Done(_said(f"{html.size(freed)} freed; that run is gone for good."))


_ON_ALL: dict[str, Callable[[Hands, Act], Done]] = {
    "clean-all": _clean_all,
    "restore": _restore,
    "forget": _forget,
}
_ON_ONE: dict[str, Callable[[Hands, Run, Act], Done]] = {
    "describe": _describe,
    "first": _move,
    "up": _move,
    "down": _move,
    "remove": _remove,
    "pause": _pause,
    "stop": _stop,
    "kill": _stop,
    "discard": _stop,
    "save": _ask,
    "evaluate": _ask,
    "learning_rate": _ask,
    "resume": _resume,
    "enqueue": _resume,
    "extend": _extend,
    "final": _final,
    "branch": _branch,
    "use": _use,
    "talk": _talk,
    "pack": _pack,
    "delete": _delete,
    "clean": _clean,
}
