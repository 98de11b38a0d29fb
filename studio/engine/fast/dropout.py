"""LoRA's dropout, drawn so that a layer that runs again draws the same.

Which inputs are dropped follows from the micro-batch's draw and the layer's own number alone, both
tensors: nothing is kept for backward, and neither a replay nor a recorded graph needs to know of a
generator's state.
"""

import numpy as np
import torch
from torch import Tensor, nn

# The two products of a hash of 32 bits whose every bit of input moves half of the bits of output;
# the second as the negative number that a signed word holds. `kernels` has the same two.
_FIRST, _SECOND = 0x7FEB_352D, 0x846C_A68B - 2**32
_STEPS = 2**16  # in which a share is counted: a word of 32 bits draws for two numbers


def mixed(x: Tensor) -> Tensor:
    """Words of 32 bits, in int32, as others that look drawn by chance."""
    x = (x ^ (x >> 16 & 0xFFFF)) * _FIRST
    x = (x ^ (x >> 15 & 0x1FFFF)) * _SECOND
    return x ^ (x >> 16 & 0xFFFF)


def limit(share: float) -> int:
    """Of _STEPS, how many drop a number."""
    return min(round(share * _STEPS), _STEPS - 1)


def growth(share: float) -> float:
    """By what the numbers that stay are multiplied, so that their sum is expected to stay."""
    return _STEPS / (_STEPS - limit(share))


def kept(shape: tuple[int, int], draw: Tensor, own: Tensor, share: float, hashed: bool) -> Tensor:
    """Which of [m, k] numbers stay, each with the chance 1 - share; `draw` and `own` are int64 []
    below 2 ** 31. Hashed, a compiler sees into it; NumPy's generator takes a CPU a fraction of the
    time where nothing is compiled."""
    m, k = shape
    begin = mixed(mixed(draw.to(torch.int32)) ^ (own.to(torch.int32) * _FIRST))
    if not hashed:
        words = np.random.SFC64(int(begin) % 2**32).random_raw(-(-m * k // 4))
        drawn = words.view(np.uint16)[: m * k].reshape(shape)
        return torch.from_numpy(drawn >= limit(share))
    # A column and the one half a row further share a word.
    half = (k + 1) // 2
    rows = torch.arange(m, device=draw.device, dtype=torch.int32)[:, None]
    cols = torch.arange(k, device=draw.device, dtype=torch.int32)
    late = cols >= half
    word = mixed(rows * half + torch.where(late, cols - half, cols) + begin)
    return (word >> torch.where(late, 16, 0) & 0xFFFF) >= limit(share)


def dropped(x: Tensor, draw: Tensor, own: Tensor, share: float, hashed: bool) -> Tensor:
    """x [m, k] with a share of it zero; what stays is to grow by `growth`."""
    # Times numbers of its own kind: a third less time than times booleans.
    return x * kept((x.shape[0], x.shape[1]), draw, own, share, hashed).to(x.dtype)


def is_hashed(x: Tensor) -> bool:
    """Whether `kept` is to draw for x by its hash, here and on the way back."""
    return x.is_cuda or torch.compiler.is_compiling()


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
        left = dropped(flat, self.draw, self.own, self.share, is_hashed(x))
        return (left * growth(self.share)).view(x.shape)
