"""The Data tab in a real browser: a file is dropped, recognized, looked at from all sides, checked,
mended; what would ruin a run holds it back."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.e2e.conftest import Watched

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]
CITIES = ("تهران", "اصفهان", "شیراز", "تبریز", "مشهد", "یزد", "کرمان", "رشت")


def persian() -> bytes:
    """A few questions in the nested layout of SQuAD, right to left; two can't be answered."""
    paragraphs = []
    for number, city in enumerate(CITIES):
        context = f"{city} یکی از شهرهای ایران است و شماره {number} در این فهرست است."
        answer = {"text": city, "answer_start": 0}
        qas: list[dict[str, Any]] = [
            {"question": f"نام شهر شماره {number} چیست؟", "answers": [answer], "id": number}
        ]
        if number < 2:
            qas.append(
                {"question": "رود آن کدام است؟", "answers": [], "is_impossible": True, "id": 9}
            )
        paragraphs.append({"context": context, "qas": qas})
    held = {"data": [{"title": "شهرها", "paragraphs": paragraphs}]}
    return json.dumps(held, ensure_ascii=False).encode()


def upload(watched: Watched, name: str, content: bytes) -> None:
    page = watched.page
    page.locator("#data-upload").wait_for()
    page.locator("input[data-testid$=upload-button]").set_input_files(
        {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    )
    expect(page.locator("#f-data-path input")).to_have_value(re.compile(name))


def checked(watched: Watched) -> Locator:
    """The report of all rows, once it is there."""
    page = watched.page
    page.locator("#audit-start").click()
    expect(page.locator("#audit")).to_contain_text("tokens a row", timeout=90_000)
    return page.locator("#audit")


def test_persian_questions_are_recognized_checked_and_mended(watched: Watched) -> None:
    page = watched.page
    watched.open()
    watched.tab("Data")
    upload(watched, "cities.json", persian())
    about = page.locator("#data-about")
    expect(about).to_contain_text("10 rows")
    expect(about).to_contain_text("question_answer")
    # Until then a row of other data was being looked at, whose answer may be late.
    seen = page.locator("#row-seen")
    bubble = seen.locator(".said.assistant").first
    expect(bubble).to_contain_text("تهران", timeout=90_000)
    expect(seen).to_contain_text("coloured by what is learned", timeout=90_000)
    expect(page.locator("#data-lengths")).to_contain_text("up to", timeout=90_000)
    expect(bubble).to_contain_text("تهران")
    assert bubble.evaluate("e => getComputedStyle(e).direction") == "rtl"
    # What is learned is the answer and its end, in the order in which it is read.
    trained = "".join(seen.locator(".tokens span.t").all_text_contents())
    assert trained == "تهران<|im_end|>"

    # Two questions have no answer: told, with the way to mend it.
    report = checked(watched)
    stop = report.locator("li.stop").first
    expect(stop).to_contain_text("2 rows have an empty answer")
    watched.shot("data-persian")
    # On a narrow page the row that is looked at is far below: it is brought into sight.
    page.set_viewport_size({"width": 390, "height": 844})
    stop.get_by_role("button", name="Look").click()
    expect(seen).to_contain_text("Why it can't be trained")
    expect(seen.locator(".said.user").first).to_be_in_viewport()
    watched.shot("data-persian-narrow")
    page.set_viewport_size({"width": 1440, "height": 900})
    page.locator("#start-data").click()
    expect(page.locator("#f-data-path")).to_have_attribute("data-problem", re.compile("empty"))
    stop.get_by_role("button", name=re.compile("Leave")).click()
    expect(about).to_contain_text("8 rows")
    report = checked(watched)
    expect(report).to_contain_text("Nothing here would ruin a run")

    # The step is in the list, and can be taken back.
    page.locator("#group-data-steps button").first.click()
    listed = page.locator("#f-data-steps")
    expect(listed).to_contain_text("Leave out empty answers")
    listed.get_by_role("button", name=re.compile("Take back")).click()
    expect(about).to_contain_text("10 rows")
    assert watched.errors == [] and watched.outside == []


def test_rows_are_found_and_a_batch_is_shown_as_the_run_gets_it(watched: Watched) -> None:
    page = watched.page
    watched.open()
    watched.tab("Data")
    seen = page.locator("#row-seen")
    expect(seen).to_contain_text("Row 1 of 257", timeout=90_000)
    goto = page.locator("#row-goto input, #row-goto textarea").first
    goto.fill("200")
    goto.press("Enter")
    expect(seen).to_contain_text("Row 200 of 257")
    expect(page.locator("#data-about")).to_contain_text("rows 151 to 200")
    goto.fill("words that no row holds")
    goto.press("Enter")
    expect(page.locator("#row-found")).to_contain_text("No row holds")
    page.locator("#row-random").click()
    page.locator("#batches button").first.click()
    page.locator("#batch-show").click()
    expect(page.locator("#batch code")).to_have_text(re.compile("^[0-9a-f]{64}$"))
    assert page.locator("#batch .packed").count() == 4
    watched.shot("data-batch")
    # Other data are looked at from their beginning.
    goto.fill("200")
    goto.press("Enter")
    expect(seen).to_contain_text("Row 200 of 257")
    upload(watched, "few.jsonl", b'{"prompt": "a", "completion": "b"}\n' * 5)
    expect(seen).to_contain_text("Row 1 of 5")
    assert watched.errors == []


def test_a_prompt_template_and_a_chat_template_are_seen_at_once(watched: Watched) -> None:
    page = watched.page
    watched.open()
    watched.tab("Data")
    rows = [{"instruction": f"Say {n}", "response": f"It is {n}."} for n in range(5)]
    upload(watched, "said.jsonl", "\n".join(map(json.dumps, rows)).encode())
    seen = page.locator("#row-seen")
    expect(seen).to_contain_text("Say 0", timeout=90_000)
    page.locator("#group-data-chat-template button").first.click()
    page.locator("#f-data-chat_template input").click()
    page.get_by_role("option", name="gemma").click()
    expect(seen.locator(".exact")).to_contain_text("<start_of_turn>model")
    expect(seen).to_contain_text("no token at which the model stops")
    seen.get_by_role("button", name=re.compile("chat_template to chatml")).click()
    expect(seen.locator(".exact")).to_contain_text("<|im_start|>assistant")
    page.locator("#f-data-chat_template .way-back").click()
    page.locator("#group-data-prompt-template button").first.click()
    page.locator("#prompt-format input").click()
    page.get_by_role("option", name="### INSTRUCTION with instruction, context, response").click()
    # These rows lack the column, and the page says so.
    expect(page.locator("#data-about")).to_contain_text("context")
    page.locator("#f-data-prompt_template textarea").fill("### Ask: {{ instruction }}\n")
    expect(seen.locator(".exact")).to_contain_text("### Ask: Say 0")
    assert "It is 0." in "".join(seen.locator(".tokens span.t").all_text_contents())
    assert watched.errors == []


def test_a_broken_file_is_named_with_its_line_and_nothing_else_is_touched(watched: Watched) -> None:
    page = watched.page
    watched.open()
    watched.tab("Data")
    good = json.dumps({"prompt": "a<script>alert(1)</script>", "completion": "b"})
    upload(watched, "rows.jsonl", f"{good}\n{{broken\n{good}\n".encode())
    table = page.locator("#data-table")
    expect(table).to_contain_text("line 2")
    page.locator("#start-data").click()
    expect(page.locator("#f-data-path")).to_have_attribute("data-problem", re.compile("line 2"))
    upload(watched, "lies.csv", b"PAR1 and no more")
    expect(page.locator("#data-about")).to_contain_text("lies.csv")
    expect(page.locator("#data-about .problem")).to_be_visible()
    assert not any("alert" in error for error in watched.errors)
