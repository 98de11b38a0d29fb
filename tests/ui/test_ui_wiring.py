"""The page's handlers, asked over the wire as a browser asks them, with no browser around."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from studio.data import FORMATS
from studio.errors import SpecError
from studio.runs import Run, RunStore, queue
from studio.runs.events import append
from studio.runs.files import write_process
from studio.settings import PROJECT, Settings
from studio.spec import DEFAULTS, SECTIONS, Meta, RunSpec, diff, fields, load, meta_of, parse, tree
from studio.ui import steps
from studio.ui.form import LISTS, field_id, from_widget, to_widget
from tests.alternatives import needed, others
from tests.ui.conftest import write

PERSONA = load(PROJECT / "presets" / "persona.yaml")


def box(section: str, name: str, meta: Meta) -> str:
    """The id of the field's box; a list's is hidden, and shown in the field's place."""
    key = field_id(f"{section}.{name}")
    return "v" + key[1:] if meta.widget in LISTS else key


def box_of(section: str, name: str) -> str:
    """The same, by the field's name."""
    return box(section, name, meta_of(SECTIONS[section].model_fields[name]))


KEYS = {box(s, n, meta): (s, n) for s, n, _info, meta in fields()}
INFOS = {box(s, n, meta): info for s, n, info, meta in fields()}


class Page:
    """Fires events of the served page and gives what comes back by element id."""

    def __init__(self, browser: httpx.Client, config: dict[str, Any]) -> None:
        self._browser = browser
        self._dependencies = config["dependencies"]
        self._parts = {c["id"]: c for c in config["components"]}

    def _name(self, number: int) -> str:
        if number not in self._parts:
            return "page"
        part = self._parts[number]
        held = part["props"]
        return str(held.get("elem_id") or held.get("storage_key") or f"{part['type']} {number}")

    def fire(
        self,
        element: str,
        event: str,
        values: dict[str, Any] | None = None,
        *,
        gives: str = "",
        data: dict[str, Any] | None = None,
        session: str = "test",
    ) -> dict[str, Any]:
        """What the handler answers, one that `gives` that element if there are several. `values`
        stand in the boxes of these ids, all others hold what they open with; `data` is what the
        page's own components send along."""
        (wanted,) = [
            d
            for d in self._dependencies
            if any(e == event and self._name(t) == element for t, e in d["targets"])
            and not d["queue"]
            and (not gives or gives in map(self._name, d["outputs"]))
        ]
        opened = {n: self._parts[n]["props"].get("value") for n in wanted["inputs"]}
        filled = [(values or {}).get(self._name(n), opened[n]) for n in wanted["inputs"]]
        body = {
            "fn_index": wanted["id"], "session_hash": session, "data": filled, "event_data": data,
            "trigger_id": wanted["targets"][0][0],
        }  # fmt: skip
        answer = self._browser.post("/gradio_api/run/predict", json=body)
        assert answer.status_code == 200, answer.text
        names = [self._name(n) for n in wanted["outputs"]]
        return {
            name: value
            for name, value in zip(names, answer.json()["data"], strict=True)
            if value != {"__type__": "update"}
        }

    def change(self, field: str, values: dict[str, Any], *, gives: str) -> dict[str, Any]:
        """What follows a change of the field and `gives` that element."""
        asked = self.fire(field, "change", values, gives="marks")
        counts = [
            name
            for dependency in self._dependencies
            for target, event in dependency["targets"]
            if event == "change" and gives in map(self._name, dependency["outputs"])
            if (name := self._name(target)) in asked
        ]
        (count,) = counts
        return self.fire(count, "change", values, gives=gives)

    def open(self, draft: Any = None) -> dict[str, Any]:
        """What the page holds once it is opened where this draft was left: the form comes with it,
        and is filled anew only where there is something to fill it with."""
        held = {self._name(n): part["props"].get("value") for n, part in self._parts.items()}
        answer = self.fire("page", "load", {"atelier-draft": draft})
        if "left-here" in answer:
            answer = self.fire("left-here", "change", answer)
        return {**held, **answer}

    @property
    def client(self) -> httpx.Client:
        return self._browser

    def poll(self, name: str, request: Any) -> Any:
        """What the page asks again and again."""
        answer = self._browser.get(f"/poll?{quote(json.dumps([[name, request]]))}")
        assert answer.status_code == 200
        return answer.json()[0]

    def call(self, element: str, function: str, data: Any) -> httpx.Response:
        """A function of the server that an element of the page may call."""
        (number,) = [n for n in self._parts if self._name(n) == element]
        body = {"component_id": number, "fn_name": function, "data": data, "session_hash": "test"}
        return self._browser.post("/gradio_api/component_server", json=body)


