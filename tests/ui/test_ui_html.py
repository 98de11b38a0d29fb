"""Nothing that comes from data, a model, a file's name or a run becomes a part of the page."""

import json
from collections.abc import Generator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from studio import spec
from studio.data.findings import Finding, Report
from studio.errors import Problem, StudioError
from studio.runs import RunStore
from studio.runs.events import append
from studio.settings import Settings
from studio.spec import DEFAULTS, RunSpec, parse
from studio.ui import (
    audit_view,
    export_tab,
    header,
    html,
    model_tab,
    row_view,
    rows,
    steps,
    tune_tab,
)
from studio.ui.context import recipes
from studio.ui.live import tick
from tests.ui.conftest import write

HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"' onmouseover=\"alert(3)\"&amp;"
ALLOWED = {
    "a", "b", "button", "code", "figcaption", "figure", "h4", "line", "ol", "rect", "svg", "title",
    "dd", "details", "div", "dl", "dt", "h2", "h3", "i", "li", "mark", "p", "pre",
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
        "cut": [HOSTILE, "<b>"], "cut_ids": [6, 7], "gap": None, "length": 5, "learned": 3,
        "lost": 2,
    }  # fmt: skip
    reader = read(html.tokens(row))
    assert "".join([*pieces, HOSTILE, "<b>"]) in "".join(reader.words)
    titles = [a["title"] for _tag, a in reader.elements if "title" in a]
    assert titles == [f"{n} {piece!r}" for n, piece in enumerate([*pieces, HOSTILE, "<b>"], 1)]


def test_tokens_are_coloured_by_what_is_trained_and_counted() -> None:
    row = {
        "tokens": ["a", "b", "c"],
        "input_ids": [7, 8, 9],
        "trained": [False, True, True],
        "cut": ["d"],
        "cut_ids": [10],
        "gap": [1, 5000],
        "length": 5003,
        "learned": 2,
        "lost": 4001,
    }
    made = html.tokens(row)
    shown = [
        (attributes.get("class"), attributes["title"])
        for _tag, attributes in read(made).elements
        if "title" in attributes
    ]
    assert shown == [(None, "7 'a'"), ("t", "8 'b'"), ("t", "9 'c'"), ("c", "10 'd'")]
    words = said(made)
    assert "trained 2" in words and "not trained 5,001" in words and "cut off 4,001" in words
    assert "a … 5,000 tokens more … bcd … 4,000 tokens more" in words


def test_tokens_that_do_not_match_their_marks_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        html.tokens({"tokens": ["a"], "input_ids": [1], "trained": []})


def test_a_text_of_megabytes_makes_no_page_of_megabytes() -> None:
    long = "ab<" * 10**6
    for made in (html.bubbles([{"role": "user", "content": long}]), html.exact(long)):
        assert len(made) < 50_000 and "2,980,000 more characters" in said(made)


def test_special_tokens_are_marked_in_the_exact_text() -> None:
    reader = read(html.exact("<|im_start|>user\n<b> & </s> [INST] <0x0A>"))
    assert "".join(reader.words) == "<|im_start|>user\n<b> & </s> [INST] <0x0A>"
    assert [tag for tag, _ in reader.elements].count("mark") == 4


