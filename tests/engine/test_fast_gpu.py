"""The fast path on a GPU: kernels, and whole steps against float32. `pytest -m gpu`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen3Config,
)

from studio.engine.fast import Applied, Plan, apply
from studio.engine.fast.batch import Flat
from studio.engine.fast.replay import HostStash

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]
SIZES = {
    "vocab_size": 1000,
    "hidden_size": 512,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "initializer_range": 0.05,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=50),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=64),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, head_dim=64, sliding_window=64),
    "phi3": lambda: Phi3Config(**SIZES, sliding_window=None),
}
LENGTHS = [120, 37, 1, 260, 75]
COUNT = float(sum(LENGTHS) - len(LENGTHS))


def loaded(
    folder: Path, quantization: str, dtype: torch.dtype = torch.bfloat16, dropout: float = 0.0
) -> Any:
    """The folder's model with an adapter whose B is not zero; the same numbers every time."""
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    base = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": 0},
        quantization_config=quantized if quantization == "nf4" else None,
    )
    torch.manual_seed(0)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=8,
        lora_alpha=16,
        lora_dropout=dropout,
        target_modules="all-linear",
    )
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.05)
            parameter.data = parameter.data.float()
    return model


def saved(family: str, folder: Path) -> Path:
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(FAMILIES[family](), dtype=torch.bfloat16).save_pretrained(
        folder
    )
    return folder


def documents() -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, 1000, (n,), generator=generator).tolist() for n in LENGTHS]


def plain(model: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients through transformers and PEFT alone, each document by itself."""
    total = torch.zeros((), device="cuda")
    for ids in documents():
        row = torch.tensor([ids], device="cuda")
        logits = model(input_ids=row).logits[0].float()
        total = total + nn.functional.cross_entropy(logits[:-1], row[0, 1:], reduction="sum")
    loss = total / COUNT
    loss.backward()
    return float(loss), gradients(model)


def gradients(model: Any) -> dict[str, Tensor]:
    found = {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The relative distance of all gradients together."""
    above = sum(float((found[n] - expected[n]).norm() ** 2) for n in expected)
    return float((above / sum(float(e.norm() ** 2) for e in expected.values())) ** 0.5)


def truth(folder: Path, quantization: str) -> tuple[float, dict[str, Tensor]]:
    """The same weights in float32 throughout."""
    model = loaded(folder, "none", torch.float32)
    if quantization == "nf4":
        from bitsandbytes.functional import dequantize_4bit

        coarse = dict(loaded(folder, "nf4").named_modules())
        for name, module in model.named_modules():
            weight = getattr(coarse[name], "weight", None)
            if getattr(weight, "quant_state", None) is not None:
                module.weight.data = dequantize_4bit(weight.data, weight.quant_state).float()
    return plain(model)


def steps(model: Any, plan: Plan, number: int) -> tuple[list[float], list[dict[str, Tensor]], Any]:
    notes: list[str] = []
    fast = apply(model, plan, notes.append, longest=384)
    assert isinstance(fast, Applied), fast
    rows = [{"input_ids": ids} for ids in documents()]
    flat = Flat(0, longest=384, tokens=plan.tokens)(rows)
    batch = {k: v.to("cuda") if isinstance(v, Tensor) else v for k, v in flat.items()}
    losses, grads = [], []
    for _ in range(number):
        losses.append(float(fast.step(batch, torch.tensor(COUNT, device="cuda")).loss))
        grads.append(gradients(model))
    assert notes == []
    return losses, grads, fast


PLANS = {
    "eager": Plan(compile=False, graphs=False),
    "compiled": Plan(graphs=False),
    "recorded": Plan(),
    "one length": Plan(tokens=1024),
    "replayed": Plan(replay=2),
    "on the host": Plan(replay=3, host=True),
}


@pytest.mark.parametrize("how", PLANS)
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_as_close_to_float32_as_the_plain_path(how: str, quantization: str, tmp_path: Path) -> None:
    torch._dynamo.reset()
    folder = saved("llama", tmp_path)
    expected_loss, expected = truth(folder, quantization)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        plain_loss, plain_gradients = plain(loaded(folder, quantization))
    losses, found, fast = steps(loaded(folder, quantization), PLANS[how], 5)
    noise = apart(plain_gradients, expected)
    for loss, gradient in zip(losses, found, strict=True):
        assert abs(loss - expected_loss) < 2 * abs(plain_loss - expected_loss) + 5e-3
        assert apart(gradient, expected) < 1.3 * noise
    assert fast.step.how == (
        "not compiled" if how == "eager" else "compiled" + ", recorded" * (how != "compiled")
    )


@pytest.mark.parametrize("how", PLANS)
def test_dropout_draws_the_same_however_it_runs(how: str, tmp_path: Path) -> None:
    torch._dynamo.reset()
    folder = saved("llama", tmp_path)
    losses, grads, _ = steps(loaded(folder, "none", dropout=0.2), PLANS["eager"], 1)
    found_losses, found, _ = steps(loaded(folder, "none", dropout=0.2), PLANS[how], 4)
    _, undropped, _ = steps(loaded(folder, "none"), PLANS["eager"], 1)
    assert apart(undropped[0], grads[0]) > 0.5
    for loss, gradient in zip(found_losses, found, strict=True):
        assert abs(loss - losses[0]) < 0.02
        assert apart(gradient, grads[0]) < 0.04


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("plan", [Plan(), Plan(replay=3, host=True)], ids=["kept", "replayed"])
def test_every_family(family: str, plan: Plan, tmp_path: Path) -> None:
    torch._dynamo.reset()
    folder = saved(family, tmp_path)
    expected_loss, expected = truth(folder, "none")
    losses, found, _ = steps(loaded(folder, "none"), plan, 4)
    for loss, gradient in zip(losses, found, strict=True):
        assert abs(loss - expected_loss) < 0.02
        assert apart(gradient, expected) < 0.04


def test_float8_within_its_tolerance(tmp_path: Path) -> None:
    torch._dynamo.reset()
    folder = saved("llama", tmp_path)
    expected_loss, expected = truth(folder, "none")
    _, nf4 = truth(folder, "nf4")
    losses, found, _ = steps(loaded(folder, "none"), Plan(frozen="float8"), 4)
    # Less than what nf4's rounding of the weights does.
    assert apart(found[-1], expected) < apart(nf4, expected)
    assert abs(losses[-1] - expected_loss) < 0.05


@pytest.mark.parametrize("nested", [True, False])
def test_four_bit_weights_decode_bit_by_bit(nested: bool) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    from studio.engine.fast.storage import four_bit_decoded

    w = torch.randn(1000, 576, device="cuda", dtype=torch.bfloat16)
    packed, state = quantize_4bit(w, blocksize=64, compress_statistics=nested, quant_type="nf4")
    parts = [packed.view(-1), state.absmax, state.code.float()]
    if nested:
        parts += [state.state2.absmax, state.state2.code, state.offset]
    found = four_bit_decoded(parts, 1000, 576, torch.bfloat16)
    assert torch.equal(found, dequantize_4bit(packed, state))


def test_kernels_compute_what_torch_computes() -> None:
    from studio.engine.fast import kernels
    from studio.engine.fast.head import _rows

    logits = torch.randn(37, 5003, device="cuda", dtype=torch.bfloat16) * 3
    labels = torch.randint(-1, 5003, (37,), device="cuda")
    labels[5] = logits[5].argmax()
    inverse = torch.tensor(0.25, device="cuda")
    slow, fast = logits.cpu(), logits.clone()
    expected = _rows(slow, labels.cpu(), inverse.cpu())
    found = kernels.cross_entropy(fast, labels, inverse).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fast.cpu(), slow, rtol=1e-2, atol=1e-6)
    w = torch.randint(0, 255, (300, 500), device="cuda", dtype=torch.uint8)
    assert torch.equal(kernels.bytes_transposed(w), w.t())


