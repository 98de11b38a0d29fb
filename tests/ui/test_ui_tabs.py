"""What the tabs decide: what is kept of an upload and a recipe, what is refused, who answers."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from studio.data import Peek, detect, open_data
from studio.data.findings import Finding, Report
from studio.errors import SpecError, StudioError
from studio.jobs.audit import audit_folder, keep_report
from studio.jobs.plan import rows_of
from studio.plan.auto import choose
from studio.plan.estimate import plan
from studio.plan.learned import NOTHING
from studio.plan.lengths import Rows
from studio.plan.machine import Machine
from studio.plan.model import summarize
from studio.runs import RunState, RunStore
from studio.runs.events import append
from studio.settings import Settings
from studio.spec import DEFAULTS, RunSpec, diff, load, parse, tree, with_values
from studio.ui import chat_tab, export_tab, plan_view, rows, runs_tab, tune_tab
from studio.ui.context import MAIN, lenient, recipes
from studio.ui.uploads import choices, take_upload
from tests.ui.conftest import write

ROW = '{"question": "a", "answer": "b"}\n'


@pytest.fixture
def confined(tmp_path: Path) -> Settings:
    """A workspace beside which lie data and a model."""
    work = tmp_path / "work"
    work.mkdir()
    write(tmp_path / "secret.jsonl", ROW * 5)
    # Ways in that a folder which was uploaded may hold.
    for name, at in (("saved", "../../secret"), ("plain", "train")):
        write(work / name / "dataset_dict.json", json.dumps({"splits": [at, str(tmp_path), ".."]}))
    (work / "plain" / "train").symlink_to(tmp_path)
    (tmp_path / "secret").mkdir()
    write(tmp_path / "secret" / "rows.jsonl", ROW * 5)
    write(work / "folder" / "a.jsonl", ROW)
    (work / "folder" / "b.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (work / "validation").symlink_to(tmp_path / "secret.jsonl")
    (work / "20%").symlink_to(tmp_path / "secret.jsonl")
    write(work / "state" / "state.json", '{"_data_files": [{"filename": "b.jsonl"}]}')
    (work / "state" / "b.jsonl").symlink_to(tmp_path / "secret.jsonl")
    write(tmp_path / "model" / "config.json", "{}")
    return Settings(home=tmp_path / "home", workspace=tmp_path / "work")


def refused(settings: Settings, tree: dict[str, Any]) -> dict[str, str]:
    """What the page says is wrong before a start, by field."""
    with pytest.raises(SpecError) as caught:
        runs_tab.judge(settings, parse(tree))
    assert all(p.hint for p in caught.value.problems)
    return {p.field: p.message for p in caught.value.problems}


def test_the_defaults_may_start(settings: Settings) -> None:
    runs_tab.judge(settings, DEFAULTS)


def test_data_and_model_outside_the_workspace_are_refused_at_their_fields(
    confined: Settings,
) -> None:
    found = refused(
        confined, {"data": {"path": "../secret.jsonl"}, "model": {"name_or_path": "../model"}}
    )
    assert set(found) == {"data.path", "model.name_or_path"}
    assert all("outside the workspace" in message for message in found.values())


def test_missing_data_and_models_are_refused_at_their_fields(settings: Settings) -> None:
    found = refused(settings, {"data": {"path": "nix.jsonl"}, "model": {"name_or_path": "./nix"}})
    assert set(found) == {"data.path", "model.name_or_path"}


@pytest.mark.parametrize("text", ["", ROW, "{", "[1]\n" * 3])
def test_data_that_cannot_be_trained_on_is_refused(settings: Settings, text: str) -> None:
    write(settings.workspace / "few.jsonl", text)
    assert list(refused(settings, {"data": {"path": "few.jsonl"}})) == ["data.path"]


def overview(settings: Settings, chosen: RunSpec) -> tuple[str, list[list[Any]]]:
    *_, (words, table, _columns) = rows.overview(settings, chosen, 1)
    return words, table


@pytest.mark.parametrize(
    "data",
    [
        {"path": "../secret.jsonl"},
        {"path": "mine.jsonl", "also": [{"path": "../secret.jsonl"}]},
        {"path": "mine.jsonl", "validation": "../secret.jsonl"},
        {"path": "mine.jsonl", "test": "../secret.jsonl"},
        {"path": "mine.jsonl", "validation": "validation"},
        {"path": "mine.jsonl", "validation": "~"},
        {"path": "mine.jsonl", "test": "folder"},
        {"path": "20%"},
        {"path": "folder"},
        {"path": "state"},
        {"path": "plain"},
    ],
)
def test_data_outside_the_workspace_is_neither_listed_nor_shown(
    confined: Settings, data: dict[str, Any]
) -> None:
    write(confined.workspace / "mine.jsonl", ROW * 3)
    chosen = parse({"data": data})
    words, table = overview(confined, chosen)
    assert "outside the workspace" in words and table == []
    assert "outside the workspace" in "".join(rows.seen(confined, chosen, 1))
    assert "outside the workspace" in "".join(rows.batch(confined, chosen, 1))
    assert "outside the workspace" in next(iter(rows.audit(confined, chosen)))[0]
    assert "outside the workspace" in next(iter(rows.find(confined, chosen, "a", 1)))[1]
    assert rows.total(confined, tree(chosen)) == 0
    assert next(iter(rows.lengths(confined, chosen))) == ""
    assert not (confined.home / "bench").exists()


@pytest.mark.parametrize("split", ["../../secret", "..", "ABOVE"])
def test_a_saved_data_set_has_no_split_outside_of_itself(confined: Settings, split: str) -> None:
    split = str(confined.workspace.parent) if split == "ABOVE" else split
    for data in ({"path": "saved", "split": split}, {"path": "saved", "validation": split}):
        words, table = overview(confined, parse({"data": data}))
        assert ("no split" in words or "outside the workspace" in words) and table == []
        with pytest.raises(StudioError):
            open_data(parse({"data": data}).data, confined)


@pytest.mark.parametrize("path", ["a\0b", "~nobody-of-that-name/x", "x" * 5000, "/proc/1/mem"])
def test_a_path_that_is_none_is_told_on_the_data_tab(settings: Settings, path: str) -> None:
    words, table = overview(settings, parse({"data": {"path": path}}))
    assert "problem" in words and table == []


def test_rows_are_counted_and_divided(settings: Settings) -> None:
    write(settings.workspace / "a.jsonl", "".join(ROW.replace('"a"', f'"{n}"') for n in range(20)))
    data: dict[str, Any] = {"path": "a.jsonl", "test": "5"}
    assert rows.counts(settings, parse({"data": data})) == rows.Counts(20, 13, 2, 5)
    data["steps"] = [{"do": "take", "rows": 9}]
    counts = rows.counts(settings, parse({"data": data}))
    assert counts is not None and counts.total == 9
    assert rows.total(settings, {"data": {"path": "nix.jsonl"}}) == 0


def test_a_page_of_the_table_holds_the_row_that_is_looked_at(settings: Settings) -> None:
    write(settings.workspace / "a.jsonl", "".join(ROW.replace('"a"', f'"{n}"') for n in range(120)))
    chosen = parse({"data": {"path": "a.jsonl"}})
    for number, numbers in ((1, range(1, 51)), (50, range(1, 51)), (51, range(51, 101))):
        *_, (_, table, columns) = rows.overview(settings, chosen, number)
        assert [line[0] for line in table] == list(numbers) and columns == ["question", "answer"]
        assert rows.page_start(number) == numbers[0]
    *_, (words, table, _) = rows.overview(settings, chosen, 10**9)
    assert [line[0] for line in table] == list(range(101, 121)) and "101 to 120" in words


def test_rows_of_the_hub_are_shown_while_the_rest_is_downloaded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, seen = {"question": "a", "answer": "b"}, list[Peek]()

    def broken(*_: Any) -> Any:
        raise StudioError("The Hub has gone.", "")

    def index(*_: Any) -> Any:
        yield RunState(stage="asking")
        seen.append(Peek([row], detect([row], DEFAULTS.data), [""]))
        yield RunState(stage="downloading")

    monkeypatch.setattr(rows, "open_data", broken)
    monkeypatch.setattr(rows.jobs, "index", index)
    monkeypatch.setattr(rows.jobs, "first_rows", lambda *_: seen[0] if seen else None)
    shown = list(rows.overview(settings, parse({"data": {"path": "me/rows"}}), 1))
    assert shown[1][1] == [] and "First rows" not in shown[1][0]
    words, table, columns = shown[2]
    assert "First rows" in words and "question_answer" in words and "downloading" in words
    assert table == [[1, "a", "b"]] and columns == ["question", "answer"]


def test_rows_of_a_held_out_file_can_be_looked_at(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(settings.workspace / "a.jsonl", ROW * 5)
    write(settings.workspace / "held.jsonl", ROW.replace('"a"', '"held"') * 60)
    chosen = parse({"data": {"path": "a.jsonl", "validation": "held.jsonl"}})
    asked: list[tuple[int, int]] = []

    def preview(_: Settings, __: RunSpec, start: int, count: int, *___: Any) -> Any:
        asked.append((start, count))
        yield {"stage": "reading"}

    monkeypatch.setattr(rows.jobs, "preview", preview)
    for number, place in ((5, "Row 5 of 5"), (7, "Held-back row 2"), (65, "Held-back row 60")):
        assert place in rows.at_once(settings, chosen, number)
        assert place in "".join(rows.seen(settings, chosen, number))
        assert asked.pop() == (number - 1, 1)
    assert "the last is 65" in rows.at_once(settings, chosen, 66)
    assert "the last is 65" in "".join(rows.seen(settings, chosen, 66)) and not asked
    *_, (words, table, _) = rows.overview(settings, chosen, 60)
    assert "<b>5 rows</b>, 60 for evaluation" in words
    assert [line[0] for line in table] == list(range(51, 66))


def test_what_an_audit_found_holds_a_start_back(settings: Settings) -> None:
    write(settings.workspace / "a.jsonl", ROW * 4)
    found = Report({}, (Finding("leaked", "stop", 3, "3 rows leak."),), {})
    held: dict[str, Any] = {"data": {"path": "a.jsonl"}}
    unchecked, store = "Not all rows were looked at yet", RunStore(settings.runs)
    assert unchecked in tune_tab.right(settings, store, tree(parse(held)), MAIN)
    keep_report(settings, parse(held), audit_folder(settings, parse(held)), found)
    assert unchecked not in tune_tab.right(settings, store, tree(parse(held)), MAIN)
    assert refused(settings, held) == {"data.path": "3 rows leak."}
    held["data"]["accepted"] = ["leaked"]
    runs_tab.judge(settings, parse(held))


def test_nothing_is_measured_that_could_not_be_started(
    confined: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = write(tmp_path / "elsewhere" / "a.jsonl", ROW * 4)
    monkeypatch.setattr(tune_tab.jobs, "probe", lambda *_: iter(("step 1",)))
    store = RunStore(confined.runs)
    with pytest.raises(SpecError, match=r"data\.path"):
        next(tune_tab.measuring(confined, store, parse({"data": {"path": str(outside)}})))
    write(confined.workspace / "a.jsonl", ROW * 4)
    assert (
        next(tune_tab.measuring(confined, store, parse({"data": {"path": "a.jsonl"}}))) == "step 1"
    )


def test_rows_that_were_checked_are_planned_by_their_lengths(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(settings.workspace / "a.jsonl", ROW * 4)
    spec = parse({"data": {"path": "a.jsonl"}})
    opened = rows.opened(settings, spec)
    assert opened is not None
    guessed = rows_of(settings, spec, opened, 90, 10)
    assert (guessed.train, guessed.eval, guessed.exact) == (90, 10, False)
    lengths = {"bins": [[0, 10, 60], [10, 20, 0], [20, 30, 40]], "longest": 27}
    counts: dict[str, int | float] = {"tokens": 1300, "trained_tokens": 650}
    monkeypatch.setattr("studio.jobs.plan.audit_result", lambda *_: Report(counts, (), lengths))
    found = rows_of(settings, spec, opened, 90, 10)
    assert found.exact and found.scored == 0.5 and max(found.lengths) == 27
    assert found.cut(1000).mean == pytest.approx(0.6 * 5 + 0.4 * 25, rel=0.01)
    # Answers that are compared are counted in another way.
    pairs = parse({"data": {"path": "a.jsonl"}, "train": {"trainer": "dpo"}})
    assert not rows_of(settings, pairs, opened, 90, 10).exact


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("mine.jsonl", "mine.jsonl"),
        ("../../etc/passwd.json", "passwd.json"),
        ("rows.jsonl.gz", "rows.jsonl.gz"),
        ("..hidden.csv", "hidden.csv"),
        ("réponses (1).jsonl", "réponses-1-.jsonl"),
        ("a'b\"<c>.csv", "a-b-c-.csv"),
    ],
)
def test_an_upload_is_kept_in_the_home_under_a_plain_name(
    settings: Settings, tmp_path: Path, name: str, kept: str
) -> None:
    source = write(tmp_path / "temporary" / Path(name).name, ROW)
    path = Path(take_upload(settings, str(source)))
    assert path == settings.uploads / kept
    assert path.read_text(encoding="utf-8") == ROW
    assert settings.confine(str(path)) == path
    assert str(path) in [value for _label, value in choices(settings)]


def test_a_recipe_is_saved_and_found_again(settings: Settings) -> None:
    wanted = parse({"train": {"learning_rate": 1e-3}, "adapter": {"r": 4}})
    name = tune_tab.save(settings, "  My first Recipe! ", wanted, "persona")
    assert name == "my-first-recipe"
    assert load(recipes(settings)[name].path) == wanted
    assert next(iter(recipes(settings))) == MAIN


@pytest.mark.parametrize("name", ["", "  ", "!!", "日本", "x" * 41, "persona", "Persona!"])
def test_a_name_that_is_none_or_taken_is_refused(settings: Settings, name: str) -> None:
    with pytest.raises(StudioError) as caught:
        tune_tab.save(settings, name, DEFAULTS, "persona")
    assert caught.value.hint and not settings.recipes.exists()


def test_a_recipe_that_cannot_be_written_is_told(settings: Settings) -> None:
    write(settings.home / "recipes", "a file")
    with pytest.raises(StudioError, match="can't be written"):
        tune_tab.save(settings, "mine", DEFAULTS, "persona")


def test_an_own_recipe_is_described_by_its_first_comment(settings: Settings) -> None:
    write(settings.recipes / "mine.yaml", "# Why I made it.\n# More.\ntrain:\n  seed: 1\n")
    write(settings.recipes / "plain.yaml", "train:\n  seed: 1\n")
    found = recipes(settings)
    assert (found["mine"].about, found["plain"].about) == ("Why I made it.", "")


def test_a_wrong_field_does_not_hide_what_the_others_say() -> None:
    tree = parse({"train": {"seed": 7}, "adapter": {"r": 4}}).model_dump()
    tree["train"]["learning_rate"] = "fast"
    tree["model"]["dtype"] = None
    assert diff(lenient(tree)) == {"train": {"seed": 7}, "adapter": {"r": 4}}


@pytest.mark.parametrize(
    "half",
    [
        # As while a recipe is being filled in: the pair is wrong, and so is each of its defaults.
        {"train": {"trainer": "grpo"}, "grpo": {"pattern_weight": 0.2}},
        {"data": {"chat_template": "custom"}},
        {"train": {"lr_scheduler_type": "cosine_with_min_lr"}},
        {"train": {"save_strategy": "best"}, "eval": {"eval_strategy": "no"}},
    ],
)
def test_a_pair_that_is_wrong_with_a_default_too_is_no_end(half: Any) -> None:
    assert lenient({**half, "adapter": {"r": 4}}).adapter.r == 4


def test_an_own_template_that_is_not_written_yet_leaves_the_data_alone() -> None:
    chosen = {"data": {"path": "my.jsonl", "chat_template": "custom"}}
    assert diff(lenient(chosen)) == {"data": {"path": "my.jsonl"}}


def test_the_summary_says_what_answers_are_rewarded_for(settings: Settings) -> None:
    store = RunStore(settings.runs)
    held = load(settings.presets / "trainer-grpo.yaml")
    words = unescape(tune_tab.right(settings, store, tree(held), "trainer-grpo"))
    assert "exact match, pattern, length" in words and "pattern 0.2" in words
    one = with_values(held, {"grpo.pattern_weight": 0.0, "grpo.length_weight": 0.0})
    words = unescape(tune_tab.right(settings, store, tree(one), "trainer-grpo"))
    assert "exact match" in words and "under Rewards" in words and "weights: exact" not in words
    assert "Rewarded" not in tune_tab.right(settings, store, tree(DEFAULTS), MAIN)


def test_the_summary_says_what_will_happen(settings: Settings) -> None:
    store = RunStore(settings.runs)
    tree = parse(
        {"train": {"max_steps": 20}, "data": {"steps": [{"do": "take", "rows": 100}]}}
    ).model_dump()
    words = tune_tab.right(settings, store, tree, MAIN)
    for part in (
        ">90<",
        "and 10 held back",
        ">20<",
        "8 rows each",
        "a first guess",
        "max_steps: 20",
    ):
        assert part in words, part


def test_the_plan_is_corrected_by_an_earlier_run_of_its_kind(settings: Settings) -> None:
    store = RunStore(settings.runs)
    run = store.create(DEFAULTS, "a")
    before = {"engine": "plain", "raw_memory": 2e9, "raw_seconds": 100.0}
    append(run.events, {"type": "start", "max_steps": 1, "device": "CPU, float32"})
    append(run.events, {"type": "predicted", "memory": 2e9, "seconds": 100.0, **before})
    append(run.events, {"type": "log", "step": 1, "loss": 1.0, "tokens_per_second": 1.0})
    append(run.events, {"type": "measured", "memory": 4e9, "seconds": 300.0})
    append(run.events, {"type": "end", "status": "finished"})
    first = plan_view.planned(settings, RunStore(settings.workspace / "none"), DEFAULTS)
    then = plan_view.planned(settings, store, DEFAULTS)
    assert first is not None and then is not None
    assert (then.learned.time, then.learned.runs) == (3.0, 1)
    assert then.learned.memory == pytest.approx(2.0)
    assert then.plan.seconds > 2.5 * first.plan.seconds and then.plan.memory > first.plan.memory
    tree = DEFAULTS.model_dump()
    assert "from your earlier runs" in tune_tab.right(settings, store, tree, MAIN)
    tree["model"]["quantization"] = "nf4"
    assert "a first guess" in tune_tab.right(settings, store, tree, MAIN)
    assert plan_view.compared(store.state(run)) == [
        ("Memory", "2.0 GB", "4.0 GB (+100%)"),
        ("Time", "1 min 40 s", "5 min (+200%)"),
    ]


def bar_of(settings: Settings, free: float, **values: Any) -> str:
    """The bar of the default run with `values`, on a machine with so many bytes free."""
    spec = with_values(DEFAULTS, {k.replace("__", "."): v for k, v in values.items()})
    machine = Machine(2, int(64e9), int(free), ())
    summary, rows = summarize(spec.model.name_or_path, settings), Rows(90, 10, (60, 80, 120))
    found = plan(spec, summary, machine, rows)
    choice = choose(spec, summary, machine, rows)
    return plan_view.bar(plan_view.Planned(found, choice, NOTHING, summary, machine))


def test_the_bar_moves_with_the_fields_and_says_what_fits(settings: Settings) -> None:
    few, many = (bar_of(settings, 20e9, adapter__r=r) for r in (4, 256))
    assert few != many and "data-fits='fits'" in few
    needs = float(re.search(r"Needs about ([\d.]+) of", few)[1]) * 1e9  # type: ignore[index]
    assert "data-fits='tight'" in bar_of(settings, needs * 1.05, adapter__r=4)
    large = bar_of(settings, 3e9, train__per_device_train_batch_size=512)
    assert "data-fits='large'" in large and "GB too much" in large
    # The button sets what the words say, and what it sets fits.
    changes = json.loads(unescape(re.search("data-mend='([^']*)'", large)[1]))  # type: ignore[index]
    assert changes["train.per_device_train_batch_size"] < 512
    rows = changes["train.per_device_train_batch_size"]
    assert rows * changes["train.gradient_accumulation_steps"] == 512
    mended = {k.replace(".", "__"): v for k, v in changes.items()}
    assert "data-fits='fits'" in bar_of(settings, 3e9, **mended)


def test_where_nothing_fits_it_says_by_how_much(settings: Settings) -> None:
    words = bar_of(settings, 2e8)
    assert "Even the smallest needs" in words and "use-what-fits" not in words


def test_the_summary_lists_everything_that_must_be_mended(settings: Settings) -> None:
    tree = DEFAULTS.model_dump()
    tree["adapter"]["r"] = 0
    tree["train"]["optim"] = "adam"
    words = tune_tab.right(settings, RunStore(settings.runs), tree, MAIN)
    assert "adapter.r" in words and "train.optim" in words and "Mend these first" in words


# Chat and Export: what they decide without a model.


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_who_answers_follows_from_the_mode_and_the_run() -> None:
    assert chat_tab.answering(chat_tab.PAIR, "a run") == ("base", "tuned")
    assert chat_tab.answering(chat_tab.PAIR, None) == ("base",)
    assert chat_tab.answering(chat_tab.MERGED, "a run") == ("merged",)


def test_asking_again_takes_the_last_question_and_its_answers_back() -> None:
    kept = {
        "base": [
            turn("user", "1"),
            turn("assistant", "a"),
            turn("user", "2"),
            turn("assistant", "b"),
        ],
        "tuned": [turn("user", "2")],
        "merged": [turn("user", "9"), turn("assistant", "z")],
    }
    assert chat_tab.forget_answer(kept, ("base", "tuned")) == "2"
    assert kept["base"] == [turn("user", "1"), turn("assistant", "a")]
    assert kept["tuned"] == [] and len(kept["merged"]) == 2
    assert chat_tab.forget_answer({}, ("base",)) == ""


def test_the_merged_model_is_shown_alone() -> None:
    kept = {"base": [turn("user", "1")], "tuned": [], "merged": [turn("user", "2")]}
    left, right = chat_tab.shown(kept, chat_tab.MERGED)
    assert left == {"visible": False} and right["value"] == [turn("user", "2")]
    left, right = chat_tab.shown(kept, chat_tab.PAIR)
    assert left["visible"] and left["value"] == [turn("user", "1")] and right["value"] == []


def test_a_question_that_cannot_be_answered_leaves_the_conversation_as_it_was(
    settings: Settings,
) -> None:
    store = RunStore(settings.runs)
    kept = {"base": [turn("user", "1"), turn("assistant", "a")]}
    for run_id, sides in (("20250101-000000-gone", ("base", "tuned")), (None, ("tuned",))):
        with pytest.raises(StudioError):
            list(
                chat_tab.answer(
                    store, settings, run_id, DEFAULTS, "Hi", sides, kept, DEFAULTS.generate
                )
            )
        assert kept == {"base": [turn("user", "1"), turn("assistant", "a")]}


def test_an_answer_stopped_before_its_first_word_is_not_part_of_the_conversation() -> None:
    said = [turn("user", "1"), turn("assistant", "a")]
    open_question = [*said, turn("user", "2"), turn("assistant", "")]
    assert chat_tab.talked({"base": open_question, "tuned": said}) == {"base": said, "tuned": said}


def test_asking_again_draws_anew_or_says_why_not() -> None:
    histories = {"tuned": [turn("user", "1"), turn("assistant", "a")]}
    drawn = DEFAULTS.generate.model_copy(update={"do_sample": True})
    first = chat_tab.other_dice(drawn, histories, ("tuned",))
    histories["tuned"][-1] = turn("assistant", "b")
    second = chat_tab.other_dice(drawn, histories, ("tuned",))
    assert len({drawn.seed, first.seed, second.seed}) == 3
    with pytest.raises(StudioError, match="do_sample"):
        chat_tab.other_dice(DEFAULTS.generate, histories, ("tuned",))


def test_wrong_generation_settings_are_told_and_other_fields_do_not_matter() -> None:
    tree = DEFAULTS.model_dump()
    tree["train"]["seed"] = "x"
    assert chat_tab.generation(tree) == DEFAULTS.generate
    tree["generate"]["top_p"] = 2
    with pytest.raises(SpecError, match=r"generate\.top_p"):
        chat_tab.generation(tree)


def test_only_ended_runs_with_an_adapter_can_be_talked_to(settings: Settings) -> None:
    store = RunStore(settings.runs)
    assert chat_tab.tuned_runs(store) == []
    going, bare, good = (store.create(DEFAULTS, name) for name in ("going", "bare", "good"))
    for run in (going, good):
        write(run.adapter / "adapter_config.json", "{}")
    for run in (bare, good):
        append(run.events, {"type": "end", "status": "finished"})
    assert chat_tab.tuned_runs(store) == [good]


def test_nothing_to_export_is_told(settings: Settings) -> None:
    store = RunStore(settings.runs)
    assert "no tuned model yet" in "".join(export_tab.make(store, settings, None, "adapter"))
    run = store.create(DEFAULTS, "a")
    assert "has no adapter" in "".join(export_tab.make(store, settings, run.id, "adapter"))
    assert "There is no run" in "".join(export_tab.make(store, settings, "nix", "adapter"))


def test_what_a_method_does_not_make_is_said_at_once(settings: Settings) -> None:
    store = RunStore(settings.runs)
    run = store.create(parse({"adapter": {"method": "p_tuning"}}), "a")
    said = export_tab.there(store, run.id, "merged")
    assert "a learned text in front of each row" in said and "Take the adapter itself" in said
    assert "Not made yet" in export_tab.there(store, run.id, "adapter")


def test_what_was_exported_is_listed_with_how_to_use_it(settings: Settings) -> None:
    run = RunStore(settings.runs).create(DEFAULTS, "a")
    (run.export / "adapter").mkdir(parents=True)
    (run.export / "adapter" / "adapter_model.safetensors").write_bytes(b"x" * 2_500_000)
    write(run.export / "adapter" / "adapter_config.json", "{}")
    words = export_tab.done(run, "adapter")
    assert "2.5 MB" in words and "0.0 kB" in words
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in words and "PeftModel" in words
    assert "Not made yet" in export_tab.done(run, "merged")
