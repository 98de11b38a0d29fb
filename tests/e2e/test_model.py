"""The Model page: targets picked in the model's tree, its code read before it may run, a question
before training, and a token that stays where it is."""

import re
import shutil

import pytest
from playwright.sync_api import expect

from studio.plan.catalogue import EMBEDDED
from tests.e2e.conftest import Watched

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]
_SECRET = "hf_neverSeenAgain"


def test_targets_are_picked_in_the_tree_and_the_method_decides_what_is_shown(
    watched: Watched,
) -> None:
    page = watched.page
    watched.open()
    page.locator("#modules-look").click()
    tree = page.locator("#modules")
    expect(tree).to_contain_text("(0-29): 30 x LlamaDecoderLayer", timeout=120_000)
    expect(tree).to_contain_text("4,884,480 of 134,515,008 parameters (3.6 %)")
    page.get_by_role("button", name="(o_proj)").click()
    expect(page.get_by_role("button", name="(o_proj)")).to_have_attribute("aria-pressed", "false")
    expect(tree).to_contain_text("Targets: q_proj, k_proj, v_proj, gate_proj")
    watched.shot("model")
    # Of another model it would be a wrong one.
    name = page.locator("#f-model-name_or_path input")
    name.fill("other")
    name.press("Enter")
    expect(tree).to_be_empty()
    name.fill(EMBEDDED)
    name.press("Enter")

    watched.tab("Tune")
    expect(page.locator("#tune-summary")).to_contain_text("3.2 % of the model's")
    expect(page.locator("#f-adapter-r")).to_be_visible()
    page.locator("#f-adapter-method input").click()
    page.get_by_role("option", name="IA3").click()
    expect(page.locator("#f-adapter-r")).to_be_hidden()
    expect(page.locator("#group-ia3-ia3")).to_be_visible()
    expect(page.locator("#group-adapter-lora-details")).to_be_hidden()
    assert watched.errors == []


def test_code_is_read_before_it_may_run_and_the_base_answers_before_training(
    watched: Watched,
) -> None:
    page, settings = watched.page, watched.server.settings
    folder = settings.workspace / "with-code"
    shutil.copytree(settings.models / EMBEDDED, folder)
    (folder / "modeling_mine.py").write_text("print('I would run')\n")
    watched.open()
    name = page.locator("#f-model-name_or_path input")
    name.fill("with-code")
    name.press("Enter")
    page.locator("#group-model-trust > button").click()
    page.locator("#code-list").click()
    files = page.locator("#code-files")
    expect(files).to_contain_text("modeling_mine.py", timeout=120_000)
    files.locator("summary").click()
    expect(files).to_contain_text("print('I would run')")
    page.get_by_role("button", name="let them run").click()
    trusted = page.locator("#f-model-trusted_files input, #f-model-trusted_files textarea")
    expect(trusted.first).to_have_value(re.compile("^modeling_mine.py=[0-9a-f]{64}$"))
    expect(page.locator("#f-model-trust_remote_code input")).to_be_checked()
    expect(page.locator("#f-model-trusted_files")).to_be_visible()

    page.locator("#trial-text textarea").fill("What is the capital of France?")
    page.locator("#trial-ask").click()
    expect(page.locator("#trial-answer")).to_contain_text("Paris", timeout=120_000)
    assert watched.errors == []


def test_a_token_is_masked_and_is_found_in_its_file_alone(watched: Watched) -> None:
    page, home = watched.page, watched.server.settings.home
    watched.open()
    page.locator("#group-model-loading > button").click()
    box = page.locator("#hub-token input")
    expect(box).to_have_attribute("type", "password")
    box.fill(_SECRET)
    page.locator("#token-keep").click()
    expect(page.locator("#token-state")).to_contain_text("A token is kept")
    expect(box).to_have_value("")
    page.wait_for_timeout(1000)
    assert _SECRET not in page.evaluate("JSON.stringify(localStorage)")
    held = [
        path.name
        for path in home.rglob("*")
        if path.is_file()
        and path.stat().st_size < 10**6
        and _SECRET in path.read_text(errors="replace")
    ]
    assert held == ["hub_token"]
    page.locator("#token-forget").click()
    expect(page.locator("#token-state")).to_contain_text("No token")
    assert not (home / "hub_token").exists() and watched.errors == []
