"""The fast path's parts by themselves, against plain torch and bitsandbytes."""

from itertools import combinations
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from torch import Tensor, nn

from studio.engine.fast.attention import packed_attention
from studio.engine.fast.batch import Flat
from studio.engine.fast.dropout import dropped, growth, kept
from studio.engine.fast.head import head_loss
from studio.engine.fast.layers import FrozenLinear, freeze, thaw
from studio.engine.fast.product import products
from studio.engine.fast.replay import replayed
from studio.engine.fast.step import Step
from studio.engine.fast.storage import float8_rows, four_bit_decoded
from studio.plan.lengths import rung
from tests.engine.helpers import Recorder

# Rounding to float8 (3 bits of mantissa) puts 2 to 3 % on a product of random numbers.
FLOAT8_TOLERANCE = 0.05


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same normal numbers every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_four_bit_weights_decode_bit_by_bit(kind: str, nested: bool, dtype: torch.dtype) -> None:
    w = random(300, 128, dtype=dtype)
    packed, state = quantize_4bit(w, blocksize=64, compress_statistics=nested, quant_type=kind)
    parts = [packed.view(-1), state.absmax, state.code.float()]
    if nested:
        parts += [state.state2.absmax, state.state2.code, state.offset]
    assert torch.equal(four_bit_decoded(parts, 300, 128, dtype), dequantize_4bit(packed, state))


def adapted(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Base and adapter as one would write them."""
    return x @ w.t() + (x @ a.t()) @ b.t()


def gradients_of(ys: list[Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """The inputs' gradients for a loss in which all of the outputs count differently."""
    loss = sum((y * random(*y.shape, seed=i)).sum() for i, y in enumerate(ys))
    assert isinstance(loss, Tensor)
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["32", "16"])
@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["dense", "float8"])
def test_products_and_their_gradients(kind: str, share: float, dtype: torch.dtype) -> None:
    x = random(2, 9, 64, seed=5).to(dtype).requires_grad_()
    weights = [(random(48, 64, seed=1) / 8).to(dtype), (random(32, 64, seed=2) / 8).to(dtype)]
    a = [random(4, 64, seed=3).requires_grad_(), random(6, 64, seed=4).requires_grad_()]
    b = [random(48, 4, seed=6).requires_grad_(), random(32, 6, seed=7).requires_grad_()]
    parts = [p for w in weights for p in ([w] if kind == "dense" else list(float8_rows(w)))]
    draw, *owns = (torch.tensor(n) for n in (7, 3, 4))
    drawn = [draw, *owns] if share else []
    found = products(x, kind, parts, a, b, drawn=drawn, share=share)
    whole = x.detach().float().requires_grad_()
    flat = whole.reshape(18, 64)
    left = [dropped(flat, draw, own, share, False) * growth(share) for own in owns]
    read = [each.view(x.shape) if drawn else whole for each in left]
    expected = [
        whole @ w.float().t() + (xi @ ai.t()) @ bi.t()
        for w, xi, ai, bi in zip(weights, read, a, b, strict=True)
    ]
    limit = FLOAT8_TOLERANCE if kind == "float8" else 1e-5 if dtype is torch.float32 else 1e-2
    pairs = [
        *zip(found, expected, strict=True),
        *zip(
            gradients_of(found, [x, *a, *b]), gradients_of(expected, [whole, *a, *b]), strict=True
        ),
    ]
    for one, other in pairs:
        assert one.shape == other.shape
        assert float(((one - other).norm() / other.norm()).detach()) < limit


@pytest.mark.parametrize("float8", [False, True])
def test_a_linear_layer_freezes_and_thaws(float8: bool) -> None:
    linear = nn.Linear(64, 48).requires_grad_(False)
    x, weight, names = random(7, 64), linear.weight.clone(), set(linear.state_dict())
    expected = linear(x)
    freeze(linear, float8)
    assert type(linear) is FrozenLinear
    assert linear.weight.numel() == (0 if float8 else 48 * 64)
    limit = FLOAT8_TOLERANCE if float8 else 1e-6
    assert float((linear(x) - expected).norm() / expected.norm()) < limit
    thaw(linear)
    assert type(linear) is nn.Linear and set(linear.state_dict()) == names
    assert float((linear.weight - weight).norm() / weight.norm()) < limit
    assert not list(linear.buffers())


