"""What becomes of runs, as a person sees it: paused and resumed, killed with the server, changed
while they train, tried in several ways, compared, named, deleted and brought back."""

import shutil
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import expect

from studio.runs import Run, RunStore, checkpoints, keep
from tests.e2e.conftest import Server, Watched
from tests.engine.helpers import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
_WORKER_MS = 180_000
_STEPS = 500


@pytest.fixture(scope="module")
def store(server: Server, tiny_model: Path, rows_file: Path) -> RunStore:
    """The server's runs; beside them a model and a recipe that train in seconds."""
    settings = server.settings
    shutil.copytree(tiny_model, settings.workspace / "tiny")
    shutil.copy(rows_file, settings.workspace / "rows.jsonl")
    recipe = {
        "model": {"name_or_path": "./tiny"},
        "data": {"path": "rows.jsonl", "validation": "4"},
        "adapter": {"r": 4},
        "train": {"max_steps": _STEPS, "per_device_train_batch_size": 2, "max_length": 64},
        "eval": {"eval_strategy": "no"},
    }
    settings.recipes.mkdir(parents=True)
    (settings.recipes / "quick.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return RunStore(settings.runs)


def _status(watched: Watched, status: str) -> None:
    watched.page.locator(f"#live[data-status={status}], #live [data-status={status}]").wait_for(
        timeout=_WORKER_MS
    )


def _points(watched: Watched, more_than: int) -> None:
    watched.page.wait_for_function(
        "n => Number(document.querySelector('[data-points]')?.dataset.points || 0) > n",
        arg=more_than,
        timeout=_WORKER_MS,
    )


def _quick(watched: Watched) -> None:
    """The page with the quick recipe in hand."""
    watched.open()
    watched.tab("Tune")
    watched.page.locator("#recipe input").click()
    watched.page.get_by_role("option", name="quick").click()
    expect(watched.page.locator("#chosen")).to_contain_text("tiny")


def _more(watched: Watched) -> None:
    details = watched.page.locator("#live .more")
    if details.get_attribute("open") is None:
        details.locator("summary").click()


@pytest.mark.usefixtures("store")
def test_a_few_steps_are_measured_before_the_start(watched: Watched) -> None:
    page = watched.page
    _quick(watched)
    expect(page.locator("#tune-summary")).to_contain_text("a first guess")
    page.get_by_role("button", name="Measure with a few real steps").click()
    expect(page.locator("#measured")).to_contain_text("Measuring")
    page.locator("#measure-stop").click()
    expect(page.locator("#measured")).to_contain_text("nothing was measured")
    page.locator("#measure").click()
    expect(page.locator("#tune-summary")).to_contain_text("a few steps that were measured")
    expect(page.locator("#measured")).not_to_contain_text("Measuring")
    watched.shot("tune-measured")
    assert watched.errors == []


def test_paused_changed_killed_with_the_server_and_it_goes_on(
    watched: Watched, server: Server, store: RunStore
) -> None:
    page = watched.page
    _quick(watched)
    page.locator("#start-tune").click()
    _points(watched, 20)
    page.get_by_role("button", name="Pause").click()
    _status(watched, "stopped")
    expect(page.locator("#live [data-part=status]")).to_contain_text("paused at step")
    run = store.list()[0]
    paused = store.state(run).step
    assert checkpoints.steps(run.checkpoints)[-1] == paused
    worker = run.process()
    if worker is not None:
        worker.wait(30)

    page.get_by_role("button", name="Resume").click()
    _points(watched, paused + 5)
    _more(watched)
    rate = page.get_by_label("Learning rate", exact=True).last
    rate.fill("1e-5")
    rate.press("Enter")
    expect(page.locator("#runs-message")).to_contain_text("1e-5")
    page.get_by_role("button", name="Save now").click()
    expect(page.locator("#runs-message")).to_contain_text("saves a checkpoint")
    page.wait_for_timeout(1500)
    saved = checkpoints.steps(run.checkpoints)[-1]
    assert saved > paused and (store.state(run).learning_rate or 1) <= 1e-5
    watched.shot("runs-hot")

    # The machine goes down, as far as the two can tell.
    assert watched.errors == []
    worker = run.process()
    assert worker is not None
    server.kill()
    worker.kill()
    worker.wait()
    server.start()
    page.reload()
    page.locator("#chosen .chosen").wait_for()
    watched.errors.clear()
    watched.tab("Runs")
    _status(watched, "interrupted")
    expect(page.locator("#live [data-part=problem]")).to_contain_text("killed")
    page.get_by_role("button", name="Resume").click()
    _status(watched, "finished")
    steps = [point["step"] for point in run.history() if "loss" in point]
    assert steps == list(range(1, _STEPS + 1)), "a point was lost, or told twice"
    _points(watched, _STEPS - 1)
    expect(page.locator("#talk")).to_be_visible()
    assert watched.errors == []


def test_tried_in_two_ways_compared_named_and_deleted(watched: Watched, store: RunStore) -> None:
    page = watched.page
    _quick(watched)
    watched.tab("Runs")
    page.get_by_text("Try several values").click()
    page.locator("#sweep-field input").fill("max_steps")
    page.get_by_role("option", name="Max steps (train.max_steps)").click()
    page.locator("#sweep-values textarea").fill("3, many")
    expect(page.locator("#sweep-seen")).to_contain_text("many")
    page.locator("#sweep-values textarea").fill("3, 4")
    expect(page.locator("#sweep-seen")).to_contain_text("2 runs")
    page.locator("#sweep-add").click()
    expect(page.locator("#runs-message")).to_contain_text("2 runs wait")
    page.get_by_role("button", name="Compare them").click()
    table = page.locator("#live .results")
    expect(table).to_contain_text("Max steps")
    first, second = sorted(store.list()[:2], key=lambda run: run.id)
    for run in (first, second):
        page.locator(f".runs button[data-run='{run.id}']").click()
        _status(watched, "finished")
    page.locator(f".runs button[data-run='{first.id}']").click()
    page.get_by_label(f"{second.id} with the run in view").check()
    expect(table.locator("tbody tr")).to_have_count(2)
    table.get_by_role("button", name="steps", exact=True).click()
    expect(table.locator("tbody tr").first).to_contain_text("max_steps 3")
    watched.shot("runs-compared")

    page.get_by_role("button", name="Rename").click()
    page.locator("[data-part=new-title]").fill("Three steps")
    page.keyboard.press("Enter")
    expect(page.locator(".runs")).to_contain_text("Three steps")
    page.get_by_label("Add a tag").fill("short")
    page.keyboard.press("Enter")
    expect(page.locator("#live .labels")).to_contain_text("short")
    page.locator("#live summary", has_text="Notes").click()
    page.locator("[data-part=note]").fill("Too short to learn a thing.")
    page.locator("[data-part=note]").blur()
    page.get_by_label("Star this run").click()
    expect(page.get_by_label("Star this run")).to_have_attribute("aria-pressed", "true")
    wait_until(lambda: keep.meta(first).notes == "Too short to learn a thing.")
    said = keep.meta(first)
    assert (said.title, said.star) == ("Three steps", True)
    assert said.tags[-1] == "short"

    _more(watched)
    with page.expect_download() as download:
        page.get_by_role("button", name="Take the run along").click()
    file = Path(download.value.path())
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#runs-message")).to_contain_text("Deleted Three steps")
    assert first not in store.list()
    page.get_by_text("Disk, deleted runs").click()
    expect(page.locator("#space")).to_contain_text("days left")
    watched.shot("runs-disk")
    archive = store.root.parent / "run.tar"
    shutil.copy(file, archive)
    page.locator("#runs-space input[type=file]").set_input_files(archive)
    expect(page.locator("#live [data-part=title]")).to_have_text("Three steps")
    assert first in store.list()
    page.locator("#live summary", has_text="More").click()
    assert watched.errors == []


def test_what_is_discarded_is_asked_for_once_more(watched: Watched, store: RunStore) -> None:
    page = watched.page
    _quick(watched)
    page.locator("#start-tune").click()
    _points(watched, 5)
    run: Run = store.list()[0]
    _more(watched)
    page.get_by_role("button", name="Stop and discard").click()
    again = page.get_by_role("button", name="Press again")
    expect(again).to_be_visible()
    assert run.process() is not None
    # At once: the question is taken back after some seconds, which a busy machine needs to see that
    # a button stands still.
    again.dispatch_event("click")
    expect(page.locator("#runs-message")).to_contain_text("is removed")
    _status(watched, "stopped")
    assert run.process() is None and not run.adapter.exists() and not run.checkpoints.exists()
    assert watched.errors == []
