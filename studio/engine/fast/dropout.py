"""LoRA's dropout, drawn so that a layer that runs again draws the same.

Which inputs are dropped follows from the micro-batch's draw and the layer's own number alone, both
tensors: nothing is kept for backward, and neither a replay nor a recorded graph needs to know of a
generator's state.
"""

from typing import Any

import torch
from torch import Tensor, nn

_WORD = 0xFFFF_FFFF
# Odd, and below 2 ** 31: products of a word stay within 64 bits.
_FIRST, _SECOND = 0x7FEB_352D, 0x5BD1_E995


def mixed(x: Tensor) -> Tensor:
    """Words of 32 bits, in int64, as others that look drawn by chance: shifts and products, as in
    the finalizers of multiplicative hashes."""
    x = ((x ^ (x >> 16)) * _FIRST) & _WORD
    x = ((x ^ (x >> 15)) * _SECOND) & _WORD
    x = ((x ^ (x >> 13)) * _FIRST) & _WORD
    return x ^ (x >> 16)


def kept(shape: tuple[int, int], draw: Tensor, own: Tensor, share: float) -> Tensor:
    """Which of [m, k] numbers stay, each with the chance 1 - share; `draw` and `own` are int64 []
    below 2 ** 31."""
    m, k = shape
    rows = torch.arange(m, device=draw.device)[:, None] * k
    at = rows + torch.arange(k, device=draw.device)
    begin = mixed(mixed(draw) ^ (own * _FIRST & _WORD))
    # By way of 32 bits: what shrinks to less than a quarter in one step, a compiler keeps for
    # backward instead of making it again.
    return (mixed((at + begin) & _WORD) >> 1).to(torch.int32) >= int(share * 2**31)


def _kept_here(shape: tuple[int, int], draw: Tensor, own: Tensor, share: float) -> Tensor:
    """The same by a generator, which takes a CPU a tenth of the time where nothing is compiled."""
    generator = torch.Generator().manual_seed(int(mixed(draw) ^ (own * _FIRST & _WORD)))
    return torch.empty(shape).uniform_(generator=generator) >= share


class _Dropped(torch.autograd.Function):
    """Outside a compiler, which sees to that by itself: what was drawn is drawn again for backward
    instead of being kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, draw: Tensor, own: Tensor, share: float) -> Tensor:
        # The draw is filled anew in place; backward is of this one.
        ctx.drawn = draw.clone(), own, share
        return _dropped(x, draw, own, share)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        return _dropped(dy, *ctx.drawn), None, None, None


def _dropped(x: Tensor, draw: Tensor, own: Tensor, share: float) -> Tensor:
    drawn = kept if x.is_cuda or torch.compiler.is_compiling() else _kept_here
    stays = drawn((x.shape[0], x.shape[1]), draw, own, share)
    return x * stays * (1 / (1 - share))


class Dropout(nn.Module):
    """Takes the place of a LoRA layer's dropout. `draw` is one tensor for all layers, which is
    filled anew for each micro-batch; `own` is this layer's number."""

    draw: Tensor
    own: Tensor

    def __init__(self, plain: nn.Module, share: float, draw: Tensor, number: int) -> None:
        super().__init__()
        self.plain_module, self.share = [plain], share  # in a list: it is no part of this one
        self.register_buffer("draw", draw, persistent=False)
        own = torch.tensor(number, dtype=torch.int64, device=draw.device)
        self.register_buffer("own", own, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., k] with a share of it zero and the rest the larger, while it trains."""
        if not self.training:
            return x
        flat = x.reshape(-1, x.shape[-1])
        drop = _dropped if torch.compiler.is_compiling() else _Dropped.apply
        y: Tensor = drop(flat, self.draw, self.own, self.share)
        return y.view(x.shape)
