"""The Runs tab: the live view, starting a run, and what can be done with the one looked at."""

from pathlib import Path
from typing import Any

import gradio as gr
import plotly

from studio import jobs
from studio.errors import Problem, SpecError, StudioError
from studio.plan import possible
from studio.plan.estimate import steps
from studio.plan.machine import machine
from studio.plan.model import summarize
from studio.runs import RunStore, keep
from studio.settings import Settings
from studio.spec import RunSpec
from studio.ui import header, html, live, marks, rows, run_acts, space
from studio.ui.context import FORM, QUIET, Context, Updates, Values, model_folder
from studio.ui.form import mending, problem_mark
from studio.ui.run_acts import Hands
from studio.ui.run_view import leads_on
from studio.ui.sweep_view import SweepView

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
_MOVES_DISK = ("clean", "clean-all", "delete", "restore", "forget")


class RunsTab:
    """The tab's components."""

    def __init__(self, context: Context) -> None:
        with gr.Row(elem_classes="actions"):
            words = "A run goes on when this page is closed. Come back whenever you like."
            gr.HTML(html.lead("Watch it learn", words), elem_classes="lead")
            self.again = gr.Button("Start training", variant="primary", elem_id="start-runs")
        self.message = gr.HTML(elem_id="runs-message")
        self.view = live.view(context.store, PLOTLY)
        self.sweep = SweepView(judge)
        with gr.Accordion(
            "Disk, deleted runs, a run from a file", open=False, elem_id="runs-space"
        ) as self.more:
            self.space = gr.HTML(elem_id="space")
            self.bring = gr.UploadButton(
                "Bring in a run from a file", file_types=[".tar"], elem_id="run-import"
            )

    def wire(
        self, context: Context, bar: gr.HTML, summary: gr.HTML, starters: list[gr.Button]
    ) -> None:
        """Starting (from here and from the `starters`), looking at a run, all that can be done
        with one. What is wrong with the form goes to `summary` and beside the fields."""
        self._wire_start(context, summary, starters)

        run = context.run

        def look(event: gr.EventData) -> Updates:
            return self._opened(context, str(event.run))

        # The view follows what was chosen in it before we hear of it.
        def chosen(event: gr.EventData) -> Updates:
            run_id = str(event.run)
            return {run: run_id, self.message: "", **self._updates(context, run_id)}

        def news(values: Values) -> Updates:
            tree = context.form.tree(values)
            known = rows.total(context.settings, tree)
            line = header.chosen(context.store, tree, values[context.recipe], known)
            return {context.chosen: line, **self._updates(context, values[context.run])}

        outputs = [context.tabs, run, self.view, self.message, self.again]
        bar.select(look, None, outputs, **QUIET)
        self.view.select(chosen, None, [run, self.message, self.again], **QUIET)
        inputs = context.fields | {context.recipe, run}
        for source in (self.view, bar):
            source.change(news, inputs, [context.chosen, self.again], **FORM)
        self._wire_acts(context)
        self._wire_space(context)
        self.sweep.wire(context, self.view, self.message)

    def _wire_acts(self, context: Context) -> None:
        """Every button in what the live view draws, and in the lines above and below it."""

        def act(values: Values, event: gr.EventData) -> Updates:
            hands = Hands(context.store, context.settings, lambda: context.form.spec(values))
            wanted = run_acts.read(event)
            done = run_acts.perform(hands, wanted)
            following = values[context.run] if done.run is None else done.run
            updates = {
                self.message: done.message,
                self.view: live.told(done.run or "", done.download),
                **self._updates(context, following),
                **context.form.set(done.fields),
            }
            if done.run is not None:
                updates[context.run] = done.run
            if done.tab:
                updates[context.tabs] = gr.Tabs(selected=done.tab)
            if str(wanted.get("do")) in _MOVES_DISK:
                updates[self.space] = space.shown(context.store)
            return updates

        outputs = [context.tabs, context.run, self.view, self.message, self.again, self.space]
        # Two buttons pressed one after the other are two.
        multiple: dict[str, Any] = {"trigger_mode": "multiple", **QUIET}
        inputs = context.fields | {context.run}
        self.view.act(act, inputs, [*outputs, *context.fields], **multiple)

    def _wire_space(self, context: Context) -> None:
        """What is on the disk, counted when one opens it; and a run that comes from a file."""

        def bring(path: str) -> Updates:
            try:
                context.settings.check_writable()
                run = keep.unpack(context.store, Path(path))
            except StudioError as error:
                return {self.message: html.problem(error)}
            shown = {self.space: space.shown(context.store)}
            return {**self._opened(context, run.id), **shown}

        outputs = [context.tabs, context.run, self.view, self.message, self.again, self.space]
        self.more.expand(lambda: space.shown(context.store), None, self.space, **QUIET)
        self.bring.upload(bring, self.bring, outputs, **QUIET)

    def _wire_start(self, context: Context, summary: gr.HTML, starters: list[gr.Button]) -> None:
        form = context.form

        def start(values: Values, *, wait: bool = False) -> Updates:
            tree, recipe = form.tree(values), values[context.recipe]
            try:
                wanted = form.spec(values)
                judge(context.settings, wanted)
                begin = jobs.enqueue if wait and context.store.active() else jobs.start
                run = begin(context.store, context.settings, wanted, recipe)
            except SpecError as error:
                found = form.marks(tree, context.base(recipe))
                for problem in error.problems:
                    found.setdefault(problem.field, {}).update(problem_mark(problem))
                card = html.card("Before it can start", html.problems(error.problems, mending))
                about_data = all(p.field.startswith("data.") for p in error.problems)
                tabs = gr.Tabs(selected="Data" if about_data else "Tune")
                return {context.tabs: tabs, context.marks: marks.dump(found), summary: card}
            except StudioError as error:
                return {context.tabs: gr.Tabs(selected="Runs"), self.message: html.problem(error)}
            known = rows.total(context.settings, tree)
            chosen = header.chosen(context.store, tree, recipe, known)
            return {**self._opened(context, run.id), context.chosen: chosen}

        outputs = [context.tabs, context.run, self.view, self.message, self.again]
        outputs += [summary, context.marks, context.chosen]
        inputs = context.fields | {context.recipe}
        for button in starters:
            button.click(start, inputs, outputs, **QUIET)
        # Only here, where one sees what trains: pressed twice elsewhere, Start means one run.
        self.again.click(lambda values: start(values, wait=True), inputs, outputs, **QUIET)

    def _opened(self, context: Context, run_id: str) -> Updates:
        """The tab with this run in view."""
        return {
            context.tabs: gr.Tabs(selected="Runs"),
            context.run: run_id,
            self.view: live.told(run_id),
            self.message: "",
            **self._updates(context, run_id),
        }

    def _updates(self, context: Context, run_id: str) -> Updates:
        """What Start means now. It steps back where the run in view has a next thing of its own."""
        wanted = run_id or context.newest()
        run = next((r for r in context.store.list() if r.id == wanted), None)
        active = context.store.active() is not None
        words = "Add these settings to the queue" if active else "Start training"
        first = active or (run is not None and leads_on(context.store, run))
        return {self.again: gr.Button(words, variant="secondary" if first else "primary")}


