"""Writes each field's change, problem and link beside it."""

import json

import gradio as gr

from studio.plan.possible import Refused
from studio.spec import fields
from studio.ui.context import script
from studio.ui.form import field_id


def component(refused: Refused) -> gr.HTML:
    """Takes `dump`'s JSON as its value; `select` tells whose way back was pressed (`field`), or
    what is to be changed to mend a problem (`mend`, JSON). `refused` is greyed out."""
    groups: dict[str, list[str]] = {}
    links = {}
    for section, name, _info, meta in fields():
        links[field_id(f"{section}.{name}")] = meta.link
        if not meta.basic:
            group = f"group-{section}-{meta.group.lower().replace(' ', '-')}"
            groups.setdefault(group, []).append(field_id(f"{section}.{name}"))
    return gr.HTML(
        value="{}",
        html_template="<i></i>",
        js_on_load=script("marks.js"),
        groups=json.dumps(groups),
        links=json.dumps(links),
        refused=json.dumps({field_id(key): why for key, why in refused.items()}),
        elem_id="marks",
        elem_classes="hidden-part",
    )


def dump(marks: dict[str, dict[str, str]]) -> str:
    """`Form.marks` for the page, by element id."""
    return json.dumps({field_id(key): mark for key, mark in marks.items()})