@pytest.fixture
def served(browser: httpx.Client, config: dict[str, Any]) -> Page:
    return Page(browser, config)


@pytest.fixture
def going(home: Settings) -> Iterator[Run]:
    """A run that is being trained, as far as anybody can see."""
    run = RunStore(home.runs).create(DEFAULTS, "going")
    write_process(run.pid, os.getpid())
    append(run.events, {"type": "start", "max_steps": 9})
    append(run.events, {"type": "log", "step": 4, "loss": 2.5})
    run.log.write_text("Loading\n<b>done</b>\n", encoding="utf-8")
    yield run
    shutil.rmtree(run.path)


def spec_of(answer: dict[str, Any]) -> RunSpec:
    """The spec that the boxes of an answer hold."""
    held: dict[str, dict[str, Any]] = {}
    for key, (section, name) in KEYS.items():
        held.setdefault(section, {})[name] = from_widget(answer[key], INFOS[key])
    return parse(held)


def marks(answer: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What is marked, but for fields that are merely not used."""
    found: dict[str, dict[str, str]] = json.loads(answer["marks"])
    return {key: mark for key, mark in found.items() if set(mark) != {"unused"}}


def test_the_page_opens_with_the_main_recipe(served: Page) -> None:
    answer = served.open()
    assert spec_of(answer) == PERSONA
    assert marks(answer) == {}
    assert "persona" in answer["chosen"] and "What will happen" in answer["tune-summary"]
    assert "Apache-2.0" in answer["model-summary"]


def test_a_reload_brings_back_what_was_typed_right_or_wrong(served: Page) -> None:
    typed = tree(PERSONA)
    typed["train"] |= {"learning_rate": "fast", "seed": 7, "from_an_older_version": 1}
    draft = {"recipe": "persona", "tree": typed}
    answer = served.open(draft)
    assert (answer["f-train-learning_rate"], answer["f-train-seed"]) == ("fast", 7)
    assert set(marks(answer)) == {"f-train-learning_rate", "f-train-seed"}
    assert "problem" in marks(answer)["f-train-learning_rate"]


@pytest.mark.parametrize("draft", [None, {}, {"recipe": "gone"}, {"recipe": None, "tree": {}}])
def test_a_draft_that_is_none_opens_the_main_recipe(served: Page, draft: Any) -> None:
    assert spec_of(served.open(draft)) == PERSONA


def changed(key: str) -> RunSpec:
    """The recipe in hand with another value of the field, and what it takes to be used."""
    section, name = KEYS[key]
    for value in others(f"{section}.{name}"):
        wanted = diff(PERSONA)
        for part, held in needed(f"{section}.{name}").items():
            wanted.setdefault(part, {}).update(held)
        wanted.setdefault(section, {})[name] = value
        try:
            spec = parse(wanted)
        except SpecError:
            continue
        if getattr(getattr(spec, section), name) != getattr(getattr(PERSONA, section), name):
            return spec
    raise AssertionError(f"no other value of {key}: add one to tests/alternatives.py")


@pytest.mark.parametrize("key", KEYS)
def test_every_control_reaches_the_spec_and_is_marked(served: Page, key: str) -> None:
    wanted = changed(key)
    differs = diff(wanted, PERSONA)
    held = {box_of(s, n): getattr(getattr(wanted, s), n) for s, of in differs.items() for n in of}
    values = {k: to_widget(value, INFOS[k]) for k, value in held.items()}
    opened = served.open()
    answer = served.fire(key, "change", {**opened, **values}, gives="marks")
    marked = {k for k, mark in marks(answer).items() if "changed" in mark}
    assert marked == {field_id(".".join(KEYS[k])) for k in values}
    assert "unused" not in marks(answer)[field_id(".".join(KEYS[key]))]
    kept = answer["atelier-draft"]
    assert kept["recipe"] == "persona"
    assert parse(kept["tree"]) == wanted != PERSONA


def test_everything_on_the_right_answers_a_change(served: Page) -> None:
    opened = served.open()
    changed = {**opened, "f-train-max_steps": 33, "f-model-quantization": "nf4"}
    answer = served.fire("f-train-max_steps", "change", changed, gives="marks")
    assert "33 steps" in answer["chosen"] and "in nf4" in answer["chosen"]
    assert ">33<" in answer["tune-summary"] and "max_steps: 33" in answer["tune-summary"]
    assert "chosen-row'><td>nf4" in answer["model-summary"]


def test_every_wrong_field_is_marked_while_the_rest_goes_on(served: Page) -> None:
    opened = served.open()
    wrong = {"f-adapter-r": 0, "f-train-learning_rate": "", "f-train-max_length": None}
    answer = served.fire("f-adapter-r", "change", {**opened, **wrong}, gives="marks")
    assert set(marks(answer)) == set(wrong)
    assert all("problem" in mark for mark in marks(answer).values())
    assert "mend <b>3 settings" in answer["chosen"]
    assert "135 M" in answer["model-summary"]


def test_a_problem_has_a_button_beside_its_field_and_on_the_right(served: Page) -> None:
    opened = served.open()
    wrong = {**opened, "f-train-trainer": "dpo", "f-train-packing": True, "f-train-max_steps": 0}
    answer = served.fire("f-train-packing", "change", wrong, gives="marks")
    found = marks(answer)
    assert json.loads(found["f-train-packing"]["mend"]) == {"train.packing": False}
    assert found["f-train-packing"]["does"] == "Set packing to off"
    buttons = re.findall(r"data-mend='([^']+)'", answer["tune-summary"])
    told = [json.loads(unescape(button)) for button in buttons]
    assert {"train.max_steps": -1} in told and {"train.packing": False} in told
    pressed = served.fire("marks", "select", data={"mend": found["f-train-packing"]["mend"]})
    assert {k: v for k, v in pressed.items() if k in KEYS} == {"f-train-packing": False}


@pytest.mark.parametrize("mend", ["", "[1]", "{", '{"nix.nix": 1}', '{"__class__": 1}', "null"])
def test_a_button_can_set_fields_and_nothing_else(served: Page, mend: str) -> None:
    assert served.fire("marks", "select", data={"mend": mend}) == {}


def test_the_way_back_sets_one_field_and_no_other(served: Page) -> None:
    answer = served.fire("marks", "select", data={"field": "f-train-learning_rate"})
    assert {k: v for k, v in answer.items() if k in KEYS} == {
        "f-train-learning_rate": f"{PERSONA.train.learning_rate * 1000:g}e-3"
    }
    for unknown in ("f-nix", "", "__class__", "f-train-nix"):
        assert served.fire("marks", "select", data={"field": unknown}) == {}


@pytest.mark.parametrize("button", ["start-model", "start-data", "start-tune", "start-runs"])
def test_start_refuses_wrong_settings_beside_their_fields(
    served: Page, home: Settings, button: str
) -> None:
    opened = served.open()
    wrong = {**opened, "f-adapter-r": 0, "f-train-learning_rate": "fast"}
    answer = served.fire(button, "click", wrong)
    assert answer["tabs"]["selected"] == "Tune"
    assert {k for k, mark in marks(answer).items() if "problem" in mark} == {
        "f-adapter-r", "f-train-learning_rate",
    }  # fmt: skip
    assert "adapter.r" in answer["tune-summary"]
    assert RunStore(home.runs).active() is None


def test_start_refuses_files_that_are_missing_or_outside(served: Page, home: Settings) -> None:
    write(home.workspace.parent / "outside.jsonl", '{"question": "a", "answer": "b"}\n' * 3)
    opened = served.open()
    for path, words in (("nix.jsonl", "no file"), ("../outside.jsonl", "outside the workspace")):
        chosen = {**opened, "f-data-path": path, "f-model-name_or_path": "./nix"}
        found = marks(served.fire("start-tune", "click", chosen))
        assert words in found["f-data-path"]["problem"]
        assert "no model" in found["f-model-name_or_path"]["problem"]
    assert RunStore(home.runs).active() is None


def test_start_refuses_a_second_run(served: Page, home: Settings, going: Run) -> None:
    before = RunStore(home.runs).list()
    answer = served.fire("start-tune", "click", served.open())
    assert "still going" in answer["runs-message"]
    assert RunStore(home.runs).list() == before


def test_settings_join_the_queue_behind_the_run_that_goes(
    served: Page, home: Settings, going: Run
) -> None:
    store = RunStore(home.runs)
    answer = served.fire("start-runs", "click", served.open(), session="q")
    (waiting,) = queue.waiting(store.root)
    assert "problem" not in answer["runs-message"]
    assert json.loads(answer["live"])["run"] == waiting
    assert answer["start-runs"]["value"] == "Add these settings to the queue"
    assert store.state(store.get(waiting)).status == "queued"
    with queue.changing(store.root) as ids:
        ids.clear()
    shutil.rmtree(store.get(waiting).path)


def test_the_buttons_of_the_live_view_act_on_its_run(
    served: Page, home: Settings, going: Run
) -> None:
    store = RunStore(home.runs)

    def pressed(do: str, run: Run, **more: Any) -> dict[str, Any]:
        act = json.dumps({"do": do, "run": run.id, **more})
        return served.fire("live", "act", served.open(), data={"act": act})

    answer = pressed("stop", going)
    assert going.stop.exists() and "problem" not in str(answer["runs-message"])
    assert "still going" in pressed("delete", going)["runs-message"]
    other = store.create(parse({"train": {"seed": 77}}), "other")
    answer = pressed("use", other)
    assert answer["tabs"]["selected"] == "Tune" and spec_of(answer) == other.spec()
    answer = pressed("talk", other)
    assert answer["tabs"]["selected"] == "Chat" and json.loads(answer["live"])["run"] == other.id
    answer = pressed("delete", other)
    assert "Deleted other" in answer["runs-message"] and "Bring it back" in answer["space"]
    assert json.loads(answer["live"])["run"] == going.id and other not in store.list()
    assert json.loads(pressed("restore", other)["live"])["run"] == other.id
    assert "other" in served.fire("runs-space", "expand")["space"]
    shutil.rmtree(other.path)


def test_several_values_are_counted_and_join_the_queue(
    served: Page, home: Settings, going: Run
) -> None:
    opened = served.open()
    typed = {**opened, "sweep-field": "train.seed", "sweep-values": "1, x, 3"}
    assert "<b>x</b>" in served.fire("sweep-values", "change", typed)["sweep-seen"]
    assert "Nothing was added" in served.fire("sweep-add", "click", typed)["sweep-seen"]
    typed["sweep-values"] = "1, 2, 3"
    assert "<b>3 runs</b>" in served.fire("sweep-values", "change", typed)["sweep-seen"]
    answer = served.fire("sweep-add", "click", typed)
    assert "3 runs wait" in answer["runs-message"]
    store = RunStore(home.runs)
    runs = [store.get(run) for run in queue.waiting(store.root)]
    assert [run.spec().train.seed for run in runs] == [1, 2, 3]
    assert json.loads(answer["live"])["run"] == runs[0].id
    with queue.changing(store.root) as ids:
        ids.clear()
    for run in runs:
        shutil.rmtree(run.path)


def test_a_recipe_is_saved_and_loaded_again(served: Page, home: Settings) -> None:
    opened = served.open()
    answer = served.fire(
        "recipe-save", "click", {**opened, "f-train-seed": 99, "recipe-name": "My own"}
    )
    assert "my-own" in answer["tune-summary"] and answer["recipe"]["value"] == "my-own"
    assert load(home.recipes / "my-own.yaml").train.seed == 99
    taken = served.fire("recipe", "input", {"recipe": "my-own"})
    assert spec_of(taken) == load(home.recipes / "my-own.yaml")
    taken = served.fire("recipe", "input", {"recipe": "persona"})
    assert spec_of(taken) == PERSONA
    (home.recipes / "my-own.yaml").unlink()


def test_a_recipe_without_a_name_or_with_wrong_settings_is_not_saved(
    served: Page, home: Settings
) -> None:
    opened = served.open()
    for values in ({"recipe-name": ""}, {"recipe-name": "x", "f-adapter-r": 0}):
        answer = served.fire("recipe-save", "click", {**opened, **values})
        assert "Not saved" in answer["tune-summary"]
    assert not list(home.recipes.glob("*")) if home.recipes.exists() else True


def test_a_recipe_that_is_broken_is_told_and_changes_no_field(served: Page, home: Settings) -> None:
    path = write(home.recipes / "broken.yaml", "train:\n  sede: 1\n")
    # A reload, so that it can be picked.
    served.open()
    answer = served.fire("recipe", "input", {"recipe": "broken"})
    path.unlink()
    assert not set(answer) & set(KEYS)
    assert "Did you mean seed?" in answer["tune-summary"]


def test_buttons_in_what_is_drawn_change_the_form(served: Page) -> None:
    opened = served.open()

    def pressed(act: dict[str, Any]) -> dict[str, Any]:
        return served.fire("acts", "select", opened, data={"act": json.dumps(act)})

    step = {"do": "drop", "what": "duplicate"}
    assert pressed({"do": "add", "step": step}) == {"v-data-steps": json.dumps([step])}
    longer = {"do": "set", "field": "train.max_length", "value": 2048}
    assert pressed(longer) == {"f-train-max_length": 2048}
    assert pressed({"do": "row", "at": 16}) == {"row-number": 17}
    assert pressed({"do": "accept", "finding": "cut"}) == {"f-data-accepted": ["cut"]}
    for nothing in ({}, {"do": "row", "at": -1}, {"do": "set", "field": "nix"}, {"do": "row"}):
        assert pressed(nothing) == {}


def test_a_step_and_a_source_are_added_to_the_lists(served: Page) -> None:
    opened = served.open()
    boxes = {"step-kind": "take", "step-number": 50, "step-skip": 5}
    answer = served.fire("step-add", "click", {**opened, **boxes})
    assert json.loads(answer["v-data-steps"]) == [{"do": "take", "rows": 50, "skip": 5}]
    more = {"source-path": "b.csv", "source-split": "train", "source-weight": 2}
    answer = served.fire("source-add", "click", {**opened, **more})
    assert json.loads(answer["v-data-also"]) == [{"path": "b.csv", "weight": 2}]
    held = {"path": "me/rows", "split": "test", "name": "en", "revision": "v2"}
    more = {**{f"source-{key}": text for key, text in held.items()}, "source-weight": 1}
    answer = served.fire("source-add", "click", {**opened, **more})
    assert json.loads(answer["v-data-also"]) == [held]
    # The next one is seldom of the same set.
    assert answer["source-path"] == answer["source-name"] == answer["source-revision"] == ""
    changed = {**opened, "v-data-steps": '[{"do": "shuffle"}]'}
    answer = served.change("v-data-steps", changed, gives="f-data-steps")
    assert "Shuffle with the seed 42" in answer["f-data-steps"]


def test_what_was_listed_of_a_model_goes_with_it(served: Page) -> None:
    opened = served.open()
    changed = {**opened, "f-model-name_or_path": "another"}
    for shown in ("modules", "code-files", "trial-answer"):
        changed["f-model-name_or_path"] += "!"
        answer = served.change("f-model-name_or_path", changed, gives=shown)
        assert answer[shown] == ""
    with pytest.raises(ValueError, match="not enough"):
        served.change("f-train-max_steps", {**changed, "f-train-max_steps": 3}, gives="code-files")


def test_a_ready_format_fills_both_templates(served: Page) -> None:
    name, prompt, completion = FORMATS[0]
    answer = served.fire("prompt-format", "input", {"prompt-format": name})
    assert (answer["f-data-prompt_template"], answer["f-data-completion_template"]) == (
        prompt, completion,
    )  # fmt: skip


@pytest.mark.parametrize("kind", steps.BOXES)
def test_a_kind_of_step_shows_the_boxes_that_it_needs(served: Page, kind: str) -> None:
    answer = served.fire("step-kind", "change", {"step-kind": kind})
    shown = {box.removeprefix("step-") for box, update in answer.items() if update["visible"]}
    assert shown == set(steps.BOXES[kind])


def test_the_row_moves_by_one_and_not_below_the_first(served: Page) -> None:
    def moved(button: str, row: float | None) -> Any:
        return served.fire(button, "click", {"row-number": row})["row-number"]

    assert [moved("row-next", 1), moved("row-next", None)] == [2, 1]
    assert [moved("row-previous", 5), moved("row-previous", 1), moved("row-previous", None)] == [
        4,
        1,
        1,
    ]


def test_the_live_view_is_fed_over_the_wire(served: Page, going: Run) -> None:
    told = served.poll("tick", {"run": going.id, "offset": 0})
    assert [p["step"] for p in told["points"]] == [4] and told["state"]["status"] == "running"
    assert going.id in [run["id"] for run in served.poll("runs", {})["runs"]]
    assert served.call("live", "log", {"run": going.id}).json()["text"].endswith("<b>done</b>\n")
    assert served.poll("pulse", {})["run"]["id"] == going.id
    # Nothing new costs next to nothing; and what is no request is none of ours.
    again = served.poll("tick", {"run": going.id, "offset": told["offset"]})
    assert again["points"] == [] and len(str(again)) < 1000
    for run in ("..", "../..", "/etc", "", 7, None):
        assert served.poll("tick", {"run": run}) == {"gone": True}
    for wrong in ([], 7, None, "x"):
        assert served.poll("tick", wrong) == {"gone": True} and "runs" in served.poll("runs", wrong)


def test_polls_are_asked_for_by_name_and_only_read(served: Page, going: Run) -> None:
    both = [["pulse", {}], ["nix", {}], ["tick", {"run": going.id, "offset": 0}]]
    pulse, nothing, told = served.client.get(f"/poll?{quote(json.dumps(both))}").json()
    assert pulse["run"]["id"] == going.id and nothing is None and told["offset"] > 0
    for method, path in (("GET", "/poll/pulse"), ("GET", "/poll/"), ("POST", "/poll?[]")):
        assert served.client.request(method, path).status_code in (403, 404, 405), path
    wrong = ("%7B", "not%20json", "", "7", "null", "[1]", "[[]]", '[["pulse"]]', "[" * 3000)
    for query in (*wrong, "x" * 9000, "%ff"):
        assert served.client.get(f"/poll?{query}").status_code == 404, query
    many = quote(json.dumps([["tick", {"run": str(n)}] for n in range(99)]))
    assert len(served.client.get(f"/poll?{many}").json()) == 20
    answer = served.client.get('/poll?[["pulse",{}]]')
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("run", ["..", "../..", "/etc", "nix", "", "going/../going"])
def test_the_log_of_nothing_but_a_run_is_shown(served: Page, going: Run, run: str) -> None:
    assert "There is no run" in served.call("live", "log", {"run": run}).json()["text"]


@pytest.mark.parametrize("function", ["create", "__init__", "launch", "open", "nix"])
def test_only_the_functions_meant_for_the_page_can_be_called(served: Page, function: str) -> None:
    assert served.call("live", function, {}).status_code >= 400
