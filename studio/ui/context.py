"""What every tab is handed: where things are, the form, the runs, and the page's shared parts."""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from studio import plan, spec
from studio.runs import RunStore
from studio.settings import Settings
from studio.spec import RunSpec
from studio.ui.form import Form

STATIC = Path(__file__).parent / "static"
MAIN = "persona"


@dataclass(frozen=True)
class Recipe:
    """A recipe file that can be loaded on the page; `about` is its first comment."""

    name: str
    path: Path
    about: str


@dataclass
class Context:
    """Made once in `app.build`. `run` holds the id of the run that Chat and Export speak of."""

    settings: Settings
    store: RunStore
    form: Form
    recipe: gr.State
    tabs: gr.Tabs
    run: gr.State

    def recipes(self) -> dict[str, Recipe]:
        """Bundled recipes and the person's own, by name; an own one hides a bundled one."""
        return recipes(self.settings)

    def base(self, name: str) -> RunSpec:
        """The recipe in hand, which "changed" is judged against."""
        found = self.recipes().get(name)
        return spec.load(found.path) if found else spec.DEFAULTS


def recipes(settings: Settings) -> dict[str, Recipe]:
    """All recipes that can be loaded, the main one first."""
    found = {}
    for folder in (settings.presets, settings.recipes):
        for path in sorted(folder.glob("*.yaml")) if folder.is_dir() else ():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            first = [line.lstrip("# ").strip() for line in lines if line.startswith("#")]
            found[path.stem] = Recipe(path.stem, path, first[0] if first else "")
    return dict(sorted(found.items(), key=lambda item: (item[0] != MAIN, item[0])))


def script(name: str) -> str:
    """A JavaScript file of the page."""
    return (STATIC / name).read_text(encoding="utf-8")


__all__ = ["MAIN", "STATIC", "Context", "Recipe", "plan", "recipes", "script"]
