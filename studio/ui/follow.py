"""Streams that end when what they were asked about is changed, so that a late answer never stands
where a newer one is due: what the page shows is of the form as it is now."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from studio.ui.context import Values

T = TypeVar("T")


@dataclass
class _Now:
    """What one open page holds now; None until something was changed."""

    held: tuple[Any, ...] | None = None


class Follow:
    """What is streamed of these components' values. Its `state` is an input of every handler that
    calls it; Gradio keeps one for each open page."""

    def __init__(self, components: Iterable[Any]) -> None:
        self.components = list(components)
        self.state = gr.State(_Now())

    @property
    def inputs(self) -> set[Any]:
        return {self.state, *self.components}

    def note(self, values: Values) -> None:
        """Says that the page holds these values now; to be called when one of them changes."""
        values[self.state].held = self._of(values)

    def stream(self, values: Values, updates: Iterator[T]) -> Iterator[T]:
        """Passes the updates on, and lets go of them when other values are noted than they are of:
        a generator that nobody holds is closed, and what it waited for is cancelled."""
        now, mine = values[self.state], self._of(values)
        # A change may be streamed of before it is noted.
        begun = now.held
        for update in updates:
            if now.held not in (begun, mine):
                return
            yield update

    def _of(self, values: Values) -> tuple[Any, ...]:
        return tuple(values[component] for component in self.components)