@pytest.mark.parametrize("width", [260, 1001])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_thin_products_and_their_dropout(width: int, share: float) -> None:
    from studio.engine.fast import kernels
    from studio.engine.fast.dropout import dropped, growth, limit

    shapes = ((130, width), (130, 9), (9, width))
    y, u, v = (torch.randn(*s, device="cuda").bfloat16() for s in shapes)
    draw, own = (torch.tensor(n, device="cuda") for n in (2**31 - 5, 223))
    drawn = (draw, own, limit(share), growth(share))
    added, left = (
        dropped(w, draw, own, share, True) * growth(share)
        for w in (u.double() @ v.double(), y.double())
    )
    expected, read = y.double() + added, left @ v.double().t()
    found = kernels.thin_of_dropped(y, v, drawn)
    torch.testing.assert_close(found.double(), read, rtol=1e-2, atol=5e-2)
    kernels.thin_add(y, u, v, drawn if share else None)
    torch.testing.assert_close(y.double(), expected, rtol=1e-2, atol=1e-2)


def test_what_a_slot_was_stays_once_a_longer_batch_has_outgrown_it() -> None:
    stash = HostStash(torch.device("cuda"))
    short, long = (torch.full((1, n, 8), float(n), device="cuda") for n in (4, 6))
    stash.put(0, short)
    was = stash._slots[0]
    stash.put(0, long)
    assert stash._outgrown == [was] and stash._slots[0] is not was
    assert torch.equal(stash.take(0, long.shape), long)
