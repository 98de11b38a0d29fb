"""One micro-batch forward and backward: the first time of a shape with care, then compiled, then
as a recorded graph that the host starts as a whole."""

import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit

Batch = dict[str, Any]
Note = Callable[[str], None]
# What a compiler, or the C compiler that it calls, fails with. Most are RuntimeErrors.
_FAILURES = (
    RuntimeError,
    NotImplementedError,
    AssertionError,
    ImportError,
    OSError,
    subprocess.SubprocessError,
    FailOnRecompileLimitHit,
)
_MOST_GRAPHS = 48  # each takes some tens of MB of the driver's memory


class Figures(NamedTuple):
    """What a micro-batch leaves: its loss [] and the sums [2] of entropy and of right guesses."""

    loss: Tensor
    sums: Tensor


class _Recorded(NamedTuple):
    graph: Any
    batch: Batch
    count: Tensor
    figures: Figures


class Step:
    """Runs micro-batches. `loss_of(batch, count, mode)` computes the loss in the modes of
    `runner.Runner`, and its backward happens within `scope(mode)`."""

    def __init__(
        self,
        loss_of: Callable[[Batch, Tensor], tuple[Tensor, Tensor]],
        scope: Callable[[Any], Any],
        parameters: list[Any],
        *,
        compiled: bool,
        graphs: bool,
        note: Note,
    ) -> None:
        self._loss_of, self._scope, self._parameters = loss_of, scope, parameters
        self._compiled, self._graphs, self._note = compiled, graphs, note
        self._proven: set[tuple[int, ...]] = set()
        self._recorded: dict[tuple[int, ...], _Recorded] = {}
        self._grads: list[Tensor] = []
        cuda = graphs and torch.cuda.is_available()
        self._stream = torch.cuda.Stream() if cuda else None
        self._pool = torch.cuda.graph_pool_handle() if cuda else None

    @property
    def how(self) -> str:
        """In words, how micro-batches run now."""
        words = "compiled" if self._compiled else "not compiled"
        return words + (", recorded" if self._graphs else "")

    def __call__(self, batch: Batch, count: Tensor) -> Figures:
        """Adds the micro-batch's gradients to the parameters'."""
        if not self._graphs:
            return self._safely(batch, count)
        self._attach()
        key = (*_shape(batch), len(batch["cu_seq_lens_q"]))
        known = self._recorded.get(key)
        # The first pass of a shape compiles it and loads its kernels. From then on none runs
        # unrecorded: it would hold a second set of activations beside the graphs' own.
        if known is None and key[:-1] in self._proven and len(self._recorded) < _MOST_GRAPHS:
            known = self._record(key, batch, count)
        if known is not None:
            return _started(known, batch, count)
        return self._beside(batch, count)

    def forget(self) -> None:
        """Gives back what recorded graphs hold."""
        self._recorded.clear()
        self._grads.clear()

    def _attach(self) -> None:
        """Gives every parameter a gradient that stays where it is, which a graph needs. An
        optimizer's zero_grad drops it from the parameter; here it comes back, emptied."""
        if not self._grads:
            self._grads = [torch.zeros_like(p) for p in self._parameters]
        fresh = [
            (p, g) for p, g in zip(self._parameters, self._grads, strict=True) if p.grad is None
        ]
        if fresh:
            torch._foreach_zero_([g for _, g in fresh])
        for parameter, grad in fresh:
            parameter.grad = grad

    def _beside(self, batch: Batch, count: Tensor) -> Figures:
        """On the stream that graphs are recorded on: what autograd sets up belongs to it."""
        stream, here = self._stream, torch.cuda.current_stream()
        assert stream is not None
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            figures = self._safely(batch, count)
        here.wait_stream(stream)
        for value in (*batch.values(), count):
            if isinstance(value, Tensor):
                value.record_stream(stream)
        for figure in figures:
            figure.record_stream(here)
        return figures

    def _safely(self, batch: Batch, count: Tensor) -> Figures:
        """Falls back to uncompiled layers where the compiler fails at a new shape."""
        key = _shape(batch)
        if not self._compiled or key in self._proven:
            self._proven.add(key)
            return self._run(batch, count)
        before = [None if p.grad is None else p.grad.clone() for p in self._parameters]
        try:
            figures = self._run(batch, count)
            if figures.loss.is_cuda:
                torch.cuda.synchronize()
        except torch.OutOfMemoryError:
            raise
        except _FAILURES as error:
            self._note(f"Compiling the layers failed, so they run uncompiled: {_first(error)}")
            self._compiled = False
            torch._dynamo.reset()
            self._put_back(before)
            return self._run(batch, count)
        self._proven.add(key)
        return figures

    def _put_back(self, before: list[Tensor | None]) -> None:
        for parameter, old in zip(self._parameters, before, strict=True):
            if old is None or parameter.grad is None:
                parameter.grad = old
            else:
                parameter.grad.copy_(old)

    def _run(self, batch: Batch, count: Tensor) -> Figures:
        with self._scope("compiled" if self._compiled else "eager"):
            loss, sums = self._loss_of(batch, count)
            loss.backward()
        return Figures(loss.detach(), sums)

    def _record(self, key: tuple[int, ...], batch: Batch, count: Tensor) -> _Recorded | None:
        """The micro-batch as a graph, not run yet; None, from now on too, where that fails."""
        held = {k: v.clone() if isinstance(v, Tensor) else v for k, v in batch.items()}
        number = count.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: the loader's thread may pin memory meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                figures = self._run(held, number)
        except torch.OutOfMemoryError:
            raise
        except _FAILURES as error:
            self._note(f"Recording the step failed, so it is started bit by bit: {_first(error)}")
            self._graphs = False
            self._recorded.clear()
            return None
        self._recorded[key] = _Recorded(graph, held, number, figures)
        return self._recorded[key]


def _shape(batch: Batch) -> tuple[int, ...]:
    """What compiled code depends on."""
    return batch["input_ids"].shape[1], batch["max_length_q"]


def _started(known: _Recorded, batch: Batch, count: Tensor) -> Figures:
    for name, held in known.batch.items():
        if isinstance(held, Tensor):
            held.copy_(batch[name], non_blocking=True)
    known.count.copy_(count, non_blocking=True)
    known.graph.replay()
    # The next graph that starts may use the same memory.
    return Figures(*(figure.clone() for figure in known.figures))


def _first(error: BaseException) -> str:
    """The first line of what went wrong, not of what the compiler wraps it in."""
    inner = getattr(error, "inner_exception", None) or error
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return f"{type(inner).__name__}: {lines[0] if lines else ''}"[:300]
