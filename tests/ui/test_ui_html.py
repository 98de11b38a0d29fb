"""Nothing that comes from data, a model, a file's name or a run becomes a part of the page."""

import json
from collections.abc import Generator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from studio import spec
from studio.errors import Problem, StudioError
from studio.runs import RunStore
from studio.runs.events import append
from studio.settings import Settings
from studio.spec import DEFAULTS, RunSpec, parse
from studio.ui import data_tab, export_tab, header, html, model_tab, tune_tab
from studio.ui.context import recipes
from studio.ui.live import tick
from tests.ui.conftest import write

HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"' onmouseover=\"alert(3)\"&amp;"
ALLOWED = {
    "a", "b", "code", "dd", "details", "div", "dl", "dt", "h2", "h3", "i", "li", "mark", "p", "pre",
    "small", "span", "summary", "table", "td", "tr", "ul",
}  # fmt: skip


class Reader(HTMLParser):
    """What a browser would make of it: elements, attributes, and the text a person reads."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(text: str) -> Reader:
    """The HTML, which must hold nothing but harmless elements."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    for tag, attributes in reader.elements:
        assert tag in ALLOWED, text
        assert not [name for name in attributes if name.startswith("on") or name == "src"], text
        assert not attributes.get("href", "").lower().startswith("javascript:"), text
    return reader


def said(text: str) -> str:
    return "".join(read(text).words)


def test_the_reader_would_notice() -> None:
    for text in (HOSTILE, "<div onclick='x'>", "<a href='javascript:x'>", "<b><iframe></b>"):
        with pytest.raises(AssertionError):
            read(text)


@pytest.mark.parametrize(
    "made",
    [
        html.lead(HOSTILE, HOSTILE),
        html.facts([(HOSTILE, HOSTILE, HOSTILE)]),
        html.card(HOSTILE),
        html.problem(StudioError(HOSTILE, HOSTILE)),
        html.problems([Problem(HOSTILE, HOSTILE, HOSTILE), Problem("a", "b")]),
        html.wait(HOSTILE),
        html.bubbles([{"role": HOSTILE, "content": HOSTILE}, {"role": "user", "content": HOSTILE}]),
        html.exact(HOSTILE),
    ],
)
def test_small_pieces_show_hostile_text_as_text(made: str) -> None:
    assert HOSTILE in said(made)


def test_tokens_show_hostile_pieces_as_text() -> None:
    pieces = [HOSTILE, "' onclick='x", "<|im_start|>", "\n", "é"]
    row = {
        "tokens": pieces, "input_ids": [1, 2, 3, 4, 5], "trained": [True, False, True, False, True],
        "cut": [HOSTILE, "<b>"],
    }  # fmt: skip
    reader = read(html.tokens(row))
    assert "".join([*pieces, HOSTILE, "<b>"]) in "".join(reader.words)
    titles = [a["title"] for _tag, a in reader.elements if "title" in a]
    assert titles == [f"{n} {piece!r}" for n, piece in enumerate(pieces, 1)]


def test_tokens_are_coloured_by_what_is_trained_and_counted() -> None:
    row = {
        "tokens": ["a", "b", "c"],
        "input_ids": [7, 8, 9],
        "trained": [False, True, True],
        "cut": ["d"],
    }
    made = html.tokens(row)
    shown = [
        (attributes.get("class"), attributes["title"])
        for _tag, attributes in read(made).elements
        if "title" in attributes
    ]
    assert shown == [(None, "7 'a'"), ("t", "8 'b'"), ("t", "9 'c'")]
    words = said(made)
    assert "trained 2" in words and "not trained 1" in words and "cut off 1" in words


def test_tokens_that_do_not_match_their_marks_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        html.tokens({"tokens": ["a"], "input_ids": [1], "trained": []})


def test_special_tokens_are_marked_in_the_exact_text() -> None:
    reader = read(html.exact("<|im_start|>user\n<b> & </s> [INST] <0x0A>"))
    assert "".join(reader.words) == "<|im_start|>user\n<b> & </s> [INST] <0x0A>"
    assert [tag for tag, _ in reader.elements].count("mark") == 4


