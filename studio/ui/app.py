"""The page: six tabs in the order of the work, under a bar that stays.

What a tab shows and does is in the tab's own file; here they are put together, and the form is
wired to what follows from it.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import gradio as gr

from studio import spec
from studio.plan.machine import machine
from studio.plan.possible import refused
from studio.runs import RunStore
from studio.settings import Settings
from studio.ui import header, marks, model_tab, rows, tune_tab
from studio.ui.chat_tab import ChatTab
from studio.ui.context import FORM, MAIN, QUIET, Context, Updates, Values, lenient, recipes
from studio.ui.data_tab import DataTab
from studio.ui.export_tab import ExportTab
from studio.ui.form import Form, Tree
from studio.ui.model_tab import ModelTab
from studio.ui.runs_tab import RunsTab
from studio.ui.tune_tab import TuneTab

_SAME_S = 30.0
TABS = ("Model", "Data", "Tune", "Runs", "Chat", "Export")


def build(settings: Settings) -> gr.Blocks:
    """The whole page for one home."""
    store = RunStore(settings.runs)
    found = recipes(settings)
    start = spec.load(found[MAIN].path) if MAIN in found else spec.DEFAULTS
    demo: gr.Blocks = gr.Blocks(title="Atelier", analytics_enabled=False, fill_width=True)
    with demo:
        with gr.Column(elem_id="bar-row"):
            bar = header.bar()
            chosen = gr.HTML(elem_id="chosen")
        recipe, run = gr.State(MAIN), gr.State("")
        # No State: which tab is in front is known without asking the server.
        opened = gr.Textbox(TABS[0], visible="hidden", elem_id="opened")
        missing = refused(machine())
        mark = marks.component(missing)
        with gr.Tabs(elem_id="tabs") as tabs:
            form = Form(start, missing)
            context = Context(settings, store, form, recipe, run, tabs, chosen, mark, opened)
            context.tab |= {n: gr.Tab(n, id=n, elem_id=f"tab-{n.lower()}") for n in TABS}
            with context.tab["Model"]:
                model = ModelTab(context)
            with context.tab["Data"]:
                data = DataTab(context)
            with context.tab["Tune"]:
                tune = TuneTab(context)
            with context.tab["Runs"]:
                runs = RunsTab(context)
            with context.tab["Chat"]:
                chat = ChatTab(context)
            with context.tab["Export"]:
                export = ExportTab(context)
        for name, tab in context.tab.items():
            tab.select(None, None, opened, js=f"() => '{name}'", **QUIET)
        model.wire(context)
        data.wire(context)
        tune.wire(context)
        runs.wire(context, bar, tune.summary, [model.start, data.start, tune.primary])
        chat.wire(context)
        export.wire(context)
        # The last: by then it is known what follows a change.
        _wire_form(context, demo, model, tune)
        _lead_on(context, {"Data": model.primary, "Tune": data.primary, "Export": chat.primary})
    return demo


def _lead_on(context: Context, buttons: dict[str, gr.Button]) -> None:
    """Each button opens the tab of its name."""
    for tab, button in buttons.items():
        button.click(_opener(tab), None, context.tabs, **QUIET)


def mending(event: Any, form: Form) -> dict[str, Any]:
    """The values that the button of a problem sets, by field. They come from the browser, so they
    can do what typing can, and no more."""
    try:
        changes = json.loads(str(event.mend))
    except (AttributeError, ValueError):
        return {}
    held = changes.items() if isinstance(changes, dict) else ()
    return {key: value for key, value in held if key in form.components}


def _opener(tab: str) -> Any:
    return lambda: gr.Tabs(selected=tab)


class _Same:
    """What a page opens with, for all who come within some seconds while the runs stay as they are:
    pages that only look come often."""

    def __init__(self, context: Context, make: Callable[[], Updates]) -> None:
        self._store, self._make = context.store, make
        self._known: tuple[Any, float, Updates] = (None, 0.0, {})

    def __call__(self) -> Updates:
        active, now = self._store.active(), time.monotonic()
        key = [run.id for run in self._store.list()], active and active.id
        known, at, page = self._known
        if key != known or now - at > _SAME_S:
            page = self._make()
            self._known = key, now, page
        return dict(page)


def _wire_form(context: Context, demo: gr.Blocks, model: ModelTab, tune: TuneTab) -> None:
    """Every change of a field moves what follows from it; a reload brings the form back."""
    form, recipe = context.form, context.recipe
    draft = gr.BrowserState({}, storage_key="atelier-draft", secret="atelier")
    right = [context.chosen, model.summary, tune.summary, context.marks]

    def follow(tree: Tree, name: str) -> Updates:
        return {
            context.chosen: header.chosen(
                context.store, tree, name, rows.total(context.settings, tree)
            ),
            model.summary: model_tab.right(context.settings, lenient(tree)),
            tune.summary: tune_tab.right(context.settings, context.store, tree, name),
            context.marks: marks.dump(form.marks(tree, context.base(name))),
        }

    # Fields that say "changed" while the page is being filled still hold the page's first values:
    # taken at their word, they would overwrite what was left here before the reload.
    filled = gr.Number(0, visible="hidden")

    def changed(values: Values) -> Any:
        if not values[filled]:
            return gr.skip()
        # At once: what is streamed of the values before ends with it.
        asked = {k: n for each in context.follows for k, n in each.note(values).items()}
        tree, name = form.tree(values), values[recipe]
        return {**follow(tree, name), **asked, draft: {"recipe": name, "tree": tree}}

    # What was left here, for the fields to be filled with: most pages are opened to look, and need
    # none of that.
    left = gr.Textbox("", visible="hidden", elem_id="left-here")

    async def look(values: Values) -> Any:
        kept = values[draft] or {}
        return {left: json.dumps(kept)} if kept.get("tree") else fresh()

    fresh = _Same(context, lambda: open_with({}))

    def fill(values: Values) -> Updates:
        kept = json.loads(values[left])
        return {**form.fill(kept["tree"]), **open_with(kept)}

    def open_with(kept: dict[str, Any]) -> Updates:
        names = list(recipes(context.settings))
        name = str(kept.get("recipe"))
        name = name if name in names else MAIN
        tree = kept.get("tree") or spec.tree(context.base(name))
        shown = gr.Dropdown(names, value=name)
        return {**follow(tree, name), recipe: name, tune.recipe: shown, filled: 1}

    def way_back(values: Values, event: gr.EventData) -> Any:
        if mended := mending(event, form):
            return form.set(mended)
        key = str(getattr(event, "field", "")).removeprefix("f-").replace("-", ".", 1)
        known = key in form.components
        return form.reset(key, context.base(values[recipe])) if known else gr.skip()

    fields = context.fields
    given = {part for each in context.follows for part in each.inputs}
    counts = [count for each in context.follows for count in each.counts]
    gr.on(
        [c.change for c in fields],
        changed,
        fields | {recipe, filled} | given,
        [*right, draft, *counts],
        trigger_mode="always_last",
        **FORM,
    )
    seen = [*right, recipe, tune.recipe, filled]
    demo.load(look, {draft}, [*seen, left], **QUIET)
    left.change(fill, {left}, [*fields, *seen], **QUIET)
    # Two ways back pressed one after the other are two.
    multiple: dict[str, Any] = {"trigger_mode": "multiple", **QUIET}
    context.marks.select(way_back, {recipe}, [*fields], **multiple)
