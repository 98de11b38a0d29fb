"""Attention of documents that lie in one row and don't see each other.

Registered with transformers under a name of its own, and without a mask: where the documents begin
is said by `cu_seq_lens_q`, which every decoder layer passes down. On a GPU torch's own
variable-length flash attention does it; with sdpa a packed row would need a dense mask.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "studio_packed"
# Its signature moved between releases. Looked up once, here: a compiler can't trace it.
_KNOWN = frozenset(inspect.signature(varlen_attn).parameters)
HAS_WINDOW = "window_size" in _KNOWN


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each document. query [1, heads, T, d], key and value [1, kv heads,
    T, d]; cu_seq_lens_q int32 [documents + 1], from 0 to T; the result is [1, T, heads, d].
    Raises NotImplementedError where more is asked for."""
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("attention with soft-capped scores or sinks")
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    # A window that no document fills changes nothing.
    window = sliding_window if sliding_window and sliding_window < max_length_q else None
    if q.is_cuda:
        out = _flash(q, k, v, cu_seq_lens_q, max_length_q, scaling, window)
    elif torch.compiler.is_compiling():
        out = _masked(q, k, v, cu_seq_lens_q, scaling, window)
    else:
        out = _by_document(q, k, v, cu_seq_lens_q, scaling, window)
    return out.unsqueeze(0), None


def _flash(
    q: Tensor, k: Tensor, v: Tensor, cu: Tensor, longest: int, scale: float | None, window: Any
) -> Tensor:
    options: dict[str, Any] = {"scale": scale}
    if HAS_WINDOW:
        options["window_size"] = (-1 if window is None else window - 1, 0)
    else:
        options["is_causal"] = True
    if "enable_gqa" in _KNOWN:
        options["enable_gqa"] = True
    elif k.shape[1] != q.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    return varlen_attn(q, k, v, cu, cu, longest, longest, **options)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """q [T, heads, d] against k and v [T, kv heads, d]; no mask means causal."""
    q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in (q, k, v))
    out = scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[0].transpose(0, 1)


def _causal(at: Tensor, window: int | None) -> Tensor:
    apart = at[:, None] - at[None, :]
    return (apart >= 0) if window is None else (apart >= 0) & (apart < window)


def _by_document(
    q: Tensor, k: Tensor, v: Tensor, cu: Tensor, scale: float | None, window: int | None
) -> Tensor:
    """One document after the other: costs no more than they do by themselves."""
    out = []
    for start, end in pairwise(cu.tolist()):
        if start == end:
            continue
        mask = None
        if window is not None and window < end - start:
            mask = _causal(torch.arange(end - start, device=q.device), window)
        out.append(_sdpa(q[start:end], k[start:end], v[start:end], mask, scale))
    return torch.cat(out)


def _masked(
    q: Tensor, k: Tensor, v: Tensor, cu: Tensor, scale: float | None, window: int | None
) -> Tensor:
    """The same by a dense mask, for a compiler that can't know where documents end."""
    at = torch.arange(q.shape[0], device=q.device)
    document = torch.bucketize(at, cu[1:], right=True)
    mask = (document[:, None] == document[None, :]) & _causal(at, window)
    return _sdpa(q, k, v, mask, scale)


@contextmanager
def packed(config: Any) -> Iterator[None]:
    """Within it the model of this config attends by document. transformers makes no mask for a
    name that it has none for, and its own attention is back afterwards, for generation."""
    AttentionInterface.register(NAME, packed_attention)
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
