"""The Tune tab: recipe, LoRA and training, and what the run will do."""

import re
from collections.abc import Iterator
from html import escape

import gradio as gr

from studio import jobs
from studio import spec as specs
from studio.errors import SpecError, StudioError
from studio.plan.estimate import duration
from studio.plan.machine import gb, machine
from studio.plan.possible import judged, problems
from studio.runs import RunStore, files
from studio.settings import Settings
from studio.spec import METHODS, SECTIONS, TRAINERS, RunSpec, show
from studio.ui import html
from studio.ui.context import FORM, MAIN, QUIET, STREAM, Context, Updates, Values, recipes
from studio.ui.form import Tree, mending
from studio.ui.plan_view import bar, planned
from studio.ui.recipes import shared
from studio.ui.recipes_view import RecipesView
from studio.ui.runs_tab import judge


class TuneTab:
    """The tab's components."""

    def __init__(self, context: Context) -> None:
        with gr.Row(elem_classes="actions"):
            gr.HTML(
                html.lead(
                    "Set up the training",
                    "The defaults work. Change one thing at a time and see what it does.",
                ),
                elem_classes="lead",
            )
            self.primary = gr.Button("Start training", variant="primary", elem_id="start-tune")
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                self.recipe = gr.Dropdown(
                    list(recipes(context.settings)),
                    value=MAIN,
                    label="Recipe",
                    # What a page from before a restart holds is judged by us, in words.
                    allow_custom_value=True,
                    elem_id="recipe",
                    info="Settings that go together. Loading one sets every field.",
                )
                self.recipes = RecipesView(context, self.recipe)
                context.form.make("train.trainer")
                context.form.make("adapter.method")
                with gr.Row():
                    context.form.basic("adapter", group="LoRA")
                with gr.Row():
                    context.form.make("train.num_train_epochs")
                    context.form.make("train.learning_rate")
                with gr.Row():
                    context.form.make("train.per_device_train_batch_size")
                    context.form.make("train.max_length")
                own = [name for name in (*METHODS, *TRAINERS) if name in SECTIONS]
                context.form.advanced("adapter", *own, "train", "fast", "eval")
                with gr.Accordion("Save as a recipe", open=False, elem_id="save-recipe"):
                    self.name = gr.Textbox(
                        label="Name", placeholder="my-persona", max_lines=1, elem_id="recipe-name"
                    )
                    self.save = gr.Button("Save", elem_id="recipe-save")
            with gr.Column(scale=5, min_width=320):
                self.summary = gr.HTML(elem_id="tune-summary")
                with gr.Row(elem_classes="measure"):
                    self.measure = gr.Button(
                        "Measure with a few real steps", size="sm", elem_id="measure"
                    )
                    self.halt = gr.Button("Stop", size="sm", visible=False, elem_id="measure-stop")
                self.measured = gr.HTML(elem_id="measured")

    def wire(self, context: Context) -> None:
        """Loading a recipe and saving one."""
        settings, form, in_hand = context.settings, context.form, context.recipe

        def take(name: str) -> Updates:
            try:
                return self.recipes.load(context, name)
            except StudioError as error:
                return {self.summary: html.card(f"The recipe {name}", html.problem(error))}

        def keep(values: Values) -> Updates:
            try:
                name = save(settings, values[self.name] or "", form.spec(values), values[in_hand])
            except StudioError as error:
                return {self.summary: html.card("Not saved", html.problem(error))}
            saved = html.card("Saved", f"<p>As the recipe <b>{escape(name)}</b>.</p>")
            return {
                self.recipe: gr.Dropdown(list(recipes(settings)), value=name),
                in_hand: name,
                self.summary: saved + right(settings, context.store, form.tree(values), name),
            }

        def measure(values: Values) -> Iterator[Updates]:
            said = ""
            try:
                for words in measuring(settings, context.store, form.spec(values)):
                    yield self._measuring(f"Measuring: {words} …", going=True)
            except SpecError as error:
                said = html.problems(error.problems, mending)
            except StudioError as error:
                said = html.problem(error)
            yield self._measuring(said, going=False)

        def summed(values: Values) -> str:
            return right(settings, context.store, form.tree(values), values[in_hand])

        self.recipes.wire(context)
        view = [self.recipe, self.recipes.list, self.recipes.said]
        outputs = [*context.fields, in_hand, self.summary, *view]
        self.recipe.input(take, self.recipe, outputs, **QUIET)
        outputs = [self.recipe, in_hand, self.summary]
        self.save.click(keep, context.fields | {self.name, in_hand}, outputs, **QUIET)
        shown = [self.measure, self.halt, self.measured]
        measured = self.measure.click(
            measure, context.fields, shown, concurrency_limit=None, **STREAM
        )
        # Of the form as it is then: a measurement takes its time.
        measured.then(summed, context.fields | {in_hand}, self.summary, **FORM)
        self.halt.click(lambda: jobs.stop_probe(settings), None, None, **QUIET)

    def _measuring(self, words: str, *, going: bool) -> Updates:
        return {
            self.measure: gr.Button(visible=not going),
            self.halt: gr.Button(visible=going),
            self.measured: f"<p class='soft' role='status'>{escape(words)}</p>" if going else words,
        }