def test_a_skipped_product_still_has_its_gradients() -> None:
    x, a, b = random(5, 16).requires_grad_(), random(2, 16), random(8, 2)
    w = random(8, 16, seed=9)
    (y,) = products(x, "dense", [w], [a], [b], skip=True)
    (found,) = torch.autograd.grad(y, x, torch.ones(5, 8))
    (expected,) = torch.autograd.grad(adapted(x, w, a, b), x, torch.ones(5, 8))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("window", [None, 3, 100])
@pytest.mark.parametrize("how", ["by document", "by mask"])
def test_documents_attend_to_themselves_alone(
    window: int | None, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: how == "by mask")
    q, k, v = random(1, 4, 12, 8), random(1, 2, 12, 8, seed=1), random(1, 2, 12, 8, seed=2)
    bounds = [0, 5, 6, 12, 12, 12]
    out, _ = packed_attention(
        None,
        q,
        k,
        v,
        None,
        cu_seq_lens_q=torch.tensor(bounds, dtype=torch.int32),
        max_length_q=12,
        scaling=0.3,
        sliding_window=window,
    )
    assert out.shape == (1, 12, 4, 8)
    for start, end in ((0, 5), (5, 6), (6, 12)):
        for at in range(start, end):
            first = start if window is None else max(start, at - window + 1)
            for head in range(4):
                keys, values = (t[0, head // 2, first : at + 1] for t in (k, v))
                weights = (keys @ q[0, head, at] * 0.3).softmax(0)
                torch.testing.assert_close(out[0, at, head], weights @ values)


def test_attention_says_what_it_can_not() -> None:
    q = random(1, 2, 4, 8)
    bounds = torch.tensor([0, 4], dtype=torch.int32)
    with pytest.raises(NotImplementedError, match="soft-capped"):
        packed_attention(None, q, q, q, None, cu_seq_lens_q=bounds, max_length_q=4, softcap=50.0)


@pytest.mark.parametrize("chunk", [3, 100])
def test_the_heads_loss_entropy_and_guesses(chunk: int) -> None:
    hidden = random(11, 16).requires_grad_()
    weight = random(29, 16, seed=1)
    labels = torch.tensor([4, -100, 7, 28, 0, -100, 3, 3, 9, 12, -100])
    labels[2] = int((hidden[2] @ weight.t()).argmax())
    count = torch.tensor(20.0)
    loss, sums = head_loss(hidden, weight, labels, count, chunk)
    (found,) = torch.autograd.grad(loss * 3, hidden)
    logits = hidden @ weight.t()
    expected = nn.functional.cross_entropy(logits, labels, reduction="sum") / count
    (gradient,) = torch.autograd.grad(expected * 3, hidden)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, gradient)
    scored = labels >= 0
    spread = torch.distributions.Categorical(logits=logits[scored]).entropy().sum()
    right = (logits.argmax(-1) == labels)[scored].sum().float()
    torch.testing.assert_close(sums, torch.stack((spread, right)))
    with torch.no_grad():
        torch.testing.assert_close(head_loss(hidden, weight, labels, count, chunk)[0], expected)


@pytest.mark.parametrize("hashed", [True, False], ids=["hash", "generator"])
def test_dropout_keeps_what_it_says_and_no_two_layers_or_batches_the_same(hashed: bool) -> None:
    shape = (400, 300)
    drawn = {
        (draw, own): kept(shape, torch.tensor(draw), torch.tensor(own), 0.1, hashed)
        for draw in (0, 1, 2**31 - 1)
        for own in (0, 1, 223)
    }
    for stays in drawn.values():
        # Rows, columns and all: within five standard deviations of a fair draw.
        for mean, number in ((stays.float().mean(0), 400), (stays.float().mean(1), 300)):
            assert (mean - 0.9).abs().max() < 5 * (0.09 / number) ** 0.5
        assert abs(stays.float().mean().item() - 0.9) < 5 * (0.09 / 120_000) ** 0.5
    for one, other in combinations(drawn.values(), 2):
        both = (one ^ other).float().mean().item()
        assert abs(both - 0.18) < 5 * (0.18 * 0.82 / 120_000) ** 0.5
        # Nor is one the other, moved, nor one half of a row the other.
        assert ((one[1:] ^ other[:-1]).float().mean() - 0.18).abs() < 0.01
        assert ((one[:, :150] ^ one[:, 150:]).float().mean() - 0.18).abs() < 0.01


def test_a_replayed_layer_runs_twice_and_keeps_nothing() -> None:
    w, passes = random(6, 6).requires_grad_(), []

    def layer(x: Tensor, again: bool) -> Tensor:
        passes.append((again, torch.is_grad_enabled()))
        return torch.tanh(x @ w)

    x = random(4, 6, seed=1).requires_grad_()
    y = replayed(layer, replayed(layer, x, 0), 1)
    assert passes == [(False, False)] * 2
    y.sum().backward()
    assert passes[2:] == [(True, True)] * 2
    found = x.grad, w.grad
    expected = torch.autograd.grad(torch.tanh(torch.tanh(x @ w) @ w).sum(), [x, w])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_rungs_are_few_and_near() -> None:
    rungs = {rung(n) for n in range(1, 5000)}
    assert len(rungs) == 18
    assert all(n <= rung(n) <= max(256, 1.25 * n) for n in range(1, 5000))
    assert all(value % 64 == 0 for value in rungs)


def test_a_batch_is_one_row_of_documents() -> None:
    rows = [
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
        {"input_ids": [8, 9, 1, 2], "seq_lengths": [2, 2]},
    ]
    batch = Flat(0, longest=4, tokens=13)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 1, 2, 0, 0, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9, -100, 2, *[-100] * 6]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 0, 1, 2, 3, 0, 1]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5, 7, 11, 13, 13, 13, 13]
    assert batch["cu_seq_lens_q"].dtype is torch.int32
    assert (batch["max_length_q"], batch["num_tokens"]) == (4, 7)
    longer = Flat(0, longest=4, tokens=4)(rows)
    assert longer["input_ids"].shape == (1, 256)
    assert Flat(0, longest=2)(rows)["max_length_q"] == 3


