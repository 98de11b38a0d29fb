"""Runs the decoder layers: plainly, or compiled, and some of them again in backward.

All layers go through one compiled function with the layer as its argument, so a model of any
depth is compiled once for each kind of pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch._dynamo.config
import torch._functorch.config
from torch import Tensor

from studio.engine.fast.attention import packed
from studio.engine.fast.recognize import Anatomy
from studio.engine.fast.replay import HostStash, replayed

Mode = Literal["off", "eager", "compiled"]
# Layers that the compiler may meet which differ in their adapters' ranks or their attention, times
# the kinds of pass; its own limit is 8.
_KINDS = 64
# Keep what products made and make again what is elementwise, even where that costs backward a
# write: norm and activation outputs, 4 hidden + 2 intermediate bytes a token and layer.
_KEEP_PRODUCTS = {
    "ban_recompute_materialized_backward": False,
    "ban_recompute_used_far_apart": False,
    "ban_recompute_long_fusible_chains": False,
}


def inductor(graph: Any, inputs: Any) -> Any:
    """The compiler's backend, which keeps only products for backward."""
    from torch._inductor.compile_fx import compile_fx

    with torch._functorch.config.patch(_KEEP_PRODUCTS):
        return compile_fx(graph, inputs)


class Runner:
    """Takes the place of the layers' forward; `on` says how they run, and otherwise they run as
    transformers has them."""

    def __init__(
        self,
        anatomy: Anatomy,
        replay: int,
        stash: HostStash | None,
        dynamic: bool,
    ) -> None:
        """`dynamic`: the number of tokens changes from batch to batch."""
        self._anatomy, self._replay, self._stash = anatomy, replay, stash
        self._dynamic = dynamic
        self._mode: Mode = "off"
        self._replaying = True
        layers, norm = anatomy.layers, anatomy.trunk.norm
        self._layer = type(layers[0]).forward
        self._norm = type(norm).forward
        self._fast_layer = torch.compile(self._layer, fullgraph=True, backend=inductor)
        self._fast_norm = torch.compile(self._norm, fullgraph=True, backend=inductor)
        for index, layer in enumerate(layers):
            layer.forward = partial(self._run_layer, index, layer)
        norm.forward = partial(self._run_norm, norm)

    def remove(self) -> None:
        """Gives the layers their own forward back."""
        for module in (*self._anatomy.layers, self._anatomy.trunk.norm):
            del module.forward

    @contextmanager
    def on(self, mode: Mode, *, replay: bool = True) -> Iterator[None]:
        """Within it the layers run in this mode and attend by document. What is replayed runs in
        backward, which then has to be inside as well."""
        before, self._mode, self._replaying = self._mode, mode, replay
        try:
            with packed(self._anatomy.config), torch._dynamo.config.patch(recompile_limit=_KINDS):
                yield
        finally:
            self._mode = before
            if self._stash is not None:
                self._stash.clear()

    def _run_norm(self, norm: Any, x: Tensor) -> Tensor:
        if self._mode != "compiled":
            return self._norm(norm, x)
        return self._fast_norm(norm, self._marked(x))

    def _run_layer(self, index: int, layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._mode == "off":
            return self._layer(layer, x, *args, **kwargs)
        compiled = self._mode == "compiled"
        if compiled:
            self._mark(kwargs)
        run = self._fast_layer if compiled else self._layer
        kept = index >= self._replay or not self._replaying
        if kept or not torch.is_grad_enabled():
            return run(layer, self._marked(x) if compiled else x, *args, **kwargs)
        tail = self._anatomy.tails[index]
        pass_of = partial(self._pass, run, layer, tail, args, kwargs)
        return replayed(pass_of, x, index, self._stash)

    def _pass(
        self, run: Any, layer: Any, tail: Any, args: Any, kwargs: Any, x: Tensor, again: bool
    ) -> Tensor:
        """One pass of a replayed layer; `again` is the one in backward."""
        if tail is not None:
            tail.again = again
        try:
            return run(layer, self._marked(x), *args, **kwargs)
        finally:
            if tail is not None:
                tail.again = False

    def _mark(self, kwargs: dict[str, Any]) -> None:
        """Tells the compiler which sizes change, so that it compiles once for all."""
        torch._dynamo.maybe_mark_dynamic(kwargs["cu_seq_lens_q"], 0)
        if self._dynamic:
            for part in (*kwargs["position_embeddings"], kwargs["position_ids"]):
                torch._dynamo.maybe_mark_dynamic(part, 1)

    def _marked(self, x: Tensor) -> Tensor:
        if self._dynamic and self._mode == "compiled":
            torch._dynamo.maybe_mark_dynamic(x, 1)
        return x
