"""What follows a change, and streams that end when what they were asked about has changed."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from studio.ui.follow import Follow


@pytest.fixture
def watched() -> tuple[Follow, Any, Any]:
    with gr.Blocks():
        box = gr.Textbox()
        follow = Follow([box])
    return follow, box, follow.state.value


def test_a_stream_of_what_is_still_held_goes_on_to_its_end(
    watched: tuple[Follow, Any, Any],
) -> None:
    follow, box, now = watched
    values = {follow.state: now, box: "a"}
    assert list(follow.stream(values, iter((1, 2, 3)))) == [1, 2, 3]
    # The change that it was asked after is told while it goes on, or was told before.
    going = follow.stream(values, iter((1, 2)))
    assert next(going) == 1
    follow.note(values)
    assert list(going) == [2]
    assert list(follow.stream(values, iter((1, 2)))) == [1, 2]


def test_only_a_change_is_followed_and_only_where_somebody_looks() -> None:
    with gr.Blocks():
        box, other, opened = gr.Textbox(), gr.Textbox(), gr.Textbox()
        follow = Follow([box], opened, "Data")
        for _ in range(2):
            follow.on_change(lambda: None, None, None)
    values = dict.fromkeys(follow.counts, 4) | {
        follow.state: follow.state.value, box: "a", other: "a", opened: "Data",
    }  # fmt: skip
    assert follow.inputs == values.keys() - {other}
    asked = dict.fromkeys(follow.counts, 5)
    assert len(asked) == 2 and follow.note(values) == asked
    assert follow.note({**values, other: "b"}) == {}
    assert follow.note({**values, box: "b", opened: "Model"}) == {}
    assert follow.note(values) == asked


def test_no_event_of_the_page_has_two_handlers_that_wait(config: dict[str, Any]) -> None:
    # Each would keep the other going for ever.
    waits = Counter(
        tuple(target)
        for dependency in config["dependencies"]
        for target in dependency["targets"]
        if dependency["trigger_mode"] == "always_last"
    )
    assert len(waits) > 200 and max(waits.values()) == 1


def test_a_stream_ends_at_a_change_and_what_it_waits_for_is_closed(
    watched: tuple[Follow, Any, Any],
) -> None:
    follow, box, now = watched
    closed: list[bool] = []

    def slow() -> Iterator[str]:
        try:
            yield "asking"
            yield "of a"
        finally:
            closed.append(True)

    going = follow.stream({follow.state: now, box: "a"}, slow())
    assert next(going) == "asking"
    follow.note({follow.state: now, box: "b"})
    assert list(going) == [] and closed == [True]
    # What is asked before it is told, is of the newest.
    early = follow.stream({follow.state: now, box: "c"}, slow())
    assert next(early) == "asking"
    follow.note({follow.state: now, box: "c"})
    assert list(early) == ["of a"]
