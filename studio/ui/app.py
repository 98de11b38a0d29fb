"""The page: six tabs in the order of the work, under a bar that stays. It is wired here; what a tab
shows is decided in the tab's own file."""

from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from studio import jobs, spec
from studio.data import locate
from studio.errors import Problem, SpecError, StudioError
from studio.plan.model import folder_of
from studio.runs import RunStore
from studio.settings import Settings
from studio.spec import RunSpec
from studio.ui import chat_tab, data_tab, export_tab, header, html, marks, model_tab, tune_tab
from studio.ui.chat_tab import ChatTab
from studio.ui.context import MAIN, Context, recipes
from studio.ui.data_tab import DataTab
from studio.ui.export_tab import ExportTab
from studio.ui.form import Form, Tree
from studio.ui.runs_tab import RunsTab
from studio.ui.tune_tab import TuneTab

Values = Mapping[Component, Any]
Updates = dict[Any, Any]
TABS = ("Model", "Data", "Tune", "Runs", "Chat", "Export")
# What a row looks like depends on these fields alone.
_SEEN = ("data.", "train.max_length", "model.name_or_path", "model.revision")
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build(settings: Settings) -> gr.Blocks:
    """The whole page for one home."""
    return _Page(settings).demo


class _Page:
    """Holds the parts while they are wired. Nothing here outlives `build` but the handlers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = RunStore(settings.runs)
        found = recipes(settings)
        start = spec.load(found[MAIN].path) if MAIN in found else spec.DEFAULTS
        with gr.Blocks(title="Atelier", analytics_enabled=False, fill_width=True) as self.demo:
            self._lay_out(Form(start))
            self._wire()

    def _lay_out(self, form: Form) -> None:
        with gr.Column(elem_id="bar-row"):
            self.bar = header.bar(self.store)
            self.chosen = gr.HTML(elem_id="chosen")
        self.recipe, self.run = gr.State(MAIN), gr.State("")
        self.draft = gr.BrowserState({}, storage_key="atelier-draft", secret="atelier")
        self.marks = marks.component()
        with gr.Tabs(elem_id="tabs") as self.tabs:
            self.context = Context(self.settings, self.store, form, self.recipe, self.tabs, self.run)
            tabs = {name: gr.Tab(name, id=name, elem_id=f"tab-{name.lower()}") for name in TABS}
            with tabs["Model"]:
                self.next_model, self.start_model, self.model_right = model_tab.build(self.context)
            with tabs["Data"]:
                self.data = DataTab(self.context)
            with tabs["Tune"]:
                self.tune = TuneTab(self.context)
            with tabs["Runs"]:
                self.runs = RunsTab(self.context)
            with tabs["Chat"]:
                self.chat = ChatTab(self.context)
            with tabs["Export"]:
                self.export = ExportTab(self.context)
        self.form, self.tab = form, tabs
        self.fields = set(form.components.values())

    # What the page does when something happens, tab by tab.

    def _wire(self) -> None:
        everything = self.fields | {self.recipe}
        right = [self.chosen, self.model_right, self.tune.summary, self.marks, self.draft]
        gr.on([c.change for c in self.fields], self._changed, everything, right, trigger_mode="always_last", **_QUIET)
        loaded = [*self.fields, *right, self.recipe, self.tune.recipe]
        self.demo.load(self._load, {self.draft}, loaded, **_QUIET)
        self.marks.select(self._way_back, {self.recipe}, [*self.fields], **_QUIET)
        for tab, button in (("Data", self.next_model), ("Tune", self.data.primary), ("Export", self.chat.primary)):
            button.click(lambda name=tab: gr.Tabs(selected=name), None, self.tabs, **_QUIET)
        self._wire_data()
        self._wire_tune(everything)
        self._wire_runs(everything)
        self._wire_chat()
        self._wire_export()

    def _wire_data(self) -> None:
        data = self.data
        looked = [c.change for k, c in self.form.components.items() if k.startswith(_SEEN)]
        inputs = self.fields | {data.row}
        overview = [data.about, data.table]
        gr.on([self.tab["Data"].select, *looked], self._overview, self.fields, overview, trigger_mode="always_last", **_QUIET)
        gr.on([self.tab["Data"].select, data.row.change, *looked], self._seen, inputs, data.seen,
              trigger_mode="always_last", concurrency_limit=8, **_QUIET)
        data.back.click(lambda n: max(1, int(n or 1) - 1), data.row, data.row, **_QUIET)
        data.forth.click(lambda n: int(n or 0) + 1, data.row, data.row, **_QUIET)
        data.table.select(_row_of, None, data.row, **_QUIET)
        data.upload.upload(self._upload, data.upload, [data.path, data.about], **_QUIET)

    def _wire_tune(self, everything: set[Component]) -> None:
        tune = self.tune
        tune.recipe.input(self._take_recipe, tune.recipe, [*self.fields, self.recipe, tune.summary], **_QUIET)
        saved = [tune.recipe, self.recipe, tune.summary]
        tune.save.click(self._save_recipe, everything | {tune.name}, saved, **_QUIET)

    def _wire_runs(self, everything: set[Component]) -> None:
        runs = self.runs
        buttons: list[Any] = [runs.stop, runs.kill, runs.again, runs.talk]
        started = [self.tabs, self.run, runs.view, runs.message, self.tune.summary, self.marks, self.chosen, *buttons]
        for button in (self.start_model, self.data.start, self.tune.primary, runs.again):
            button.click(self._start, everything, started, concurrency_limit=1, **_QUIET)
        for source in (runs.view, self.bar):
            source.select(self._look, None, [self.tabs, self.run, runs.view, runs.message, *buttons], **_QUIET)
        self.bar.change(self._news, everything | {self.run}, [self.chosen, *buttons], **_QUIET)
        self.tab["Runs"].select(self._buttons, self.run, buttons, **_QUIET)
        runs.stop.click(self._stop, self.run, [runs.message, *buttons], **_QUIET)
        runs.kill.click(self._kill, self.run, [runs.message, *buttons], **_QUIET)
        runs.talk.click(lambda: gr.Tabs(selected="Chat"), None, self.tabs, **_QUIET)

    def _wire_chat(self) -> None:
        chat = self.chat
        spoken = gr.State({})
        inputs = self.fields | {chat.text, chat.mode, chat.run, spoken}
        outputs = [chat.left, chat.right, chat.message, chat.text, spoken]
        sent = gr.on([chat.send.click, chat.text.submit], self._say(spoken), inputs, outputs, concurrency_limit=8, **_QUIET)
        again = chat.again.click(self._say(spoken, again=True), inputs, outputs, concurrency_limit=8, **_QUIET)
        for event in (sent, again):
            event.then(lambda kept: kept, spoken, chat.histories, **_QUIET)
        stopped = chat.stop.click(lambda: "", None, chat.message, cancels=[sent, again], **_QUIET)
        stopped.then(lambda kept: kept, spoken, chat.histories, **_QUIET)
        emptied = [chat.left, chat.right, chat.message, spoken, chat.histories]
        chat.clear.click(lambda: ([], [], "", {}, {}), None, emptied, cancels=[sent, again], **_QUIET)
        view = [chat.left, chat.right]
        chat.mode.change(_show_chat, [spoken, chat.mode], view, **_QUIET)
        opened = self.tab["Chat"].select(self._open_chat, [chat.run, self.run], [chat.run, chat.message], **_QUIET)
        opened.then(lambda kept, mode: (kept, *_show_chat(kept, mode)), [chat.histories, chat.mode], [spoken, *view], **_QUIET)

    def _wire_export(self) -> None:
        export = self.export
        chosen = [export.run, export.kind]
        self.tab["Export"].select(self._open_export, [export.run, self.run, export.kind], [export.run, export.result], **_QUIET)
        gr.on([export.run.change, export.kind.change], self._exported, chosen, export.result, **_QUIET)
        export.primary.click(self._export, chosen, export.result, concurrency_limit=2, **_QUIET)

    # Handlers. Each gets values by component or by name, never by position in a long list.

    def _right(self, tree: Tree, recipe: str) -> Updates:
        base = self.context.base(recipe)
        return {
            self.chosen: header.chosen(self.store, tree, recipe, self._rows(tree)),
            self.model_right: model_tab.right(self.settings, _lenient(tree)),
            self.tune.summary: tune_tab.right(self.settings, self.store, tree, recipe),
            self.marks: marks.dump(self.form.marks(tree, base)),
        }

    def _rows(self, tree: Tree) -> int:
        try:
            return data_tab.count(self.settings, _lenient(tree))
        except StudioError:
            return 0

    def _changed(self, values: Values) -> Updates:
        tree, recipe = self.form.tree(values), values[self.recipe]
        return {**self._right(tree, recipe), self.draft: {"recipe": recipe, "tree": tree}}

    def _load(self, values: Values) -> Updates:
        """A reload: the form as it was left, or else the main recipe."""
        draft = values[self.draft] or {}
        recipe = draft.get("recipe", MAIN)
        recipe = recipe if recipe in self.context.recipes() else MAIN
        tree = draft.get("tree") or self.context.base(recipe).model_dump()
        return {**self.form.fill(tree), **self._right(tree, recipe), self.recipe: recipe, self.draft: gr.skip(),
                self.tune.recipe: gr.Dropdown(list(self.context.recipes()), value=recipe)}

    def _way_back(self, values: Values, event: gr.EventData) -> Updates:
        key = str(event.field).removeprefix("f-").replace("-", ".", 1)
        return self.form.reset(key, self.context.base(values[self.recipe])) if key in self.form.components else {}

    def _overview(self, values: Values) -> Updates:
        words, table = data_tab.overview(self.settings, _lenient(self.form.tree(values)))
        return {self.data.about: words, self.data.table: table}

    def _seen(self, values: Values) -> Iterator[str]:
        number = values[self.data.row]
        yield from data_tab.seen(self.settings, _lenient(self.form.tree(values)), max(1, int(number or 1)))

    def _upload(self, path: str) -> Updates:
        try:
            kept = data_tab.take_upload(self.settings, path)
        except OSError as error:
            return {self.data.about: html.problem(StudioError(f"The file can't be kept: {error.strerror}.", "Free some disk."))}
        return {self.data.path: gr.Dropdown(data_tab.choices(self.settings), value=kept)}

    def _take_recipe(self, name: str) -> Updates:
        try:
            tree = self.context.base(name).model_dump()
        except StudioError as error:
            return {self.tune.summary: html.card(f"The recipe {name}", html.problem(error))}
        return {**self.form.fill(tree), self.recipe: name}

    def _save_recipe(self, values: Values) -> Updates:
        try:
            name = tune_tab.save(self.settings, values[self.tune.name] or "", self.form.spec(values))
        except StudioError as error:
            return {self.tune.summary: html.card("Not saved", html.problem(error))}
        right = tune_tab.right(self.settings, self.store, self.form.tree(values), name)
        return {self.tune.recipe: gr.Dropdown(list(self.context.recipes()), value=name), self.recipe: name,
                self.tune.summary: html.card("Saved", f"<p>As the recipe <b>{name}</b>.</p>") + right}

    def _start(self, values: Values) -> Updates:
        tree, recipe = self.form.tree(values), values[self.recipe]
        try:
            wanted = self.form.spec(values)
            self._judge(wanted)
            run = jobs.start(self.store, self.settings, wanted, recipe)
        except SpecError as error:
            found = {**self.form.marks(tree, self.context.base(recipe))}
            for problem in error.problems:
                found.setdefault(problem.field, {})["problem"] = f"{problem.message} {problem.hint}".strip()
            return {self.tabs: gr.Tabs(selected="Tune"), self.marks: marks.dump(found),
                    self.tune.summary: html.card("Before it can start", html.problems(error.problems))}
        except StudioError as error:
            return {self.tabs: gr.Tabs(selected="Runs"), self.runs.message: html.problem(error)}
        return {self.tabs: gr.Tabs(selected="Runs"), self.run: run.id, self.runs.view: run.id, self.runs.message: "",
                self.chosen: header.chosen(self.store, tree, recipe, self._rows(tree)), **self._button_updates(run.id)}

    def _judge(self, wanted: RunSpec) -> None:
        """What must hold on the page beyond the spec: files are there and inside the workspace."""
        problems = []
        try:
            path = locate(wanted.data.path, self.settings)
            if path is not None:
                self.settings.confine(str(path))
                if self._rows(wanted.model_dump()) < 2:
                    words, _ = data_tab.overview(self.settings, wanted)
                    raise StudioError("has fewer than two rows that can be read.", "See the Data tab.")
        except StudioError as error:
            problems.append(Problem("data.path", error.message, error.hint))
        try:
            folder = folder_of(wanted.model.name_or_path, self.settings)
            if folder is not None:
                self.settings.confine(str(folder))
            model_tab.summarize(wanted.model.name_or_path, self.settings)
        except StudioError as error:
            problems.append(Problem("model.name_or_path", error.message, error.hint))
        if problems:
            raise SpecError(problems)

    def _button_updates(self, run_id: str) -> Updates:
        return dict(self.runs.buttons(self.context, run_id))

    def _look(self, event: gr.EventData) -> Updates:
        run_id = str(event.run)
        return {self.tabs: gr.Tabs(selected="Runs"), self.run: run_id, self.runs.view: run_id, self.runs.message: "",
                **self._button_updates(run_id)}

    def _news(self, values: Values) -> Updates:
        tree = self.form.tree(values)
        run_id = values[self.run] or self._newest()
        return {self.chosen: header.chosen(self.store, tree, values[self.recipe], self._rows(tree)), **self._button_updates(run_id)}

    def _newest(self) -> str:
        return next((run.id for run in self.store.list()), "")

    def _buttons(self, run_id: str) -> Updates:
        return self._button_updates(run_id or self._newest())

    def _stop(self, run_id: str) -> Updates:
        return self._end(run_id, now=False)

    def _kill(self, run_id: str) -> Updates:
        return self._end(run_id, now=True)

    def _end(self, run_id: str, *, now: bool) -> Updates:
        run_id = run_id or self._newest()
        message = ""
        try:
            jobs.stop(self.store.get(run_id), now=now)
        except StudioError as error:
            message = html.problem(error)
        return {self.runs.message: message, **self._button_updates(run_id)}

    def _say(self, spoken: gr.State, *, again: bool = False) -> Any:
        chat = self.chat

        def say(values: Values) -> Iterator[Updates]:
            mode, run_id = values[chat.mode], values[chat.run] or None
            kept = {side: list(turns) for side, turns in (values[spoken] or {}).items()}
            sides = chat.sides(mode, run_id)
            text = chat_tab.forget_answer(kept, sides) if again else (values[chat.text] or "").strip()
            if not text:
                yield {chat.message: "<p class='soft'>Write something first.</p>"}
                return
            tree = self.form.tree(values)
            try:
                generate = chat_tab.generation(tree)
            except SpecError as error:
                yield {chat.message: html.problems(error.problems)}
                return
            for grown, words in chat_tab.answer(self.store, self.settings, run_id, _lenient(tree), text, sides, kept, generate):
                left, right = chat_tab.shown(grown, mode)
                # What was typed stays in the box when it could not be sent.
                typed = gr.skip() if again else (text if "problem" in words else "")
                yield {chat.left: gr.Chatbot(**left), chat.right: gr.Chatbot(**right), chat.message: words, spoken: grown,
                       chat.text: typed}

        return say

    def _open_chat(self, chosen: str, looked: str) -> Updates:
        update, value = self._run_choices(chosen, looked)
        words = ""
        active = self.store.active()
        if active is not None:
            words = html.wait("A run is going and needs this machine's memory; the chat is back when it ends")
        elif not value:
            words = "<p class='soft'>There is no tuned model yet: only the base answers. Start a run to make one.</p>"
        return {self.chat.run: update, self.chat.message: words}

    def _run_choices(self, chosen: str, looked: str) -> tuple[gr.Dropdown, str]:
        ids = [run.id for run in chat_tab.tuned_runs(self.store)]
        value = next((r for r in (looked, chosen) if r in ids), ids[0] if ids else "")
        return gr.Dropdown(ids, value=value or None), value

    def _open_export(self, chosen: str, looked: str, kind: str) -> Updates:
        update, value = self._run_choices(chosen, looked)
        return {self.export.run: update, self.export.result: self._exported(value, kind)}

    def _exported(self, run_id: str, kind: str) -> str:
        if not run_id:
            return html.card("Nothing to take home yet", "<p class='soft'>When a run has ended, its files are made here.</p>")
        try:
            return export_tab.done(self.store.get(run_id), kind)
        except StudioError as error:
            return html.card(run_id, html.problem(error))

    def _export(self, run_id: str, kind: str) -> Iterator[str]:
        yield from export_tab.make(self.store, self.settings, run_id, kind)


def _row_of(event: gr.SelectData) -> int:
    return int(event.index[0]) + 1


def _show_chat(kept: chat_tab.Histories, mode: str) -> tuple[gr.Chatbot, gr.Chatbot]:
    left, right = chat_tab.shown(kept or {}, mode)
    return gr.Chatbot(**left), gr.Chatbot(**right)


def _lenient(tree: Tree) -> RunSpec:
    """The spec with every wrong field at its default, for the parts of the page that can still say
    something while another field is being mended."""
    try:
        return spec.parse(tree)
    except SpecError as error:
        bad = {p.field for p in error.problems}
        kept = {s: {n: v for n, v in held.items() if f"{s}.{n}" not in bad} for s, held in tree.items()}
        return spec.parse(kept)