def measuring(settings: Settings, store: RunStore, spec: RunSpec) -> Iterator[str]:
    """Makes the steps of a run that could be started from the page, and says how far they are.
    Raises StudioError, or SpecError with what a start would be refused for."""
    judge(settings, spec)
    yield from jobs.probe(store, settings, spec)


def save(settings: Settings, name: str, spec: RunSpec, in_hand: str) -> str:
    """Writes the recipe into the home; returns its name. Raises StudioError for a bad name, or
    one that would overwrite another recipe than the one in hand."""
    settings.check_writable()
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not slug or len(slug) > 40:
        raise StudioError("The recipe needs a name.", "Use up to 40 letters, digits and dashes.")
    if (settings.presets / f"{slug}.yaml").exists():
        raise StudioError(f"{slug} is a bundled recipe.", "Choose another name.")
    if slug != in_hand and (settings.recipes / f"{slug}.yaml").exists():
        raise StudioError(
            f"There is a recipe {slug} already.", "Choose another name, or load it first."
        )
    try:
        settings.recipes.mkdir(parents=True, exist_ok=True)
        files.write_text(settings.recipes / f"{slug}.yaml", specs.dump(spec))
    except OSError as error:
        raise StudioError(
            f"The recipe can't be written: {error.strerror}.",
            f"Free some disk at {settings.recipes}.",
        ) from None
    return slug


def right(settings: Settings, store: RunStore, tree: Tree, recipe: str) -> str:
    """What the run will do, or everything that must be mended first."""
    found = judged(tree, machine())
    if found:
        return html.card("Before it can start", html.problems(found, mending))
    try:
        spec = specs.parse(tree)
        what = _what(settings, store, spec)
    except SpecError as error:
        return html.card("Before it can start", html.problems(error.problems, mending))
    except StudioError as error:
        return html.card("Before it can start", html.problem(error))
    about = recipes(settings).get(recipe)
    words = f"<p class='soft'>{escape(about.about)}</p>" if about and about.about else ""
    return html.card("What will happen", words, what, shared(spec, recipe))


def _share(spec: RunSpec, trained: int, parameters: int) -> str:
    """What part of the model the trained parameters are, in words."""
    if spec.adapter.method == "none":
        return "parameters: all of them"
    if not parameters or not trained:
        return "parameters of the adapter"
    return f"parameters, {100 * trained / parameters:.2g} % of the model's"


def _rewarded(spec: RunSpec) -> tuple[str, str]:
    """What answers are rewarded for, and how much each of several counts."""
    weights = {name: getattr(spec.grpo, field) for name, field in specs.REWARDS.items()}
    given = {name.replace("_", " "): weight for name, weight in weights.items() if weight}
    each = ", ".join(f"{name} {show(weight)}" for name, weight in given.items())
    return ", ".join(given), f"weights: {each}" if len(given) > 1 else "under Rewards, below"


def _what(settings: Settings, store: RunStore, spec: RunSpec) -> str:
    made = planned(settings, store, spec)
    if made is None:
        return "<p>The rows are read when the run starts; then its steps are counted.</p>"
    found, here, summary = made.plan, made.machine, made.summary
    if wrong := problems(spec, here, found.steps, found.eval_rows, summary.config):
        raise SpecError(wrong)
    per_step = spec.train.per_device_train_batch_size * spec.train.gradient_accumulation_steps
    what = "answers" if spec.train.trainer == "grpo" else "rows"
    answers = "; writing the answers comes on top" if spec.train.trainer == "grpo" else ""
    first = f"a first guess, until a run was measured{answers}"
    guess = "from your earlier runs" if made.learned.runs else first
    if made.probed:
        guess = f"from a few steps that were measured{answers}"
    later = "told once its files are here"
    time = duration(found.seconds) if found.seconds is not None else "–"
    memory = f"{gb(found.memory)} GB" if found.memory is not None else "–"
    count = f"up to {found.steps}" if spec.train.packing else f"{found.steps}"
    free = f"{gb(here.free)} GB free"
    trained = f"{found.trainable:,}" if found.trainable else "–"
    pairs = [
        ("Rows", f"{found.train_rows}", f"and {found.eval_rows} held back"),
        ("Steps", count, f"{per_step} {what} each"),
        ("Time, about", time, guess if found.seconds is not None else later),
        ("Memory, about", memory, free if found.memory is not None else later),
        ("Trained", trained, _share(spec, found.trainable, summary.parameters)),
        ("Learning rate", show(spec.train.learning_rate), spec.train.lr_scheduler_type),
    ]
    if spec.train.trainer == "grpo":
        pairs.append(("Rewarded", *_rewarded(spec)))
    checked = jobs.audit_result(settings, spec) is not None
    unchecked = "Not all rows were looked at yet: the Data tab does that, under “Check all rows”."
    return html.facts(pairs) + bar(made) + ("" if checked else html.soft(unchecked))
