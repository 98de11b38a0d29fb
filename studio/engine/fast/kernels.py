"""The Triton kernels. Imported only where a GPU build of torch brings Triton along.

Each one moves its bytes once; what it computes is said, in plain torch, beside its caller.
"""

# Triton takes every annotation for one of its own types.
# mypy: disable-error-code="no-untyped-def"

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]
from torch import Tensor
from triton.errors import TritonError  # type: ignore[import-not-found, unused-ignore]

__all__ = [
    "TritonError",
    "bytes_transposed",
    "cross_entropy",
    "four_bit",
    "thin_add",
    "thin_of_dropped",
]
# The micro-batch's draw and the layer's number, both int64 []; see `dropout` for the last two.
Drawn = tuple[Tensor, Tensor, int, float]


@triton.jit
def _four_bit(
    packed,
    absmax,
    code,
    top,
    top_code,
    top_offset,
    out,
    n_bytes,
    NESTED: tl.constexpr,  # noqa: N803
    TILE: tl.constexpr,  # noqa: N803
):
    # One row of the tile is one block of 64 weights: 32 bytes, one scale.
    rows = tl.program_id(0) * (TILE // 32) + tl.arange(0, TILE // 32)
    at = rows[:, None] * 32 + tl.arange(0, 32)[None, :]
    live = rows * 32 < n_bytes
    byte = tl.load(packed + at, mask=at < n_bytes, other=0).to(tl.int32)
    if NESTED:
        q = tl.load(absmax + rows, mask=live, other=0).to(tl.int32)
        scale = tl.load(top_code + q) * tl.load(top + rows // 256, mask=live, other=0.0)
        scale = scale + tl.load(top_offset)
    else:
        scale = tl.load(absmax + rows, mask=live, other=0.0)
    first = tl.load(code + (byte >> 4)) * scale[:, None]
    second = tl.load(code + (byte & 15)) * scale[:, None]
    kind = out.dtype.element_ty
    pair = tl.reshape(tl.join(first.to(kind), second.to(kind)), (TILE // 32, 64))
    to = rows[:, None] * 64 + tl.arange(0, 64)[None, :]
    tl.store(out + to, pair, mask=to < n_bytes * 2)


def four_bit(parts: list[Tensor], n: int, k: int, dtype: torch.dtype) -> Tensor:
    """The [n, k] weight of a four-bit parts list, nested scales included, in one pass."""
    packed, absmax, code = parts[:3]
    nested = len(parts) > 3
    top, top_code, offset = parts[3:6] if nested else (code, code, code)
    out = torch.empty((n, k), device=packed.device, dtype=dtype)
    tile = 4096
    # enable_fp_fusion=False: bitsandbytes rounds the nested scale's product before it adds the
    # offset; only so are the two bit-equal.
    _four_bit[(triton.cdiv(packed.numel(), tile),)](
        packed,
        absmax,
        code,
        top,
        top_code,
        offset,
        out,
        packed.numel(),
        NESTED=nested,
        TILE=tile,
        num_warps=4,
        enable_fp_fusion=False,
    )
    return out


@triton.jit
def _mixed(x):
    # `dropout.mixed`
    x = x.to(tl.uint32)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _words(draw, own, rows, cols, half):
    # Those of `dropout.kept`, for columns of the first half of a row.
    begin = _mixed(_mixed(tl.load(draw)) ^ (tl.load(own).to(tl.uint32) * 0x7FEB352D))
    return _mixed(rows[:, None].to(tl.uint32) * half + cols[None, :].to(tl.uint32) + begin)


@triton.jit
def _thin_of_dropped(
    x,
    a,
    out,
    draw,
    own,
    limit,
    growth,
    m,
    k,
    half,
    r,
    x_row,
    a_row,
    steps,
    RANK: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rank = tl.arange(0, RANK)
    at = x + rows.to(tl.int64)[:, None] * x_row
    total = tl.zeros((ROWS, RANK), tl.float32)
    for step in range(steps):
        cols = (tl.program_id(1) * steps + step) * COLS + tl.arange(0, COLS)
        words = _words(draw, own, rows, cols, half)
        for late in tl.static_range(2):
            col = cols + late * half
            live = (cols < half) & (col < k)
            left = tl.load(at + col[None, :], mask=(rows[:, None] < m) & live[None, :], other=0.0)
            stays = ((words >> (16 * late)) & 0xFFFF).to(tl.int32) >= limit
            right = tl.load(
                a + rank[None, :] * a_row + col[:, None],
                mask=(rank[None, :] < r) & live[:, None],
                other=0.0,
            )
            total += tl.dot(tl.where(stays, left, 0.0).to(right.dtype), right)
    to = (tl.program_id(1) * m + rows)[:, None] * r + rank[None, :]
    tl.store(out + to, total * growth, mask=(rows[:, None] < m) & (rank[None, :] < r))


def thin_of_dropped(x: Tensor, a: Tensor, drawn: Drawn) -> Tensor:
    """What dropout leaves of x [m, k], times A^T, for A [r, k] of a small r: one read of x."""
    (m, k), r, half = x.shape, a.shape[0], (x.shape[1] + 1) // 2
    draw, own, limit, growth = drawn
    x = x if x.stride(1) == 1 else x.contiguous()
    rows, cols, shares = 64, 64, 4  # a row is shared out among programs, or too few would run
    steps = triton.cdiv(half, cols * shares)
    out = torch.empty((shares, m, r), device=x.device, dtype=torch.float32)
    _thin_of_dropped[(triton.cdiv(m, rows), shares)](
        x,
        a,
        out,
        draw,
        own,
        limit,
        growth,
        m,
        k,
        half,
        r,
        x.stride(0),
        a.stride(0),
        steps,
        RANK=max(16, triton.next_power_of_2(r)),
        ROWS=rows,
        COLS=cols,
        num_warps=4,
    )
    return out.sum(0).to(x.dtype)


@triton.jit
def _thin_add(
    y,
    u,
    v,
    draw,
    own,
    limit,
    growth,
    half,
    m,
    n,
    r,
    y_row,
    u_row,
    v_rank,
    v_col,
    DROPPED: tl.constexpr,  # noqa: N803
    RANK: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLS: tl.constexpr,  # noqa: N803
):
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    rank = tl.arange(0, RANK)
    left = tl.load(
        u + rows[:, None] * u_row + rank[None, :],
        mask=(rows[:, None] < m) & (rank[None, :] < r),
        other=0.0,
    )
    right = tl.load(
        v + rank[:, None] * v_rank + cols[None, :] * v_col,
        mask=(rank[:, None] < r) & (cols[None, :] < n),
        other=0.0,
    )
    at = y + rows[:, None].to(tl.int64) * y_row + cols[None, :]
    live = (rows[:, None] < m) & (cols[None, :] < n)
    added = tl.dot(left, right, out_dtype=tl.float32)
    if DROPPED:
        late = cols >= half
        words = _words(draw, own, rows, tl.where(late, cols - half, cols), half)
        drawn = (words >> tl.where(late, 16, 0).to(tl.uint32)[None, :]) & 0xFFFF
        added = tl.where(drawn.to(tl.int32) >= limit, added * growth, 0.0)
    total = tl.load(at, mask=live, other=0.0).to(tl.float32) + added
    tl.store(at, total.to(y.dtype.element_ty), mask=live)


def thin_add(y: Tensor, u: Tensor, v: Tensor, drawn: Drawn | None = None) -> None:
    """y += u v in place for u [m, r], v [r, n] of a small r: one read and one write of y. With
    `drawn`, of what that dropout leaves of u v."""
    (m, n), r = y.shape, u.shape[1]
    draw, own, limit, growth = drawn or (y, y, 0, 0.0)
    rows, cols = 64, 128
    _thin_add[(triton.cdiv(n, cols), triton.cdiv(m, rows))](
        y,
        u,
        v,
        draw,
        own,
        limit,
        growth,
        (n + 1) // 2,
        m,
        n,
        r,
        y.stride(0),
        u.stride(0),
        v.stride(0),
        v.stride(1),
        DROPPED=drawn is not None,
        RANK=max(16, triton.next_power_of_2(r)),
        ROWS=rows,
        COLS=cols,
        num_warps=4,
    )


@triton.jit
def _transpose(
    w,
    out,
    n,
    k,
    SIDE: tl.constexpr,  # noqa: N803
):
    rows = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    cols = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
    inside = (rows[:, None] < n) & (cols[None, :] < k)
    tile = tl.load(w + rows[:, None] * k + cols[None, :], mask=inside, other=0)
    inside = (cols[:, None] < k) & (rows[None, :] < n)
    tl.store(out + cols[:, None] * n + rows[None, :], tl.trans(tile), mask=inside)


def bytes_transposed(w: Tensor) -> Tensor:
    """w [n, k] of one-byte numbers as a contiguous [k, n], several times faster than torch's."""
    n, k = w.shape
    out = torch.empty((k, n), device=w.device, dtype=w.dtype)
    side = 128
    grid = (triton.cdiv(n, side), triton.cdiv(k, side))
    _transpose[grid](w.view(torch.uint8), out.view(torch.uint8), n, k, SIDE=side, num_warps=8)
    return out


@triton.jit
def _cross_entropy(
    logits,
    labels,
    figures,
    inverse,
    stride,
    V: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * stride
    label = tl.load(labels + row)
    cols = tl.arange(0, BLOCK)
    low = float("-inf")
    top = tl.full((BLOCK,), low, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        v = tl.load(base + start + cols, mask=start + cols < V, other=low).to(tl.float32)
        new = tl.maximum(top, v)
        safe = tl.where(new == low, 0.0, new)
        total = total * tl.exp(top - safe) + tl.exp(v - safe)
        top = new
    peak = tl.max(top, 0)
    lse = peak + tl.log(tl.sum(total * tl.exp(top - peak), 0))
    scored = label >= 0
    picked = tl.load(base + tl.where(scored, label, 0)).to(tl.float32)
    # Every thread has to have read the label's logit before any overwrites it.
    tl.debug_barrier()
    weight = tl.where(scored, tl.load(inverse), 0.0)
    mean = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        at = start + cols
        v = tl.load(base + at, mask=at < V, other=low).to(tl.float32)
        p = tl.exp(v - lse)
        mean += tl.where(p > 0.0, p * v, 0.0)
        grad = (p - tl.where(at == label, 1.0, 0.0)) * weight
        tl.store(base + at, grad.to(logits.dtype.element_ty), mask=at < V)
    out = figures + row * 3
    tl.store(out, tl.where(scored, lse - picked, 0.0))
    tl.store(out + 1, tl.where(scored, lse - tl.sum(mean, 0), 0.0))
    tl.store(out + 2, tl.where(scored & (picked >= peak), 1.0, 0.0))


def cross_entropy(logits: Tensor, labels: Tensor, inverse: Tensor) -> Tensor:
    """Per row of logits [m, V]: loss, entropy, whether the label is on top, as float32 [m, 3].

    The gradient of the loss times `inverse` takes the logits' place.
    """
    figures = torch.empty((logits.shape[0], 3), device=logits.device, dtype=torch.float32)
    _cross_entropy[(logits.shape[0],)](
        logits,
        labels,
        figures,
        inverse,
        logits.stride(0),
        V=logits.shape[1],
        BLOCK=4096,
        num_warps=16,
    )
    return figures
