"""The loss of a frozen output head, in chunks of tokens, with its gradient made on the way forward.

The head is frozen, so the gradient with respect to the hidden states is all that backward will ever
want. Made while a chunk's logits are there, it costs no second product with the vocabulary, and
tokens x hidden numbers are kept instead of tokens x vocabulary.
"""

from typing import Any

import torch
from torch import Tensor


def _rows(logits: Tensor, labels: Tensor, inverse: Tensor) -> Tensor:
    """Per row: loss, entropy, whether the label is on top, [m, 3]; all 0 where the label is
    negative. The gradient of the loss times `inverse` replaces the logits."""
    if logits.is_cuda:
        from studio.engine.fast import kernels

        return kernels.cross_entropy(logits, labels, inverse)
    logs = logits.float().log_softmax(-1)
    p = logs.exp()
    scored = labels >= 0
    at = labels.clamp(min=0)[:, None]
    loss = -logs.gather(1, at)[:, 0]
    entropy = -(p * logs.clamp(min=torch.finfo(logs.dtype).min)).sum(-1)
    top = logs.gather(1, at)[:, 0] >= logs.amax(-1)
    p.scatter_add_(1, at, -torch.ones_like(loss)[:, None])
    logits.copy_(p * (scored * inverse)[:, None])
    return torch.stack((loss, entropy, top.float()), dim=1) * scored[:, None]


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, inverse: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        grad = torch.empty_like(hidden) if wanted else None
        total = torch.zeros(3, device=hidden.device, dtype=torch.float32)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            logits = hidden[part] @ weight.t()
            total += _rows(logits, labels[part], inverse).sum(0)
            if grad is not None:
                torch.mm(logits, weight, out=grad[part])
        ctx.save_for_backward(grad)
        figures = total[1:].clone()
        ctx.mark_non_differentiable(figures)
        return total[0] * inverse, figures

    @staticmethod
    def backward(ctx: Any, dloss: Tensor, _: Any) -> tuple[Any, ...]:
        (grad,) = ctx.saved_tensors
        return grad * dloss.to(grad.dtype), None, None, None, None


def head_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, count: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """The cross-entropies of `labels` [T], summed and divided by `count`, for hidden [T, h] and
    weight [V, h]; and the sums [2] of the entropies and of the labels that were on top.

    `labels` are shifted already; negative ones are not scored. `count` is the whole step's number
    of scored tokens, so that micro-batches add up.
    """
    if not hidden.is_cuda:
        # On a GPU the shapes stay fixed. A CPU gains from every row that it leaves out.
        scored = labels >= 0
        hidden, labels = hidden[scored], labels[scored]
    loss, figures = _HeadLoss.apply(hidden, weight, labels, 1.0 / count.float(), chunk)
    return loss, figures
