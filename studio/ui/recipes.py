"""Recipes as the page shows them: the list by group, two compared, one taken from somewhere else,
one deleted and brought back."""

from collections.abc import Mapping
from html import escape
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from studio import spec as specs
from studio.errors import StudioError
from studio.runs import RunStore
from studio.settings import Settings
from studio.spec import DEFAULTS, RunSpec
from studio.ui import acts
from studio.ui.context import OWN, Recipe, recipes
from studio.ui.form import Tree
from studio.ui.run_view import label, worded
from studio.ui.runs_list import title_of

ATTRIBUTE = "recipe"
FORM = "the form as it is now"
# What stands for the name of a recipe that was taken from somewhere else.
SHARED = "shared"
_RUNS = 50
_LARGEST = 200_000


def shown(settings: Settings, in_hand: str) -> str:
    """HTML: every recipe under its group, with what it is for and what can be done with it."""
    parts = []
    for group, found in groupby(recipes(settings).values(), key=lambda recipe: recipe.group):
        rows = "".join(_row(recipe, in_hand) for recipe in found)
        parts.append(f"<h4>{escape(group)}</h4><table class='plain recipes'>{rows}</table>")
    return "".join(parts)


def _row(recipe: Recipe, in_hand: str) -> str:
    def button(words: str, do: str) -> str:
        act = {"do": do, "name": recipe.name}
        return acts.button(words, act, label=f"{words} {recipe.name}", attribute=ATTRIBUTE)

    here = recipe.name == in_hand
    does = "<span class='soft'>in hand</span>" if here else button("Load", "load")
    does += " " + button("Compare", "compare")
    does += " " + button("Delete", "delete") if recipe.group == OWN else ""
    about = f"<br><span class='soft'>{escape(recipe.about)}</span>" if recipe.about else ""
    chosen = " class='chosen-row'" if here else ""
    name = f"<b>{escape(recipe.name)}</b>"
    return f"<tr{chosen}><td>{name}{about}</td><td class='does'>{does}</td></tr>"


def sides(settings: Settings, store: RunStore) -> list[tuple[str, str]]:
    """What can be compared, as (words, key): the form, all recipes, the newest runs."""
    found = [(FORM, "form")]
    found += [(f"recipe {name}", f"recipe/{name}") for name in recipes(settings)]
    return found + [(f"run {title_of(run)}", f"run/{run.id}") for run in store.list()[:_RUNS]]


def settings_at(key: str, form: Tree, settings: Settings, store: RunStore) -> Tree:
    """The settings that a key of `sides` means. Raises StudioError where there are none."""
    kind, _, name = key.partition("/")
    if kind == "form":
        return form
    if kind == "run":
        return specs.tree(store.get(name).spec())
    found = recipes(settings).get(name)
    if found is None:
        raise StudioError(f"There is no recipe {name}.", "Choose one of the list.")
    return specs.tree(specs.load(found.path))


def compared(left: Tree, right: Tree, names: tuple[str, str]) -> str:
    """HTML: the fields in which the two differ, in the form's order, and nothing else."""
    rows = []
    for section, name, _info, _meta in specs.fields():
        default = getattr(getattr(DEFAULTS, section), name)
        values = [
            worded(specs.plain(tree.get(section, {}).get(name, default))) for tree in (left, right)
        ]
        if values[0] != values[1]:
            cells = "".join(f"<td>{escape(value)}</td>" for value in values)
            key = f"{section}.{name}"
            rows.append(f"<tr><td title='{escape(key)}'>{escape(label(key))}</td>{cells}</tr>")
    if not rows:
        return "<p class='soft'>They say the same.</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    count = f"{len(rows)} setting{'' if len(rows) == 1 else 's'} differ{'s' * (len(rows) == 1)}"
    return (
        f"<p class='soft'>{count}.</p><div class='sideways'><table class='plain differs'>"
        f"<tr><th>Setting</th>{head}</tr>{''.join(rows)}</table></div>"
    )


def shared(spec: RunSpec, name: str) -> str:
    """HTML: the recipe's YAML with a button that copies it and a link that saves it."""
    text = specs.dump(spec)
    file = f"{name or 'recipe'}.yaml"
    copy = "<button type='button' class='act' data-copy>Copy</button>"
    url = f"data:text/yaml;charset=utf-8,{quote(text)}"
    save = f"<a class='act' href='{url}' download='{escape(file, quote=True)}'>Download</a>"
    return (
        "<details class='shared'>"
        "<summary>As a recipe file (only what differs from the defaults)</summary>"
        f"<pre class='code'>{escape(text)}</pre><p>{copy} {save}</p></details>"
    )


def taken(text: str) -> tuple[Tree, list[str]]:
    """All settings of a recipe that comes from somewhere else, and a sentence for each that was
    left out. Raises SpecError with every wrong field.

    Whoever sends a recipe can't consent for you: what it says about trust is left out.
    """
    tree = specs.load_tree(text, "The text")
    trust = [(s, n) for s, n, _info, meta in specs.fields() if meta.group == "Trust"]
    told = []
    for section, name in trust:
        held = tree.get(section)
        if isinstance(held, Mapping) and name in held:
            default = getattr(getattr(DEFAULTS, section), name)
            tree = {**tree, section: {n: v for n, v in held.items() if n != name}}
            if held[name] != default:
                told.append(f"{label(f'{section}.{name}')} is left out: that is yours to decide.")
    return specs.tree(specs.parse(tree)), told


def read(path: Path) -> str:
    """The text of an uploaded recipe. Raises StudioError for what is none."""
    try:
        if path.stat().st_size > _LARGEST:
            raise StudioError("This file is too large for a recipe.", "A recipe is a page of text.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise StudioError("This file is no text.", "A recipe is a YAML text file.") from None


def delete(settings: Settings, name: str) -> None:
    """Takes an own recipe out of the list; `bring_back` undoes it, until another one is deleted.
    Raises StudioError where there is none."""
    settings.check_writable()
    found = recipes(settings).get(name)
    if found is None or found.group != OWN:
        raise StudioError(f"{name} is no recipe of yours.", "Only your own can be deleted.")
    for old in settings.recipes.glob(".*.deleted"):
        old.unlink(missing_ok=True)
    found.path.rename(_aside(settings, name))


def bring_back(settings: Settings, name: str) -> None:
    """Undoes the last `delete`. Raises StudioError where that can't be."""
    settings.check_writable()
    target = settings.recipes / f"{name}.yaml"
    kept = [path for path in settings.recipes.glob(".*.deleted") if path == _aside(settings, name)]
    if not kept or target.exists():
        raise StudioError(f"{name} can't be brought back.", "Save it anew.")
    kept[0].rename(target)


def _aside(settings: Settings, name: str) -> Path:
    return settings.recipes / f".{name}.deleted"
