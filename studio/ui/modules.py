"""The model's module tree, in which a click on a linear layer's name makes it a target or not, and
the Python files that come with a model, with the consent to run them."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from studio import jobs
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import LAYERWISE, RunSpec
from studio.ui import acts, html
from studio.ui.form import Tree

ATTRIBUTE = "pick"
Kept = dict[str, Any]


def ask(settings: Settings, spec: RunSpec) -> Iterator[tuple[Kept, str]]:
    """The tree as the model's process made it, and HTML about how far that is."""
    try:
        for reply in jobs.tree(settings, spec):
            if not reply.get("done"):
                yield {}, html.card("Modules", html.wait(str(reply.get("stage", "asking"))))
                continue
            kept = {
                "model": _key(spec),
                "lines": reply["lines"],
                "adapter": _counted(spec),
                "trained": reply["trained"],
                "parameters": reply["parameters"],
            }
            yield kept, shown(kept, spec)
    except StudioError as error:
        yield {}, html.card("Modules", html.problem(error))


def shown(kept: Kept, spec: RunSpec) -> str:
    """The tree with what is chosen marked; nothing where it belongs to another model."""
    if not kept or kept["model"] != _key(spec):
        return ""
    lines = kept["lines"]
    names = list(dict.fromkeys(line["target"] for line in lines if line["target"]))
    chosen = targets(spec, names)
    drawn = "".join(_line(line, chosen, names) for line in lines)
    picked = ", ".join(name for name in names if name in chosen) or "none"
    words = (
        f"Targets: {picked}. Press a linear layer's name to add or remove it."
        if spec.adapter.method in LAYERWISE
        else "This method changes no layer, so there is nothing to choose here."
    )
    share = ""
    if kept["adapter"] == _counted(spec):
        trained, total = kept["trained"], kept["parameters"]
        share = (
            f" It trains {trained:,} of {total:,} parameters "
            f"({100 * trained / max(1, total):.2g} %), counted by peft."
        )
    return html.card(
        "Modules",
        f"<p class='soft'>{escape(words + share)}</p>",
        f"<div class='modules' role='tree'>{drawn}</div>",
    )


def targets(spec: RunSpec, names: Sequence[str]) -> set[str]:
    """The layers that get an adapter, of those that the model has."""
    if spec.adapter.method not in LAYERWISE:
        return set()
    wanted = spec.adapter.target_modules
    return set(names) if wanted == "all-linear" else set(wanted) & set(names)


def toggled(tree: Tree, act: acts.Act) -> dict[str, Any]:
    """The form's change when the name of a linear layer is pressed; nothing for another act."""
    name, names = act.get("name"), act.get("names")
    if act.get("do") != "target" or not isinstance(names, list) or name not in names:
        return {}
    held = tree.get("adapter", {}).get("target_modules")
    whole = held in ("all-linear", ["all-linear"])
    chosen = set(names) if whole else set(held if isinstance(held, list) else ())
    chosen ^= {name}
    listed = [str(n) for n in names if n in chosen]
    return {"adapter.target_modules": "all-linear" if len(listed) == len(names) else listed}


def consented(act: acts.Act) -> dict[str, Any]:
    """The form's change when somebody lets a model's files run; nothing for another act."""
    files = act.get("files")
    if act.get("do") != "consent" or not isinstance(files, list):
        return {}
    return {
        "model.trust_remote_code": True,
        "model.trusted_files": [str(file) for file in files],
    }


def ask_code(settings: Settings, spec: RunSpec) -> Iterator[str]:
    """HTML about the Python files that come with the model."""
    title = "Python files that come with this model"
    try:
        for reply in jobs.code(settings, spec):
            if not reply.get("done"):
                yield html.card(title, html.wait(str(reply.get("stage", "asking"))))
            elif not reply["files"]:
                yield html.card(title, "<p class='soft'>There are none: nothing would run.</p>")
            else:
                yield html.card(title, _files(reply["files"], reply["consent"], spec))
    except StudioError as error:
        yield html.card(title, html.problem(error))


def _files(files: Sequence[dict[str, str]], consent: list[str], spec: RunSpec) -> str:
    items = "".join(
        f"<details><summary>{escape(file['name'])} <code class='digest'>sha256 "
        f"{escape(file['sha256'])}</code></summary><pre class='code wrap'>{escape(file['text'])}"
        "</pre></details>"
        for file in files
    )
    given = spec.model.trust_remote_code and set(spec.model.trusted_files) == set(consent)
    act = {"do": "consent", "files": consent}
    words = (
        "<p class='soft'>You have consented to run exactly these.</p>"
        if given
        else "<p class='note problem'>They can do all that you can: read your files, use your "
        "network. Read them first.</p>"
        + acts.button("I trust these files: let them run", act, attribute=ATTRIBUTE)
    )
    return items + words


def _line(line: dict[str, Any], chosen: set[str], names: list[str]) -> str:
    name, text, target = line["name"], escape(line["text"]), line["target"]
    shown = escape(name)
    if target:
        pressed = target in chosen
        act = {"do": "target", "name": target, "names": names}
        shown = acts.button(
            name, act, kind="target on" if pressed else "target", attribute=ATTRIBUTE,
            pressed=pressed,
        )  # fmt: skip
    head = f"{shown}: " if name else ""
    return (
        f"<div role='treeitem' aria-level='{line['depth'] + 1}' "
        f"style='padding-inline-start:{line['depth'] * 1.1:.1f}em'>{head}{text}</div>"
    )


def _key(spec: RunSpec) -> list[str | None]:
    return [spec.model.name_or_path, spec.model.revision]


def _counted(spec: RunSpec) -> dict[str, Any]:
    """What the number of trained parameters depends on."""
    method = spec.adapter.method
    own = {} if method in ("lora", "none") else getattr(spec, method).model_dump()
    return {"adapter": spec.adapter.model_dump(), "own": own}
