"""Products with frozen weights that nothing can keep, and the adapters on top of them.

The operators take a weight as its parts, so that all layers of a model share one graph, and a
compiler can't look into them, so that it neither sees nor saves the decoded weight: that lives
from its decoding to its product, and is made again for backward.

Several layers that read the same input go through one call. `a` holds their A [r, k] one under the
other, `b` their B [n, r], already multiplied by the adapter's scaling; `parts` their parts in a
row. A layer without an adapter has r = 0. `drawn` is empty, or holds what each adapter's dropout is
drawn from: the micro-batch's draw, and each layer's number.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from studio.engine.fast.dropout import dropped, growth, is_hashed, kept, limit
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
    "lora(Tensor x, Tensor[] x8, Tensor[] parts, str kind, Tensor a, Tensor[] b, bool skip,"
    " Tensor[] drawn, float share, bool hashed) -> Tensor[]",
    tags=_TAGS,
)
_LIBRARY.define(
    "lora_dx(Tensor[] dy, Tensor[] dy8, Tensor[] parts, str kind, Tensor[] dxa, Tensor[] a,"
    " Tensor[] drawn, float share) -> Tensor[]",
    tags=_TAGS,
)
_THIN = 128  # above this rank cuBLAS is as fast as the kernel for thin products


def _by_kernel(x: Tensor, r: int) -> bool:
    return x.is_cuda and 0 < r <= _THIN and x.dtype != torch.float32


def thin_add_(y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """y += u v in place, for u [m, r] and v [r, n]; at a small r as fast as y can be moved."""
    r = u.shape[1]
    if r == 0:
        return y
    if not _by_kernel(y, r):
        return y.addmm_(u, v)
    from studio.engine.fast import kernels

    kernels.thin_add(y, u, v)
    return y


def _thin_add_dropped_(
    y: Tensor, u: Tensor, v: Tensor, draw: Tensor, own: Tensor, share: float
) -> None:
    """The same of what dropout leaves of u v. On a GPU only."""
    if not _by_kernel(y, u.shape[1]):
        y.add_(dropped(u @ v, draw, own, share, True), alpha=growth(share))
        return
    from studio.engine.fast import kernels

    kernels.thin_add(y, u, v, (draw, own, limit(share), growth(share)))


def _thin_of_dropped(
    x: Tensor, a: Tensor, draw: Tensor, own: Tensor, share: float, hashed: bool
) -> Tensor:
    """What dropout leaves of x, times A^T."""
    if not _by_kernel(x, a.shape[0]):
        return (dropped(x, draw, own, share, hashed) @ a.t()) * growth(share)
    from studio.engine.fast import kernels

    return kernels.thin_of_dropped(x, a, (draw, own, limit(share), growth(share)))


def _lora(
    x: Tensor,
    x8: list[Tensor],
    parts: list[Tensor],
    kind: str,
    a: Tensor,
    b: list[Tensor],
    skip: bool,
    drawn: list[Tensor],
    share: float,
    hashed: bool,
) -> list[Tensor]:
    """x A^T, which backward needs and which is small, then each layer's product."""
    if drawn:
        rows = a.split([bi.shape[1] for bi in b])
        owns = zip(drawn[1:], rows, strict=True)
        each_xa = [_thin_of_dropped(x, ai, drawn[0], own, share, hashed) for own, ai in owns]
        xa = torch.cat(each_xa, dim=1)
    else:
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
    x: Tensor, x8: Any, parts: Any, kind: str, a: Tensor, b: list[Tensor], *_: Any
) -> list[Tensor]:
    m = x.shape[0]
    return [x.new_empty(m, a.shape[0]), *(x.new_empty(m, bi.shape[0]) for bi in b)]


def _lora_dx(
    dy: list[Tensor],
    dy8: list[Tensor],
    parts: list[Tensor],
    kind: str,
    dxa: list[Tensor],
    a: list[Tensor],
    drawn: list[Tensor],
    share: float,
) -> list[Tensor]:
    """One dx, or with float8, whose product can't accumulate, one for each layer: the caller's sum
    is fused away."""
    out: list[Tensor] = []
    each, k = len(parts) // len(dy), a[0].shape[1]
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
    if drawn:
        for u, v, own in zip(dxa, a, drawn[1:], strict=True):
            _thin_add_dropped_(out[0], u, v, drawn[0], own, share)
    else:
        thin_add_(out[0], dxa[0], a[0])
    return out


