"""How a frozen weight lies in memory, and how it becomes a weight again.

A frozen weight is a short list of tensors, its parts: dense [w]; four-bit [packed, absmax, code]
or, with nested scales, [packed, absmax, code, top absmax, top code, offset]; float8 [w, row
scales].
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 64  # weights that share one four-bit scale: bitsandbytes' default
GROUP = 256  # four-bit scales that share one scale of scales
F8 = torch.float8_e4m3fn
F8_MAX = 448.0


def four_bit_decoded(parts: Sequence[Tensor], n: int, k: int, dtype: torch.dtype) -> Tensor:
    """The [n, k] weight of four-bit parts by bitsandbytes' own arithmetic, bit for bit."""
    if parts[0].is_cuda:
        from studio.engine.fast import kernels

        return kernels.four_bit(list(parts), n, k, dtype)
    packed, absmax, code = parts[:3]
    scale = absmax
    if len(parts) > 3:
        scale = parts[4][absmax.int()] * parts[3].repeat_interleave(GROUP)[: absmax.numel()]
        scale = scale + parts[5]
    nibbles = torch.stack((packed.view(-1) >> 4, packed.view(-1) & 15), dim=1).view(-1).int()
    return (code[nibbles].view(-1, BLOCK) * scale.view(-1, 1)).to(dtype).view(n, k)


def float8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [m, k] as float8 with one float32 scale a row [m, 1].

    Plain torch on purpose: a compiler fuses it into whatever makes x.
    """
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp(min=1e-12) / F8_MAX
    return (x.float() / scale).clamp(-F8_MAX, F8_MAX).to(F8), scale


def float8_product(x8: Tensor, sx: Tensor, w8: Tensor, sw: Tensor, dtype: torch.dtype) -> Tensor:
    """(x8 sx)(w8 sw)^T for row-scaled x8 [m, k] and w8 [n, k]."""
    if x8.is_cuda:
        return torch._scaled_mm(
            x8, w8.t(), scale_a=sx, scale_b=sw.t(), out_dtype=dtype, use_fast_accum=True
        )
    return ((x8.float() * sx) @ (w8.float() * sw).t()).to(dtype)


def bytes_transposed(w: Tensor) -> Tensor:
    """w [n, k] of one-byte numbers as a contiguous [k, n]."""
    if w.is_cuda:
        from studio.engine.fast import kernels

        return kernels.bytes_transposed(w)
    return w.t().contiguous()


def decoded(parts: Sequence[Tensor], kind: str, n: int, k: int, dtype: torch.dtype) -> Tensor:
    """The [n, k] weight in `dtype`; a dense one is not copied."""
    if kind == "dense":
        return parts[0].to(dtype)
    if kind == "float8":
        return (parts[0].float() * parts[1]).to(dtype)
    return four_bit_decoded(parts, n, k, dtype)


def parts_of(linear: nn.Module, float8: bool = False) -> tuple[str, list[Tensor]]:
    """The kind and the parts of an nn.Linear or a bitsandbytes Linear4bit, sharing its storage
    but for float8. Raises ValueError, in words, where it holds its weight in another way."""
    weight: Any = linear.weight
    state = getattr(weight, "quant_state", None)
    if state is None:
        if type(linear) is not nn.Linear or not weight.is_floating_point():
            raise ValueError(f"a {type(linear).__name__} holds its weight in a way of its own")
        return ("float8", list(float8_rows(weight.data))) if float8 else ("dense", [weight.data])
    if float8:
        raise ValueError("its weights are 4-bit already; float8 starts from 16-bit weights")
    if state.blocksize != BLOCK or linear.in_features % BLOCK:
        raise ValueError(f"its 4-bit weights are not in blocks of {BLOCK}")
    parts = [weight.data.view(-1), state.absmax, state.code.float()]
    if state.nested:
        if state.state2.blocksize != GROUP:
            raise ValueError(f"its nested scales are not in groups of {GROUP}")
        parts += [state.state2.absmax, state.state2.code, state.offset]
    return "four_bit", parts
