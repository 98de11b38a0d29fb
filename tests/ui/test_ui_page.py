"""The page as a whole: every field once, few controls at first, and nothing heavy behind it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from gradio.blocks import Block
from gradio.components import (
    Checkbox,
    CheckboxGroup,
    Dropdown,
    Number,
    Radio,
    Slider,
    Textbox,
    UploadButton,
)

from studio.settings import PROJECT
from studio.spec import fields
from studio.ui.form import field_id

INPUTS = (Checkbox, CheckboxGroup, Dropdown, Number, Radio, Slider, Textbox, UploadButton)
TABS = ["Model", "Data", "Tune", "Runs", "Chat", "Export"]


def around(block: Block) -> Iterator[Block]:
    """What the block stands in, from the inside out."""
    parent = block.parent
    while parent is not None:
        yield parent
        parent = parent.parent


def closed(block: Block) -> bool:
    """Whether the block stands behind an Advanced that is to be opened first."""
    return any(isinstance(p, gr.Accordion) and not p.open for p in around(block))


@pytest.fixture(scope="module")
def blocks(page: gr.Blocks) -> list[Block]:
    return list(page.blocks.values())


def test_the_tabs_come_in_the_order_of_the_work(blocks: list[Block]) -> None:
    assert [b.label for b in blocks if isinstance(b, gr.Tab)] == TABS


def test_every_field_is_on_the_page_exactly_once(blocks: list[Block]) -> None:
    ids = [b.elem_id for b in blocks if b.elem_id and b.elem_id.startswith("f-")]
    assert sorted(ids) == sorted(field_id(f"{s}.{n}") for s, n, _info, _meta in fields())


def test_no_id_is_given_twice(blocks: list[Block]) -> None:
    ids = [b.elem_id for b in blocks if b.elem_id]
    assert len(ids) == len(set(ids))


def test_at_most_twenty_controls_show_before_advanced(blocks: list[Block]) -> None:
    shown = [b for b in blocks if isinstance(b, INPUTS) and not closed(b) and b.visible is True]
    own = [b.html_template or "" for b in blocks if isinstance(b, gr.HTML) and not closed(b)]
    written = re.findall(r"<(?:input|select|textarea)\b", "".join(own))
    assert 10 < len(shown) + len(written) <= 20


def test_basic_fields_show_and_all_others_are_behind_advanced(blocks: list[Block]) -> None:
    behind = {b.elem_id: closed(b) for b in blocks if b.elem_id and b.elem_id.startswith("f-")}
    assert behind == {field_id(f"{s}.{n}"): not m.basic for s, n, _info, m in fields()}


def test_an_advanced_group_is_named_after_the_specs_group(blocks: list[Block]) -> None:
    groups = {field_id(f"{s}.{n}"): m.group for s, n, _info, m in fields()}
    found = {
        b.elem_id: next(p.label for p in around(b) if isinstance(p, gr.Accordion))
        for b in blocks
        if b.elem_id in groups and closed(b)
    }
    assert found == {key: groups[key] for key in found} and len(found) > 30


def test_a_tab_has_one_primary_action(blocks: list[Block]) -> None:
    for tab in TABS:
        inside = [
            b for b in blocks if any(isinstance(p, gr.Tab) and p.label == tab for p in around(b))
        ]
        primary = [b for b in inside if isinstance(b, gr.Button) and b.variant == "primary"]
        actions = [
            b for b in primary if any("actions" in (p.elem_classes or []) for p in around(b))
        ]
        assert len(actions) == 1, tab


def test_every_button_and_every_control_has_a_name(blocks: list[Block]) -> None:
    seen = [b for b in blocks if isinstance(b, (*INPUTS, gr.Button)) and b.visible != "hidden"]
    words = [
        b.value if isinstance(b, gr.Button) else b.label or getattr(b, "placeholder", "")
        for b in seen
    ]
    assert len(seen) > 60 and all(words)


SCRIPT = """
import sys
from pathlib import Path
from studio.settings import Settings
from studio.runs import RunStore
from studio.runs.events import append
from studio.spec import DEFAULTS, parse
settings = Settings(home=Path(sys.argv[1]) / "home", workspace=Path(sys.argv[1]))
store = RunStore(settings.runs)
run = store.create(DEFAULTS, "a")
append(run.events, {"type": "start", "max_steps": 1})
append(run.events, {"type": "end", "status": "finished"})
from studio.ui import app, compare, export_tab, header, live, model_tab, rows, run_view, runs_list
from studio.ui import serve, space, tune_tab
app.build(settings)
serve.options(settings)
tree = DEFAULTS.model_dump()
assert "134" in model_tab.right(settings, DEFAULTS) or "135" in model_tab.right(settings, DEFAULTS)
*_, (words, table, columns) = rows.overview(settings, DEFAULTS, 1)
assert len(table) == 50, words
assert next(rows.seen(settings, DEFAULTS, 1))
assert rows.audited(settings, DEFAULTS)[0]
assert "Steps" in tune_tab.right(settings, store, tree, "persona")
assert "persona" in header.chosen(store, tree, "persona", 150)
assert header.beat(store)["machine"]
assert live.tick({"run": run.id, "offset": 0}, store)["offset"] > 0
assert runs_list.Listing(store).now({})["runs"]
assert run_view.about(store, run)["can"]
assert compare.Comparing(store).table({"runs": [run.id]})["results"]
assert "Disk" in space.shown(store)
assert "Not made" in export_tab.done(run, "adapter")
heavy = {"torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""


def test_the_page_and_what_it_shows_import_no_model_library(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
