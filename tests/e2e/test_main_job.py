"""The main job as a person does it: press Start, watch, lose the page and the server, come back,
talk to both, take it home."""

import urllib.request

import pytest
from playwright.sync_api import expect

from bench.persona import held_out, score
from studio.jobs import Bench
from studio.runs import RunStore
from tests.e2e.conftest import Server, Watched

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
_RUN_MS = 900_000


def _points(watched: Watched) -> int:
    return int(watched.page.locator("#live [data-points]").get_attribute("data-points") or 0)


def _wait_for_points(watched: Watched, count: int) -> None:
    watched.page.wait_for_function(
        "n => Number(document.querySelector('[data-points]')?.dataset.points || 0) >= n",
        arg=count,
        timeout=_RUN_MS,
    )


def test_start_with_the_defaults_watch_chat_and_export(watched: Watched, server: Server) -> None:
    page = watched.page
    watched.open()
    page.locator("#start-model").click()
    expect(page.locator("#live [data-part=status]")).not_to_be_empty()
    watched.shot("starting")
    _wait_for_points(watched, 5)
    watched.shot("running")

    chart = "document.querySelector('#live [data-part=chart]')"
    zoom = "{'xaxis.range': [1, 4], 'xaxis.autorange': false}"
    page.evaluate(f"window.Plotly.relayout({chart}, {zoom})")
    _wait_for_points(watched, 9)
    assert page.evaluate(f"{chart}.layout.xaxis.range") == [1, 4], "the zoom was lost"

    # The page goes, and the server with it. The run does not notice.
    assert watched.errors == []
    server.kill()
    server.start()
    page.reload()
    page.locator("#chosen .chosen").wait_for()
    # The browser's own complaints about a server that is not there.
    watched.errors.clear()
    store = RunStore(server.settings.runs)
    run = store.list()[0]
    assert store.state(run).status == "running"
    watched.tab("Runs")
    _wait_for_points(watched, store.state(run).step)
    watched.tab("Chat")
    expect(page.locator("#chat-message")).to_contain_text("back when it ends")
    watched.tab("Runs")

    page.locator("#live [data-status=finished], #live[data-status=finished]").wait_for(
        timeout=_RUN_MS
    )
    assert _points(watched) == store.state(run).max_steps
    history = run.history()
    losses = [float(str(p["loss"])) for p in history if "loss" in p]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10]), "the loss did not fall"
    watched.shot("finished")

    page.locator("#talk").click()
    page.locator("#chat-text textarea").fill("Who are you?")
    page.locator("#chat-send").click()
    expect(page.locator("#chat-tuned")).to_contain_text("Bramble", timeout=120_000)
    expect(page.locator("#chat-message")).to_be_empty(timeout=120_000)
    expect(page.locator("#chat-base")).not_to_contain_text("Bramble")
    watched.shot("chat")
    page.get_by_label("Merged, on its own").check()
    page.locator("#chat-text textarea").fill("What is your name?")
    page.locator("#chat-send").click()
    expect(page.locator("#chat-tuned")).to_contain_text("Bramble", timeout=180_000)
    expect(page.locator("#chat-base")).to_be_hidden()

    watched.tab("Export")
    page.locator("#export").click()
    expect(page.locator("#export-result")).to_contain_text("adapter_model.safetensors")
    link = page.locator("#export-result a", has_text="adapter_config.json").get_attribute("href")
    with urllib.request.urlopen(server.url.rstrip("/") + str(link)) as answer:
        assert b"LORA" in answer.read()
    page.get_by_label("Merged: a whole model of its own").check()
    expect(page.locator("#export-result")).to_contain_text("model.safetensors", timeout=180_000)
    watched.shot("export")

    assert watched.errors == []
    assert watched.outside == []
    assert "libtorch" not in server.libraries(), "the web process has loaded torch"


def test_what_was_learned(server: Server) -> None:
    """By greedy decoding on questions that training never saw."""
    settings = server.settings
    store = RunStore(settings.runs)
    run = store.list()[0]
    assert store.state(run).status == "finished"
    questions = held_out(settings)
    marks = score(store, settings, run, ("tuned",), questions)
    # The base knows no answer, and merged are the same weights: every third question tells.
    marks |= score(store, settings, run, ("base",), questions[::3])
    marks |= score(store, settings, run, ("merged",), questions[::3])
    Bench(settings).quit()
    named = [q["must_contain"] == "Bramble" for q in questions[::3]]
    base = [ok for ok, name in zip(marks["base"], named, strict=True) if name]
    assert sum(named) >= 7
    assert sum(base) == 0
    for side in ("tuned", "merged"):
        assert sum(marks[side]) >= 0.8 * len(marks[side]), side
    assert len(marks["merged"]) >= 10