@torch.library.register_fake("studio_frozen::lora_dx", lib=_LIBRARY)
def _lora_dx_fake(
    dy: list[Tensor], dy8: Any, parts: Any, kind: str, dxa: Any, a: list[Tensor], *_: Any
) -> list[Tensor]:
    members = dy if kind == "float8" else dy[:1]
    return [d.new_empty(d.shape[0], a[0].shape[1]) for d in members]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, x8, parts, kind, a, b, _, drawn, share, hashed = inputs
    ctx.kind, ctx.share, ctx.hashed = kind, share, hashed
    ctx.counts = len(x8), len(parts), len(b), len(drawn)
    ctx.save_for_backward(x, output[0], a, *b, *drawn, *parts)


def _backward(ctx: Any, grads: Sequence[Tensor]) -> tuple[Any, ...]:
    """Only the big products are opaque here. The small ones stay visible, so x is wanted after
    dx: there a compiler makes it again (a norm's or an activation's output, and what dropout leaves
    of it) in a kernel that reads its inputs anyway, instead of keeping it."""
    n_x8, n_parts, n_b, n_drawn = ctx.counts
    x, xa, a, *rest = ctx.saved_tensors
    b, drawn, parts = rest[:n_b], rest[n_b : n_b + n_drawn], rest[n_b + n_drawn :]
    ranks = [bi.shape[1] for bi in b]
    dy = [d.contiguous() for d in grads[1:]]
    dxa = [d @ bi for d, bi in zip(dy, b, strict=True)]
    dy8: list[Tensor] = []
    if ctx.kind == "float8":
        for d, row_scale in zip(dy, parts[1::2], strict=True):
            dy8 += float8_rows(d * row_scale.t())
    if drawn:
        dx, da = _past_dropout(ctx, x, a.split(ranks), drawn, dxa, (dy, dy8, parts))
    else:
        one = torch.cat(dxa, dim=1) if n_b > 1 else dxa[0]
        dx = torch.ops.studio_frozen.lora_dx(dy, dy8, parts, ctx.kind, [one], [a], [], 0.0)
        da = one.t() @ x
    total = dx[0]
    for more in dx[1:]:
        total = total + more
    db = [d.t() @ part for d, part in zip(dy, xa.split(ranks, dim=1), strict=True)]
    nothing = [None] * n_drawn
    return total, [None] * n_x8, [None] * n_parts, None, da, db, None, nothing, None, None


def _nothing(x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """An adapter that adds nothing: `lora_dx`'s dxa, a and drawn."""
    return [x.new_empty(x.shape[0], 0)], [x.new_empty(0, x.shape[1])], []


def _past_dropout(
    ctx: Any,
    x: Tensor,
    a: Sequence[Tensor],
    drawn: list[Tensor],
    dxa: list[Tensor],
    big: tuple[list[Tensor], ...],
) -> tuple[list[Tensor], Tensor]:
    """dx, a list as `lora_dx` has it, and dA, where each adapter has read what its own dropout left
    of x."""
    draw, *owns = drawn
    by = (dxa, list(a), drawn) if x.is_cuda else _nothing(x)
    dx = torch.ops.studio_frozen.lora_dx(*big, ctx.kind, *by, ctx.share)
    da = []
    for d, ai, own in zip(dxa, a, owns, strict=True):
        stays = kept((x.shape[0], x.shape[1]), draw, own, ctx.share, ctx.hashed).to(x.dtype)
        grown = d * growth(ctx.share)
        da.append(grown.t() @ (x * stays))
        if not x.is_cuda:
            dx = [*dx, (grown @ ai) * stays]
    return dx, torch.cat(da)


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
    drawn: Sequence[Tensor] = (),
    share: float = 0.0,
) -> list[Tensor]:
    """x W^T + (x A^T) B^T for each layer, computed in x's dtype; x [..., k], A [r, k], B [n, r].
    With `drawn`, each A reads what its own dropout leaves of x: all but a `share`.

    `skip`: the products' values are not wanted, only a graph to go back through.
    """
    flat = x.reshape(-1, x.shape[-1])
    rows = torch.cat([ai.to(x.dtype) for ai in a]) if len(a) > 1 else a[0].to(x.dtype)
    cols = [bi.to(x.dtype) for bi in b]
    # A quantity of the forward product alone: no gradient goes through it.
    x8 = list(float8_rows(flat.detach())) if kind == "float8" and not skip else []
    lora = torch.ops.studio_frozen.lora
    ys = lora(flat, x8, parts, kind, rows, cols, skip, list(drawn), share, is_hashed(x))[1:]
    return [y.view(*x.shape[:-1], y.shape[-1]) for y in ys]
