"""Checkpointing that holds under compilation: keep a layer's input and run the layer again.

torch's own checkpoint drops what autograd saved through hooks, which tensors that a compiled
function keeps beside them escape. Here the first pass has no graph, so nothing can be kept.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Run = Callable[[Tensor, bool], Tensor]


class HostStash:
    """Layer inputs in pinned memory of the host, one slot a layer, moved on a stream of their own
    and fetched one layer ahead. What a slot was stays where it is, also once a longer batch has
    outgrown it: recorded graphs read and write there."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._slots: dict[int, Tensor] = {}
        self._outgrown: list[Tensor] = []
        self._leaving: tuple[Tensor, torch.cuda.Event] | None = None
        self._fetched: dict[int, tuple[Tensor, torch.cuda.Event]] = {}

    def put(self, slot: int, x: Tensor) -> None:
        """Starts the copy of x into the slot."""
        self._settle()
        host = self._slots.get(slot)
        if host is None or host.numel() < x.numel():
            if host is not None:
                self._outgrown.append(host)
            host = torch.empty(x.numel(), dtype=x.dtype, pin_memory=True)
            self._slots[slot] = host
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            host[: x.numel()].view(x.shape).copy_(x, non_blocking=True)
            # Held until the copy is over: its memory would be given to somebody else.
            self._leaving = (x, self._stream.record_event())

    def take(self, slot: int, shape: torch.Size) -> Tensor:
        """The slot's content on the GPU; starts to fetch the slot before it."""
        self._settle()
        if slot not in self._fetched:
            self._fetch(slot, shape)
        x, done = self._fetched.pop(slot)
        torch.cuda.current_stream().wait_event(done)
        if slot - 1 in self._slots:
            self._fetch(slot - 1, shape)
        return x

    def clear(self) -> None:
        """Forgets what a pass that did not come to its end left behind."""
        self._leaving = None
        self._fetched.clear()

    def _settle(self) -> None:
        if self._leaving is not None:
            torch.cuda.current_stream().wait_event(self._leaving[1])
            self._leaving = None

    def _fetch(self, slot: int, shape: torch.Size) -> None:
        host = self._slots[slot]
        x = torch.empty(shape, dtype=host.dtype, device=self._stream.device)
        # The memory may still be read by earlier work of this stream.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            x.copy_(host[: x.numel()].view(shape), non_blocking=True)
            self._fetched[slot] = (x, self._stream.record_event())


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Run, stash: HostStash | None, slot: int, x: Tensor) -> Tensor:
        ctx.run, ctx.stash, ctx.slot, ctx.shape = run, stash, slot, x.shape
        if stash is None:
            ctx.save_for_backward(x)
        else:
            stash.put(slot, x)
        with torch.no_grad():
            return run(x, False)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[None, None, None, Tensor | None]:
        kept = ctx.saved_tensors[0] if ctx.stash is None else ctx.stash.take(ctx.slot, ctx.shape)
        x = kept.detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.run(x, True)
        torch.autograd.backward(y, dy)
        return None, None, None, x.grad


def replayed(run: Run, x: Tensor, slot: int, stash: HostStash | None = None) -> Tensor:
    """run(x, False) without keeping anything but x, for a `run(x, again)` without randomness;
    `again` is True for the pass whose result nobody reads."""
    return _Replay.apply(run, stash, slot, x)