def rows_file(settings: Settings, *rows: Any) -> RunSpec:
    """A spec whose data are these rows."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write(settings.workspace / "rows.jsonl", text)
    return parse({"data": {"path": "rows.jsonl"}})


def overview(settings: Settings, chosen: RunSpec) -> tuple[str, list[list[Any]]]:
    """The last of what the overview comes to."""
    *_, (words, table, _columns) = rows.overview(settings, chosen, 1)
    return words, table


def test_hostile_rows_are_listed_as_text(settings: Settings) -> None:
    chosen = rows_file(
        settings, {"question": HOSTILE, "answer": HOSTILE}, {"question": 1, "answer": "b"}
    )
    words, table = overview(settings, chosen)
    assert "2 rows" in said(words)
    assert table[0][1].startswith("<script>"), "the table shows text, not HTML"
    assert table[1][1] == "⚠ `question` is a number, not text. (rows.jsonl, line 2)"


def test_hostile_columns_and_names_are_told_as_text(settings: Settings) -> None:
    words, table = overview(settings, rows_file(settings, {HOSTILE: "a"}, {HOSTILE: "b"}))
    assert HOSTILE in said(words) and table == []
    for path in (f"{HOSTILE}.jsonl", "<script>.csv"):
        words, table = overview(settings, parse({"data": {"path": path}}))
        assert path in said(words) and table == []


def test_a_hostile_row_is_shown_as_a_chat_before_any_model_is_asked(settings: Settings) -> None:
    row = {"question": HOSTILE, "answer": HOSTILE}
    looking = rows.seen(settings, rows_file(settings, row, row), 1)
    assert said(next(looking)).count(HOSTILE) == 2
    assert isinstance(looking, Generator)
    looking.close()
    assert not (settings.home / "bench").exists()


def preview(**changes: Any) -> dict[str, Any]:
    """A row of a preview, all of it hostile."""
    call = {"function": {"name": HOSTILE, "arguments": {HOSTILE: HOSTILE}}}
    turn = {"role": "assistant", "content": HOSTILE, "tool_calls": [call]}
    sequence = {
        "name": "", "tokens": [HOSTILE], "input_ids": [1], "trained": [True], "cut": [],
        "text": HOSTILE, "cut_ids": [], "gap": None, "length": 1, "learned": 1, "lost": 0,
    }  # fmt: skip
    return {
        "index": 0, "where": HOSTILE, "part": "train", "raw": {HOSTILE: HOSTILE}, "kind": "chat",
        "messages": [turn], "chosen": [turn], "rejected": [turn], "label": None,
        "tools": [{"function": {"name": HOSTILE, "description": HOSTILE}}],
        "sequences": [sequence], "problem": None, "hint": None, **changes,
    }  # fmt: skip


def test_a_rendered_row_is_shown_as_text() -> None:
    assert said(row_view.row({"total": 1}, preview())).count(HOSTILE) >= 11
    broken = preview(problem=HOSTILE, hint=HOSTILE, sequences=[], messages=[])
    assert said(row_view.row({"total": 1}, broken)).count(HOSTILE) >= 6


def test_a_better_and_a_worse_answer_are_told_apart() -> None:
    words = said(row_view.row({"total": 1}, preview()))
    assert "The better answer" in words and "The worse answer" in words
    words = said(row_view.row({"total": 1}, preview(label=False, rejected=[])))
    assert "Marked bad" in words and "worse" not in words


def finding(**changes: Any) -> Finding:
    example = {"position": 3, "where": HOSTILE, "shown": HOSTILE}
    held = {"id": "cut", "severity": "stop", "count": 2, "words": HOSTILE, "example": example}
    return Finding(**{**held, "remedy": {"do": "drop", "what": "cut"}, **changes})


def test_a_report_is_shown_as_text_and_its_buttons_do_what_they_say() -> None:
    lengths = {"bins": [[0, 5, 3], [5, 10, 1]], "max_length": 7, "cut": 1, "sampled": 4,
               "total": 4, "longest": 9}  # fmt: skip
    counts = {"rows": 4, "tokens": 20, "trained_tokens": 10}
    set_it = finding(severity="warn", remedy={"field": "train.max_length", "value": HOSTILE})
    report = Report(counts, (set_it, finding()), lengths)
    made = audit_view.report(report, [])
    reader = read(made)
    assert "".join(reader.words).count(HOSTILE) >= 5 and "1 finding would ruin" in said(made)
    sent = [json.loads(a["data-act"]) for tag, a in reader.elements if tag == "button"]
    assert [act["do"] for act in sent] == ["row", "add", "accept", "row", "set"]
    assert "Nothing here would ruin" in said(audit_view.report(report, ["cut"]))
    assert "7" in said(audit_view.lengths(lengths)) and "cut" in said(audit_view.lengths(lengths))
    assert audit_view.notes([]) == "" and HOSTILE in said(audit_view.notes([vars(finding())]))
    assert "<details" in audit_view.notes([vars(finding(severity="info"))])


def test_the_languages_of_the_rows_are_told() -> None:
    spoken = {"en": 900, "fa": 80, "und": 15, "de": 4, "fr": 1}
    words = said(audit_view.report(Report({"rows": 1000}, (), {}, spoken), []))
    assert "English 90.0 %" in words
    assert "Persian 8.0 %, unclear 1.5 %, German 0.4 % and 1 more" in words


@pytest.mark.parametrize(
    ("bins", "limit", "shown"),
    [
        ([[0, 10, 3], [10, 20, 1]], 15, "max_length 15"),
        ([[0, 10, 3], [10, 20, 1]], 20, "max_length 20"),
        ([[0, 10, 3], [10, 20, 1]], 55, "max_length 55"),
        ([[0, 10, 3], [10, 20, 1]], 500, "max_length 500 lies far to the right"),
    ],
)
def test_the_longest_that_is_kept_is_on_the_chart(
    bins: list[list[int]], limit: int, shown: str
) -> None:
    made = audit_view.histogram(bins, limit, "a title")
    assert shown in said(made) and ("<line" in made) == ("far" not in shown)
    assert made.count("<rect") == (2 if "far" in shown else max(2, limit // 10 + 1))


def test_what_can_be_accepted_has_a_button_for_it() -> None:
    for name, offered in (("end_of_turn", True), ("no_template", False)):
        made = audit_view.finding(Finding(name, "stop", 1, "It is so."), False)
        assert ("Accept as it is" in said(made)) == offered


def test_a_batch_is_drawn_row_by_row() -> None:
    reply = {
        "number": 0, "batches": 9, "shape": [2, 10], "rows": [[4, 7], [1]],
        "lengths": [[6, 4], [5]], "tokens": 15, "trained": 8, "padding": 5, "sha256": HOSTILE,
        "prepared": 30, "sequences": 12, "packed_full": None, "strategy": "bfd",
    }  # fmt: skip
    made = row_view.batch(reply)
    assert "packing is off" in said(made)
    packed = said(row_view.batch({**reply, "packed_full": 0.913}))
    assert "30 rows into 12 sequences, 91 % full" in packed
    for strategy, goes_on, seen in (
        ("bfd", False, False), ("bfd_split", True, False), ("wrapped", True, True),
    ):  # fmt: skip
        told = said(row_view.batch({**reply, "packed_full": 0.9, "strategy": strategy}))
        assert ("goes on" in told or "go on" in told) == goes_on, told
        assert ("see each other" in told) == seen == ("none sees another" not in told)
    assert HOSTILE in said(made) and "75 %" in said(made)
    widths = [a["style"] for tag, a in read(made).elements if tag == "i"]
    assert widths == ["width:60.000%", "width:40.000%", "width:50.000%"]


def test_hostile_steps_and_sources_are_shown_as_text() -> None:
    held = [{"do": "system", "text": HOSTILE}, {"do": HOSTILE}, HOSTILE]
    # The second is shown as Python writes it, its quotes escaped.
    assert said(steps.listed(held)).count(HOSTILE) == 2
    # Of a path its last part.
    assert HOSTILE.rpartition("/")[2] in said(steps.sources([{"path": HOSTILE, "weight": 2}]))


def test_a_row_that_is_not_there_is_said(settings: Settings) -> None:
    row = {"question": "a", "answer": "b"}
    chosen = rows_file(settings, row, row)
    assert "There is no row 3" in said("".join(rows.seen(settings, chosen, 3)))


def test_what_is_chosen_is_shown_as_text(settings: Settings) -> None:
    tree = spec.tree(parse({"model": {"name_or_path": HOSTILE}, "data": {"path": HOSTILE}}))
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
    tree = spec.tree(spec.load(found.path))
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
