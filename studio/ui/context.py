"""What every tab is handed: where things are, the form, the runs, and the page's shared parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from studio import spec
from studio.errors import SpecError, StudioError
from studio.plan.model import folder_of
from studio.runs import RunStore
from studio.settings import Settings
from studio.spec import RunSpec
from studio.ui.follow import Follow
from studio.ui.form import Form

STATIC = Path(__file__).parent / "static"
MAIN = "persona"

# The groups of recipes in their order, by what the bundled ones' names begin with.
OWN, _FIRST = "Yours", "Start here"
_GROUPS = {"trainer": "Trainers", "hardware": "Hardware", "seed": "Write-ups"}
_ORDER = (_FIRST, *_GROUPS.values(), OWN)

Values = Mapping[Any, Any]
Updates = dict[Any, Any]
STREAM: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
# Past the queue: what answers at once needs no place in a line, and a reload cuts no stream.
QUIET: dict[str, Any] = {**STREAM, "queue": False}
# For what reads the form, whose components pass on what they hold: Gradio would ask each of them, a
# thread at a time. The spec judges what comes.
FORM: dict[str, Any] = {**QUIET, "preprocess": False}


@dataclass(frozen=True)
class Recipe:
    """A recipe file that can be loaded on the page; `about` is its first comment, `group` under
    which it stands."""

    name: str
    path: Path
    about: str
    group: str


@dataclass
class Context:
    """Made once in `app.build`. `recipe` holds the name of the recipe in hand, `run` the id of the
    run that is looked at; `opened` the name of the tab in front; `tab` has the tabs by name;
    `follows` is what follows a change of the form."""

    settings: Settings
    store: RunStore
    form: Form
    recipe: gr.State
    run: gr.State
    tabs: gr.Tabs
    chosen: gr.HTML
    marks: gr.HTML
    opened: gr.Textbox
    tab: dict[str, gr.Tab] = field(default_factory=dict)
    follows: list[Follow] = field(default_factory=list)

    @property
    def fields(self) -> set[Any]:
        """Every component of the form: the inputs of a handler that reads the spec."""
        return set(self.form.components.values())

    def follow(self, *keys: str, tab: str = "") -> Follow:
        """What depends on the fields whose names begin so; of use while the page is made."""
        held = self.form.components.items()
        made = Follow((c for key, c in held if key.startswith(keys)), self.opened, tab)
        self.follows.append(made)
        return made

    def base(self, name: str) -> RunSpec:
        """What "changed" is judged against: the recipe in hand, or the defaults if it is broken."""
        found = recipes(self.settings).get(name)
        try:
            return spec.load(found.path) if found else spec.DEFAULTS
        except StudioError:
            return spec.DEFAULTS

    def newest(self) -> str:
        """The id of the newest run, or nothing."""
        return next((run.id for run in self.store.list()), "")


def recipes(settings: Settings) -> dict[str, Recipe]:
    """Bundled recipes and the person's own by name, in the order of their groups; the main one is
    the first."""
    found = {}
    for folder in (settings.presets, settings.recipes):
        for path in sorted(folder.glob("*.yaml")) if folder.is_dir() else ():
            try:
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                # A folder or a dangling link of that name is no recipe.
                continue
            first = [line.lstrip("# ").strip() for line in lines if line.startswith("#")]
            bundled = folder == settings.presets
            group = _GROUPS.get(path.stem.partition("-")[0], _FIRST) if bundled else OWN
            found[path.stem] = Recipe(path.stem, path, first[0] if first else "", group)
    order = sorted(found.values(), key=lambda r: (r.name != MAIN, _ORDER.index(r.group), r.name))
    return {recipe.name: recipe for recipe in order}


def script(name: str) -> str:
    """A file of `static/`: the page's JavaScript and templates."""
    return (STATIC / name).read_text(encoding="utf-8")


def lenient(tree: Mapping[str, Any]) -> RunSpec:
    """The spec with everything wrong at its default, for the parts of the page that can still say
    something while a field is being mended, or a draft is older than this page."""
    held = {section: dict(values) for section, values in tree.items() if isinstance(values, dict)}
    for near, whole in ((False, False), (True, False), (True, True)):
        try:
            return spec.parse(held)
        except SpecError as error:
            bad = {p.field for p in error.problems}
        # What is wrong beside a default goes with the choice that it belongs to, as an own template
        # that is empty with the choice of it, or with its section in the end.
        bad |= {
            f"{section}.{name}"
            for section, values in held.items()
            for name in values
            if near and any(field.startswith(f"{section}.{name}_") for field in bad)
        }
        bad |= {field.partition(".")[0] for field in bad} if whole else set()
        held = {
            section: {n: v for n, v in values.items() if f"{section}.{n}" not in bad}
            for section, values in held.items()
            if section not in bad
        }
    try:
        return spec.parse(held)
    except SpecError:
        return spec.DEFAULTS


def model_folder(settings: Settings, wanted: RunSpec) -> Path | None:
    """The folder of the model, or None where there is none yet. Raises StudioError for one that
    lies outside what the page may read."""
    folder = folder_of(wanted.model.name_or_path, settings)
    return None if folder is None else settings.confine(str(folder))
