"""The Runs tab: the live view, starting a run, and what can be done with the one looked at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import plotly

from studio import jobs
from studio.errors import Problem, SpecError, StudioError
from studio.plan.model import summarize
from studio.runs import ENDED, Run
from studio.settings import Settings
from studio.spec import RunSpec
from studio.ui import header, html, live, marks, rows
from studio.ui.context import QUIET, Context, Updates, Values, model_folder

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


class RunsTab:
    """The tab's components."""

    def __init__(self, context: Context) -> None:
        with gr.Row(elem_classes="actions"):
            words = "A run goes on when this page is closed. Come back whenever you like."
            gr.HTML(html.lead("Watch it learn", words), elem_classes="lead")
            self.stop = gr.Button(
                "Stop and keep", variant="stop", elem_id="stop-run", visible=False
            )
            self.kill = gr.Button("Stop now, save nothing", elem_id="kill-run", visible=False)
            self.first = gr.Button("Next in the queue", elem_id="queue-first", visible=False)
            self.leave = gr.Button("Take out of the queue", elem_id="queue-leave", visible=False)
            self.resume = gr.Button("Resume", elem_id="resume-run", visible=False)
            self.again = gr.Button("Start training", elem_id="start-runs")
            self.talk = gr.Button("Talk to it", variant="primary", elem_id="talk", visible=False)
        self.message = gr.HTML(elem_id="runs-message")
        self.view = live.view(context.store, PLOTLY)
        self._buttons: list[Any] = [
            self.stop,
            self.kill,
            self.first,
            self.leave,
            self.resume,
            self.again,
            self.talk,
        ]

    def wire(
        self, context: Context, bar: gr.HTML, summary: gr.HTML, starters: list[gr.Button]
    ) -> None:
        """Starting (from here and from the `starters`), looking at a run, stopping it. What is
        wrong with the form goes to `summary` and beside the fields."""
        self._wire_start(context, summary, starters)

        def look(event: gr.EventData) -> Updates:
            return self._opened(context, str(event.run))

        def news(values: Values) -> Updates:
            tree = context.form.tree(values)
            known = rows.total(context.settings, tree)
            chosen = header.chosen(context.store, tree, values[context.recipe], known)
            return {context.chosen: chosen, **self._updates(context, values[context.run])}

        def end(run_id: str, now: bool) -> Updates:
            message = ""
            try:
                jobs.stop(context.store.get(run_id or context.newest()), now=now)
            except StudioError as error:
                message = html.problem(error)
            return {self.message: message, **self._updates(context, run_id)}

        run = context.run
        outputs = [context.tabs, run, self.view, self.message, *self._buttons]
        for source in (self.view, bar):
            source.select(look, None, outputs, **QUIET)
        inputs = context.fields | {context.recipe, run}
        bar.change(news, inputs, [context.chosen, *self._buttons], **QUIET)
        opened = context.tab["Runs"].select
        opened(lambda run_id: self._updates(context, run_id), run, self._buttons, **QUIET)
        ended = [self.message, *self._buttons]
        self.stop.click(lambda run_id: end(run_id, False), run, ended, **QUIET)
        self.kill.click(lambda run_id: end(run_id, True), run, ended, **QUIET)
        self._wire_queue(context, ended)

    def _wire_queue(self, context: Context, outputs: list[Any]) -> None:
        """The run that is looked at: first in the queue, out of it, or on from where it ended."""

        def change(run_id: str, work: Callable[[Run], None]) -> Updates:
            message = ""
            try:
                work(context.store.get(run_id or context.newest()))
            except StudioError as error:
                message = html.problem(error)
            return {self.message: message, **self._updates(context, run_id)}

        def first(run_id: str) -> Updates:
            return change(run_id, lambda run: jobs.move(context.store, run, 1))

        def leave(run_id: str) -> Updates:
            return change(run_id, lambda run: jobs.remove(context.store, run))

        def resume(run_id: str) -> Updates:
            return change(run_id, lambda run: jobs.resume(context.store, context.settings, run))

        self.resume.click(resume, context.run, outputs, **QUIET)
        self.first.click(first, context.run, outputs, **QUIET)
        self.leave.click(leave, context.run, outputs, **QUIET)

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
                    words = f"{problem.message} {problem.hint}".strip()
                    found.setdefault(problem.field, {})["problem"] = words
                card = html.card("Before it can start", html.problems(error.problems))
                about_data = all(p.field.startswith("data.") for p in error.problems)
                tabs = gr.Tabs(selected="Data" if about_data else "Tune")
                return {context.tabs: tabs, context.marks: marks.dump(found), summary: card}
            except StudioError as error:
                return {context.tabs: gr.Tabs(selected="Runs"), self.message: html.problem(error)}
            known = rows.total(context.settings, tree)
            chosen = header.chosen(context.store, tree, recipe, known)
            return {**self._opened(context, run.id), context.chosen: chosen}

        outputs = [context.tabs, context.run, self.view, self.message, *self._buttons]
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
            self.view: run_id,
            self.message: "",
            **self._updates(context, run_id),
        }

    def _updates(self, context: Context, run_id: str) -> Updates:
        """Which buttons make sense for the run that is looked at, or else the newest."""
        wanted = run_id or context.newest()
        run = next((r for r in context.store.list() if r.id == wanted), None)
        state = context.store.state(run) if run else None
        waits = state is not None and state.status == "queued"
        going = state is not None and not waits and state.status not in ENDED
        asked = run is not None and run.stop.exists()
        active = context.store.active() is not None
        tuned = (
            run is not None
            and not going
            and not waits
            and (run.adapter / "adapter_config.json").is_file()
        )
        return {
            self.stop: gr.Button(visible=going, interactive=not asked),
            self.kill: gr.Button(visible=going and asked),
            self.resume: gr.Button(
                visible=state is not None and state.status in ("stopped", "failed", "interrupted")
            ),
            self.first: gr.Button(visible=waits),
            self.leave: gr.Button(visible=waits),
            self.again: gr.Button(
                "Add these settings to the queue" if active else "Start training",
                variant="secondary" if tuned or active else "primary",
            ),
            self.talk: gr.Button(visible=tuned),
        }


def judge(settings: Settings, wanted: RunSpec) -> None:
    """What must hold on the page beyond the spec: the files are there and inside the workspace.

    Raises SpecError with every problem.
    """
    problems = []
    try:
        rows.judge(settings, wanted)
    except StudioError as error:
        problems.append(Problem("data.path", error.message, error.hint))
    try:
        model_folder(settings, wanted)
        summarize(wanted.model.name_or_path, settings)
    except StudioError as error:
        problems.append(Problem("model.name_or_path", error.message, error.hint))
    if problems:
        raise SpecError(problems)
