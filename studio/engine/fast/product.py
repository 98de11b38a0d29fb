"""Products with frozen weights that nothing can keep, and the adapters on top of them.

The operators take a weight as its parts, so that all layers of a model share one graph, and a
compiler can't look into them, so that it neither sees nor saves the decoded weight: that lives
from its decoding to its product, and is made again for backward.

Several layers that read the same input go through one call. `a` holds their A [r, k] one under the
other, `b` their B [n, r], already multiplied by the adapter's scaling; `parts` their parts in a
row. A layer without an adapter has r = 0.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from studio.engine.fast.storage import (
    bytes_transposed,
    decoded,
    float8_product,
    float8_rows,
)

# A plain Library instead of torch.library.custom_op: a fifth less time on the host for each call.
_LIBRARY = torch.library.Library("studio_frozen", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag,)
_LIBRARY.define(
    "lora(Tensor x, Tensor[] x8, Tensor[] parts, str kind, Tensor a, Tensor[] b, bool skip)"
    " -> Tensor[]",
    tags=_TAGS,
)
_LIBRARY.define(
    "lora_dx(Tensor[] dy, Tensor[] dy8, Tensor[] parts, str kind, Tensor dxa, Tensor a)"
    " -> Tensor[]",
    tags=_TAGS,
)
_THIN = 128  # above this rank cuBLAS is as fast as the kernel for thin products


def thin_add_(y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """y += u v in place, for u [m, r] and v [r, n]; at a small r as fast as y can be moved."""
    r = u.shape[1]
    if r == 0:
        return y
    if not y.is_cuda or r > _THIN or y.dtype == torch.float32:
        return y.addmm_(u, v)
    from studio.engine.fast import kernels

    kernels.thin_add(y, u, v)
    return y


def _lora(
    x: Tensor,
    x8: list[Tensor],
    parts: list[Tensor],
    kind: str,
    a: Tensor,
    b: list[Tensor],
    skip: bool,
) -> list[Tensor]:
    """x A^T, which backward needs and which is small, then each layer's product."""
    xa = x @ a.t()
    out, each, at = [xa], len(parts) // len(b), 0
    for i, bi in enumerate(b):
        n, r = bi.shape
        if skip:  # a replay whose product nobody reads
            out.append(x.new_empty(x.shape[0], n))
            continue
        own = parts[i * each : (i + 1) * each]
        if kind == "float8":
            y = float8_product(x8[0], x8[1], own[0], own[1], x.dtype)
        else:
            y = x @ decoded(own, kind, n, a.shape[1], x.dtype).t()
        out.append(thin_add_(y, xa[:, at : at + r], bi.t()))
        at += r
    return out


@torch.library.register_fake("studio_frozen::lora", lib=_LIBRARY)
def _lora_fake(
    x: Tensor, x8: Any, parts: Any, kind: str, a: Tensor, b: list[Tensor], skip: bool
) -> list[Tensor]:
    m = x.shape[0]
    return [x.new_empty(m, a.shape[0]), *(x.new_empty(m, bi.shape[0]) for bi in b)]


def _lora_dx(
    dy: list[Tensor],
    dy8: list[Tensor],
    parts: list[Tensor],
    kind: str,
    dxa: Tensor,
    a: Tensor,
) -> list[Tensor]:
    """One dx, or with float8, whose product can't accumulate, one for each layer: the caller's sum
    is fused away."""
    out: list[Tensor] = []
    each, k = len(parts) // len(dy), a.shape[1]
    for i, d in enumerate(dy):
        own = parts[i * each : (i + 1) * each]
        if kind == "float8":
            # dy8 carries w's row scales already. Hopper multiplies float8 only along rows, so w
            # is turned around; a second copy would cost memory and gain next to nothing.
            ones = torch.ones(k, 1, device=d.device)
            d8, scale = dy8[2 * i : 2 * i + 2]
            out.append(float8_product(d8, scale, bytes_transposed(own[0]), ones, d.dtype))
        else:
            w = decoded(own, kind, d.shape[1], k, d.dtype)
            out = [out[0].addmm_(d, w) if out else d @ w]
            del w  # before the next layer's is decoded: one at a time
    thin_add_(out[0], dxa, a)
    return out


@torch.library.register_fake("studio_frozen::lora_dx", lib=_LIBRARY)
def _lora_dx_fake(
    dy: list[Tensor], dy8: Any, parts: Any, kind: str, dxa: Any, a: Tensor
) -> list[Tensor]:
    members = dy if kind == "float8" else dy[:1]
    return [d.new_empty(d.shape[0], a.shape[1]) for d in members]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, x8, parts, kind, a, b, _ = inputs
    ctx.kind, ctx.counts = kind, (len(x8), len(parts), len(b))
    ctx.save_for_backward(x, output[0], a, *b, *parts)


def _backward(ctx: Any, grads: Sequence[Tensor]) -> tuple[Any, ...]:
    """Only the big products are opaque here. The small ones stay visible, so x is wanted after
    dx: there a compiler makes it again (a norm's or an activation's output) in a kernel that reads
    its inputs anyway, instead of keeping it."""
    n_x8, n_parts, n_b = ctx.counts
    x, xa, a, *rest = ctx.saved_tensors
    b, parts = rest[:n_b], rest[n_b:]
    dy = [d.contiguous() for d in grads[1:]]
    each = [d @ bi for d, bi in zip(dy, b, strict=True)]
    dxa = torch.cat(each, dim=1) if n_b > 1 else each[0]
    dy8: list[Tensor] = []
    if ctx.kind == "float8":
        for d, row_scale in zip(dy, parts[1::2], strict=True):
            dy8 += float8_rows(d * row_scale.t())
    dx = torch.ops.studio_frozen.lora_dx(dy, dy8, parts, ctx.kind, dxa, a)
    total = dx[0]
    for more in dx[1:]:
        total = total + more
    slices = xa.split([bi.shape[1] for bi in b], dim=1)
    db = [d.t() @ part for d, part in zip(dy, slices, strict=True)]
    return total, [None] * n_x8, [None] * n_parts, None, dxa.t() @ x, db, None


_LIBRARY.impl("lora", _lora, "CompositeExplicitAutograd")
_LIBRARY.impl("lora_dx", _lora_dx, "CompositeExplicitAutograd")
torch.library.register_autograd(
    "studio_frozen::lora", _backward, setup_context=_setup, lib=_LIBRARY
)


def products(
    x: Tensor,
    kind: str,
    parts: list[Tensor],
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    skip: bool = False,
) -> list[Tensor]:
    """x W^T + (x A^T) B^T for each layer, computed in x's dtype; x [..., k], A [r, k], B [n, r].

    `skip`: the products' values are not wanted, only a graph to go back through.
    """
    flat = x.reshape(-1, x.shape[-1])
    rows = torch.cat([ai.to(x.dtype) for ai in a]) if len(a) > 1 else a[0].to(x.dtype)
    cols = [bi.to(x.dtype) for bi in b]
    # A quantity of the forward product alone: no gradient goes through it.
    x8 = list(float8_rows(flat.detach())) if kind == "float8" and not skip else []
    ys = torch.ops.studio_frozen.lora(flat, x8, parts, kind, rows, cols, skip)[1:]
    return [y.view(*x.shape[:-1], y.shape[-1]) for y in ys]