def judge(settings: Settings, wanted: RunSpec) -> None:
    """What must hold on the page beyond the spec: the files are there and inside the workspace.

    Raises SpecError with every problem.
    """
    counts = config = None
    found = []
    try:
        counts = rows.counts(settings, wanted)
        rows.judge(settings, wanted)
    except StudioError as error:
        found.append(Problem("data.path", error.message, error.hint))
    try:
        model_folder(settings, wanted)
        config = summarize(wanted.model.name_or_path, settings, wanted.model.revision).config
    except StudioError as error:
        found.append(Problem("model.name_or_path", error.message, error.hint))
    try:
        scorer(settings, wanted)
    except StudioError as error:
        found.append(Problem("grpo.reward_model", error.message, error.hint))
    held = counts.validation if counts else None
    count = steps(wanted, counts.train) if counts else None
    found += possible.problems(wanted, machine(), count, held, config)
    if found:
        raise SpecError(found)


def scorer(settings: Settings, wanted: RunSpec) -> None:
    """Raises StudioError where the reward model that is asked for is neither a run that made one
    nor a folder that the page may read."""
    name = wanted.grpo.reward_model
    if wanted.train.trainer != "grpo" or not wanted.grpo.reward_model_weight:
        return
    try:
        made = str(RunStore(settings.runs).get(name).spec().train.trainer)
    except StudioError:
        # No run: then it has to be a folder.
        made = ""
    if made == "reward":
        return
    if made:
        raise StudioError("That run made no reward model.", "Name a run of the trainer reward.")
    folder = settings.confine(name)
    if not (folder / "config.json").is_file():
        raise StudioError(
            "There is neither a run nor a folder with a model of that name.",
            "Name a run of the trainer reward.",
        )