def rows_file(settings: Settings, *rows: Any) -> RunSpec:
    """A spec whose data are these rows."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write(settings.workspace / "rows.jsonl", text)
    return parse({"data": {"path": "rows.jsonl"}})


def test_hostile_rows_are_listed_as_text(settings: Settings) -> None:
    chosen = rows_file(
        settings, {"question": HOSTILE, "answer": HOSTILE}, {"question": 1, "answer": "b"}
    )
    words, table = data_tab.overview(settings, chosen)
    assert "2 rows" in said(words)
    assert table[0][1].startswith("<script>"), "the table shows text, not HTML"
    assert table[1][1].startswith("⚠ `question` is int")


def test_hostile_columns_and_names_are_told_as_text(settings: Settings) -> None:
    words, table = data_tab.overview(settings, rows_file(settings, {HOSTILE: "a"}))
    assert HOSTILE in said(words) and table == []
    for path in (f"{HOSTILE}.jsonl", "<b>owner</b>/name", "<script>"):
        words, table = data_tab.overview(settings, parse({"data": {"path": path}}))
        assert path in said(words) and table == []


def test_a_hostile_row_is_shown_as_a_chat_before_any_model_is_asked(settings: Settings) -> None:
    chosen = rows_file(settings, {"question": HOSTILE, "answer": HOSTILE})
    looking = data_tab.seen(settings, chosen, 1)
    assert said(next(looking)).count(HOSTILE) == 2
    assert isinstance(looking, Generator)
    looking.close()
    assert not (settings.home / "bench").exists()


def test_a_rendered_row_is_shown_as_text(settings: Settings) -> None:
    row = {
        "tokens": [HOSTILE], "input_ids": [1], "trained": [True], "cut": [], "text": HOSTILE,
        "messages": [{"role": "user", "content": HOSTILE}], "problem": "",
    }  # fmt: skip
    made = data_tab._rendered({"rows": [row], "total": 1}, 1)
    assert said(made).count(HOSTILE) == 3
    made = data_tab._rendered({"rows": [{**row, "problem": HOSTILE}], "total": 1}, 1)
    assert HOSTILE in said(made)


def test_a_row_that_is_not_there_is_said(settings: Settings) -> None:
    chosen = rows_file(settings, {"question": "a", "answer": "b"})
    assert "There is no row 2" in said("".join(data_tab.seen(settings, chosen, 2)))


def test_what_is_chosen_is_shown_as_text(settings: Settings) -> None:
    tree = parse({"model": {"name_or_path": HOSTILE}, "data": {"path": HOSTILE}}).model_dump()
    tree["train"]["learning_rate"] = tree["model"]["quantization"] = HOSTILE
    words = said(header.chosen(RunStore(settings.runs), tree, HOSTILE, 12))
    assert f"recipe {HOSTILE}" in words and f"at {HOSTILE}" in words


def test_a_hostile_model_folder_is_shown_as_text(settings: Settings) -> None:
    config = {"architectures": [HOSTILE], "num_hidden_layers": 1}
    head = json.dumps({"w": {"shape": [2]}}).encode()
    folder = settings.workspace / "<b>model"
    write(folder / "config.json", json.dumps(config))
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    words = said(model_tab.right(settings, parse({"model": {"name_or_path": folder.name}})))
    assert HOSTILE in words and "<b>model" in words
    assert HOSTILE in said(model_tab.right(settings, parse({"model": {"name_or_path": HOSTILE}})))


@pytest.fixture
def hostile_recipe(settings: Settings) -> str:
    """A recipe of the person's own, as a stranger would have sent it."""
    name = "<img src=x onerror=alert(1)>"
    text = f"# {HOSTILE}\ngenerate:\n  system_prompt: {json.dumps(HOSTILE)}\n"
    write(settings.recipes / f"{name}.yaml", text)
    return name


def test_a_hostile_recipe_is_shown_as_text(settings: Settings, hostile_recipe: str) -> None:
    found = recipes(settings)[hostile_recipe]
    tree = spec.load(found.path).model_dump()
    words = said(tune_tab.right(settings, RunStore(settings.runs), tree, hostile_recipe))
    assert words.count(HOSTILE) >= 1 and "system_prompt" in words
    assert hostile_recipe in said(header.chosen(RunStore(settings.runs), tree, hostile_recipe, 0))


def test_hostile_settings_are_told_as_text(settings: Settings) -> None:
    tree: dict[str, Any] = {"train": {"optim": HOSTILE, HOSTILE: 1}, "model": {"dtype": HOSTILE}}
    words = said(tune_tab.right(settings, RunStore(settings.runs), tree, "persona"))
    assert "train.optim" in words and f"train.{HOSTILE}" in words


def test_a_hostile_exports_files_are_shown_as_text(settings: Settings) -> None:
    run = RunStore(settings.runs).create(parse({"model": {"name_or_path": 'a"<b>'}}), "a")
    name = "<img src=x onerror='alert(1)'>.bin"
    write(run.export / "adapter" / name, "x")
    reader = read(export_tab.done(run, "adapter"))
    assert name in reader.words and 'a"<b>' in "".join(reader.words)
    (link,) = [a for tag, a in reader.elements if tag == "a"]
    assert link["download"] == name and link["href"].startswith("/gradio_api/file=/")
    assert not set("<>' \"") & set(link["href"])


def test_a_runs_words_reach_the_page_as_data_only(settings: Settings) -> None:
    store = RunStore(settings.runs)
    run = store.create(DEFAULTS, HOSTILE)
    append(run.events, {"type": "note", "text": HOSTILE})
    append(run.events, {"type": "end", "status": "failed", "message": HOSTILE, "hint": HOSTILE})
    state = tick({"run": run.id, "offset": 0}, store)["state"]
    assert state["notes"] == [HOSTILE] and state["problem"]["message"] == HOSTILE
    assert not set(run.id) & set("<>'\"&")
    scripts = (Path(header.__file__).parent / "static").glob("*.js")
    # Only fixed HTML is written as HTML; words go through textContent.
    written = [
        line.strip()
        for script in scripts
        for line in script.read_text(encoding="utf-8").splitlines()
        if "insertAdjacentHTML" in line or "outerHTML" in line or "document.write" in line
    ]
    assert written == []
