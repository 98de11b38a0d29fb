"""Below the choice of a recipe on the Tune page: all of them with what they are for, two compared,
and one from a text or a file."""

from pathlib import Path
from typing import Any

import gradio as gr

from studio.errors import SpecError, StudioError
from studio.ui import acts, html
from studio.ui.context import QUIET, Context, Updates, Values, recipes, script
from studio.ui.form import Tree
from studio.ui.recipes import (
    ATTRIBUTE,
    SHARED,
    bring_back,
    compared,
    delete,
    read,
    settings_at,
    shown,
    sides,
    taken,
)


class RecipesView:
    """The closed group's components; `chosen` is the box in which a recipe is picked."""

    def __init__(self, context: Context, chosen: gr.Dropdown) -> None:
        self.chosen = chosen
        self.acts = acts.component(ATTRIBUTE)
        gr.HTML(
            html_template="<i></i>",
            js_on_load=script("recipes.js"),
            elem_id="recipes-script",
            elem_classes="hidden-part",
        )
        words = "All recipes, to compare and to share"
        with gr.Accordion(words, open=False, elem_id="recipes") as self.all:
            self._compare(context)
            self._take()
            self.said = gr.HTML(elem_id="recipes-said")
            self.list = gr.HTML(elem_id="recipes-list")

    def _compare(self, context: Context) -> None:
        choices = sides(context.settings, context.store)
        first = next((key for _words, key in choices if key != "form"), "form")
        with gr.Accordion("Compare two", open=False, elem_id="recipes-compare") as self.two:
            with gr.Row():
                self.left, self.right = (
                    gr.Dropdown(
                        choices,
                        value=value,
                        label=words,
                        # What a page from before a restart holds is judged by us, in words.
                        allow_custom_value=True,
                        elem_id=name,
                    )
                    for words, name, value in (
                        ("This", "compare-left", first),
                        ("With this", "compare-right", "form"),
                    )
                )
            self.differs = gr.HTML(elem_id="recipes-differ")

    def _take(self) -> None:
        with gr.Accordion("From a text or a file", open=False, elem_id="recipes-take"):
            self.text = gr.Textbox(
                label="Recipe",
                lines=5,
                max_lines=20,
                placeholder="train:\n  learning_rate: 2e-4",
                info="YAML, as somebody shared it. It is only read; loading it sets every field.",
                elem_id="recipe-text",
            )
            with gr.Row():
                self.take = gr.Button("Load it", elem_id="recipe-take")
                self.file = gr.UploadButton(
                    "From a file", file_types=[".yaml", ".yml"], elem_id="recipe-file"
                )
            self.taken = gr.HTML(elem_id="recipe-taken")

    def load(self, context: Context, name: str) -> Updates:
        """The form with the recipe's settings. Raises StudioError."""
        tree = settings_at(f"recipe/{name}", {}, context.settings, context.store)
        return {
            **context.form.fill(tree),
            context.recipe: name,
            self.chosen: gr.Dropdown(list(recipes(context.settings)), value=name),
            self.list: shown(context.settings, name),
            self.said: "",
        }

    def wire(self, context: Context) -> None:
        """What the buttons of the list do, the table of two, and what is taken from elsewhere."""
        self._wire_list(context)
        self._wire_compare(context)
        self._wire_take(context)

    def _wire_list(self, context: Context) -> None:
        settings, in_hand = context.settings, context.recipe

        def after(name: str, words: str) -> Updates:
            return {
                self.chosen: gr.Dropdown(list(recipes(settings)), value=name),
                self.list: shown(settings, name),
                self.said: words,
            }

        def act(values: Values, event: gr.EventData) -> Any:
            asked = acts.read(event)
            name, held = str(asked.get("name")), values[in_hand]
            try:
                match asked.get("do"):
                    case "load":
                        return self.load(context, name)
                    case "compare":
                        tree = context.form.tree(values)
                        return self._table(context, f"recipe/{name}", values[self.right], tree)
                    case "delete":
                        delete(settings, name)
                        undo = {"do": "undo", "name": name}
                        words = f"Deleted {name}."
                        back = acts.button("Undo", undo, attribute=ATTRIBUTE)
                        return after(held, html.done(words, back))
                    case "undo":
                        bring_back(settings, name)
                        return after(held, html.done(f"{name} is back."))
            except StudioError as error:
                return after(held, _wrong(error))
            return gr.skip()

        outputs = [self.chosen, self.list, self.said, in_hand, *context.fields]
        outputs += [self.left, self.right, self.differs, self.two]
        inputs = context.fields | {in_hand, self.right}
        self.acts.select(act, inputs, outputs, trigger_mode="multiple", **QUIET)
        self.all.expand(lambda name: shown(settings, name), in_hand, self.list, **QUIET)
        # Whoever saves or picks one above sees it here at once.
        self.chosen.change(lambda name: shown(settings, name), self.chosen, self.list, **QUIET)

    def _table(self, context: Context, left: str, right: str, tree: Tree) -> Updates:
        """The two boxes and the table of what they differ in."""
        settings, store = context.settings, context.store
        choices = sides(settings, store)
        words = {key: said for said, key in choices}
        try:
            both = [settings_at(key, tree, settings, store) for key in (left, right)]
            table = compared(both[0], both[1], (words.get(left, left), words.get(right, right)))
        except StudioError as error:
            table = _wrong(error)
        return {
            self.left: gr.Dropdown(choices, value=left),
            self.right: gr.Dropdown(choices, value=right),
            self.differs: table,
            self.two: gr.Accordion(open=True),
        }

    def _wire_compare(self, context: Context) -> None:
        def look(values: Values) -> Updates:
            left, right = str(values[self.left]), str(values[self.right])
            found = self._table(context, left, right, context.form.tree(values))
            del found[self.two]
            return found

        inputs = context.fields | {self.left, self.right}
        outputs = [self.left, self.right, self.differs]
        for event in (self.two.expand, self.left.input, self.right.input):
            event(look, inputs, outputs, **QUIET)

    def _wire_take(self, context: Context) -> None:
        def take(text: str) -> Updates:
            try:
                tree, told = taken(text or "")
            except StudioError as error:
                return {self.taken: _wrong(error)}
            words = " ".join(["Loaded: all fields are set. Save it below to keep it.", *told])
            return {
                **context.form.fill(tree),
                context.recipe: SHARED,
                self.chosen: gr.Dropdown(list(recipes(context.settings)), value=None),
                self.taken: html.done(words),
            }

        def opened(path: str) -> Updates:
            try:
                return {self.text: read(Path(path)), self.taken: ""}
            except StudioError as error:
                return {self.taken: _wrong(error)}

        outputs = [self.taken, self.chosen, context.recipe, *context.fields]
        self.take.click(take, self.text, outputs, **QUIET)
        self.file.upload(opened, self.file, [self.text, self.taken], **QUIET)


def _wrong(error: StudioError) -> str:
    """HTML: the error; of a spec, every wrong field by its name."""
    return html.problems(error.problems) if isinstance(error, SpecError) else html.problem(error)