def test_a_failed_pass_leaves_no_gradient_behind() -> None:
    weight, modes = nn.Parameter(torch.ones(2)), []

    def loss_of(batch: Any, count: Tensor) -> tuple[Tensor, Tensor]:
        return weight.sum() / count, torch.zeros(2)

    class Scope:
        def __init__(self, mode: str) -> None:
            self.mode = mode

        def __enter__(self) -> None:
            modes.append(self.mode)

        def __exit__(self, *_: Any) -> None:
            # Backward is done by now: half of a gradient is there when it fails.
            if self.mode == "compiled":
                raise RuntimeError("backward did not compile")

    weight.grad = torch.full((2,), 5.0)
    recorder = Recorder()
    step = Step(loss_of, Scope, [weight], compiled=True, graphs=False, note=recorder.note)
    batch = {"input_ids": torch.zeros(1, 8), "max_length_q": 8}
    step(batch, torch.tensor(2.0))
    assert weight.grad.tolist() == [5.5, 5.5]
    assert modes == ["compiled", "eager"]
    assert "backward did not compile" in recorder.notes[0]


def test_running_out_of_memory_is_no_compilers_failure() -> None:
    def loss_of(batch: Any, count: Tensor) -> tuple[Tensor, Tensor]:
        raise torch.OutOfMemoryError("full")

    class Scope:
        def __init__(self, mode: str) -> None:
            pass

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: Any) -> None:
            pass

    recorder = Recorder()
    step = Step(loss_of, Scope, [], compiled=True, graphs=False, note=recorder.note)
    with pytest.raises(torch.OutOfMemoryError):
        step({"input_ids": torch.zeros(1, 8), "max_length_q": 8}, torch.tensor(1.0))
    assert recorder.notes == []
