"""What follows a change of the form, and streams that end when what they were asked about has
changed: a late answer never stands where a newer one is due.

Every field tells of its changes in one event only. Gradio's page fires all of an event's handlers
again for one that waited ("always_last"); of two that may wait, each keeps the other going for
ever.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

T = TypeVar("T")
Values = Mapping[Any, Any]


@dataclass
class _Now:
    """What one open page holds now; None until that was noted."""

    held: tuple[Any, ...] | None = None


class Follow:
    """What depends on these components' values. Its `state` is an input of every handler that
    streams; all of its `inputs` are of the one that notes."""

    def __init__(self, components: Iterable[Any], opened: Any = None, tab: str = "") -> None:
        """Where a `tab` is named, nothing follows a change while another is `opened`."""
        self.components = list(components)
        self._opened, self._tab = opened, tab
        # Gradio keeps one for each open page.
        self.state = gr.State(_Now())
        self.counts: list[gr.Number] = []

    @property
    def inputs(self) -> set[Any]:
        opened = {self._opened} if self._tab else set()
        return {self.state, *self.components, *self.counts, *opened}

    def on_change(self, fn: Callable[..., Any], inputs: Any, outputs: Any, **options: Any) -> Any:
        """Has the handler called after each change, and once more where there was another in the
        meantime. Its event, of which more can be made."""
        # No State: one that changes past the queue tells nobody. One for each handler; see above.
        count = gr.Number(0, precision=0, visible="hidden")
        self.counts.append(count)
        return count.change(fn, inputs, outputs, trigger_mode="always_last", **options)

    def note(self, values: Values) -> dict[Any, Any]:
        """Says that the page holds these values now; to be called when one of them may have
        changed. The updates that call the handlers."""
        now, held = values[self.state], self._of(values)
        if now.held == held:
            return {}
        now.held = held
        if self._tab and values[self._opened] != self._tab:
            return {}
        return self.again(values)

    def again(self, values: Values) -> dict[Any, Any]:
        """The updates that call the handlers, all at once: those of one event are called one after
        the other."""
        return {count: int(values[count] or 0) + 1 for count in self.counts}

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
