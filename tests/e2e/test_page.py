"""The page's smaller promises: wrong fields, data, recipes, reloads, narrow screens."""

import re
from urllib.parse import unquote

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.conftest import Server, Watched

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
_TABS = ("Model", "Data", "Tune", "Runs", "Chat", "Export")


def _field(watched: Watched, key: str) -> str:
    return "#f-" + key.replace(".", "-")


def test_every_wrong_field_is_named_beside_it_and_nothing_starts(watched: Watched) -> None:
    page = watched.page
    watched.open()
    watched.tab("Tune")
    rate = _field(watched, "train.learning_rate")
    rank = _field(watched, "adapter.r")
    page.locator(f"{rate} input, {rate} textarea").first.fill("fast")
    page.locator(f"{rank} input").fill("0")
    for field in (rate, rank):
        expect(page.locator(field)).to_have_attribute("data-problem", re.compile("default is"))
    page.locator("#start-tune").click()
    expect(page.locator("#tune-summary")).to_contain_text("Mend these first")
    expect(page.locator("#tune-summary")).to_contain_text("train.learning_rate")
    assert not watched.server.settings.runs.exists() or not any(
        watched.server.settings.runs.iterdir()
    )

    # What was typed survives a reload; the way back leads to the recipe's value.
    page.wait_for_timeout(500)
    page.reload()
    page.locator("#chosen .chosen").wait_for()
    watched.tab("Tune")
    expect(page.locator(f"{rate} input, {rate} textarea").first).to_have_value("fast")
    page.locator(f"{rate} .way-back").click()
    page.locator(f"{rank} .way-back").click()
    expect(page.locator(f"{rate} input, {rate} textarea").first).to_have_value("1.5e-3")
    expect(page.locator("#tune-summary")).to_contain_text("What will happen")
    assert watched.errors == []


def test_a_page_that_is_left_alone_asks_only_how_the_runs_go(watched: Watched) -> None:
    page = watched.page
    watched.open()
    watched.tab("Data")
    expect(page.locator("#data-lengths")).to_contain_text("up to", timeout=90_000)
    watched.tab("Tune")
    # Which changes many fields at once.
    page.locator("#recipe input").click()
    page.get_by_role("option", name="trainer-dpo").click()
    expect(page.locator("#tune-summary")).to_contain_text("DPO")
    watched.tab("Data")
    expect(page.locator("#data-about")).to_contain_text("preference")
    expect(page.locator("#data-lengths")).to_contain_text("up to", timeout=90_000)
    page.wait_for_timeout(3000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4000)
    assert asked, "the bar no longer asks how the runs go"
    assert {unquote(url).rsplit("/", 1)[-1] for url in asked} == {'poll?[["pulse",{}]]'}


def test_a_row_is_shown_as_the_trainer_gets_it(watched: Watched) -> None:
    page = watched.page
    watched.open()
    watched.tab("Data")
    seen = page.locator("#row-seen")
    expect(seen).to_contain_text("coloured by what is learned", timeout=90_000)
    trained = "".join(seen.locator(".tokens span.t").all_text_contents())
    assert trained.endswith("<|im_end|>")
    assert "".join(seen.locator(".tokens span").all_text_contents()) == (
        seen.locator(".exact").text_content()
    )
    first = seen.locator(".exact").text_content()
    page.locator("#row-next").click()
    expect(seen).to_contain_text("Row 2 of")
    expect(seen.locator(".exact")).not_to_have_text(str(first))
    watched.shot("data")
    assert watched.errors == []


def test_a_recipe_is_saved_and_loaded_again(watched: Watched) -> None:
    page = watched.page
    watched.open()
    watched.tab("Tune")
    page.locator("#f-adapter-r input").fill("4")
    page.get_by_text("Save as a recipe").click()
    page.locator("#recipe-name input, #recipe-name textarea").first.fill("Small one")
    page.locator("#recipe-save").click()
    expect(page.locator("#tune-summary")).to_contain_text("small-one")
    saved = watched.server.settings.recipes / "small-one.yaml"
    assert "r: 4" in saved.read_text()
    page.locator("#recipe input").click()
    page.get_by_role("option", name="persona").click()
    expect(page.locator("#f-adapter-r input")).to_have_value("16")
    assert watched.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_every_tab_without_sideways_scrolling(
    browser: Browser, server: Server, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 844},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    watched = Watched(context.new_page(), server)
    watched.open()
    for name in _TABS:
        watched.tab(name)
        watched.page.wait_for_timeout(700)
        width = watched.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"{name} is {width} pixels wide"
        watched.shot(f"phone-{scheme}-{name.lower()}")
    assert watched.errors == []
    context.close()
