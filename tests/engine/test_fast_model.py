"""The fast path on whole models: the plain path's loss and gradients, and what it declines."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import aot_eager
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    Starcoder2Config,
)

from studio.engine.fast import Applied, Plan, Refused, apply
from studio.engine.fast.batch import Flat
from studio.engine.fast.dropout import Dropout
from studio.engine.fast.recognize import machine_reasons, read, recordable
from studio.engine.fast.runner import _KEEP_PRODUCTS
from studio.plan.shapes import unfit, unknown
from tests.engine.helpers import Recorder

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "smollm": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama-biased": lambda: LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=5),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=8),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=6),
    "phi3": lambda: Phi3Config(**SIZES, sliding_window=None),
}
DOCUMENTS = [list(range(3, 20)), list(range(40, 51)), [7], list(range(60, 90))]


def lora(config: Any, **changes: Any) -> Any:
    """A random model with a LoRA adapter whose B is not zero."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **changes}
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def examples() -> list[dict[str, Any]]:
    """Four documents in three rows, the middle row packed; of some nothing is learned at first."""
    first, second, third, fourth = DOCUMENTS
    return [
        {"input_ids": first, "labels": [-100] * 5 + first[5:]},
        {"input_ids": second + third, "labels": second + third, "seq_lengths": [11, 1]},
        {"input_ids": fourth, "labels": [-100] * 3 + fourth[3:]},
    ]


def plain_loss(model: Any, count: float) -> Tensor:
    """Each document by itself through transformers' own forward, summed and divided."""
    total = torch.zeros(())
    for ids, learned in zip(DOCUMENTS, (5, 0, 0, 3), strict=True):
        logits = model(input_ids=torch.tensor([ids])).logits[0]
        labels = torch.tensor([-100] * learned + ids[learned:])
        total = total + nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum")
    return total / count


def gradients(model: Any) -> dict[str, Tensor]:
    """The adapter's gradients; takes them away."""
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal but for float32's last digits."""
    assert found.keys() == expected.keys() and expected
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-4, atol=2e-6, msg=name)


def applied(model: Any, plan: Plan, recorder: Recorder | None = None) -> Applied:
    """The model on the fast path."""
    answer = apply(model, plan, (recorder or Recorder()).note, longest=30)
    assert isinstance(answer, Applied), answer
    return answer


COUNT = 11.0 + 10 + 26


def compare(model: Any, plan: Plan, tokens: int | None = None) -> Applied:
    """Runs both paths and asserts that they agree."""
    expected_loss = plain_loss(model, COUNT)
    expected_loss.backward()
    expected = gradients(model)
    recorder = Recorder()
    fast = applied(model, plan, recorder)
    batch = Flat(0, longest=30, tokens=tokens)(examples())
    loss, _ = fast.step(batch, torch.tensor(COUNT))
    torch.testing.assert_close(loss, expected_loss.detach(), rtol=1e-5, atol=1e-6)
    assert_same(gradients(model), expected)
    assert recorder.notes == []
    return fast


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("replay", [0, 2], ids=["kept", "replayed"])
def test_loss_and_gradients_are_those_of_the_plain_path(family: str, replay: int) -> None:
    compare(lora(FAMILIES[family]()), Plan(replay=replay))


@pytest.mark.parametrize("tokens", [None, 64, 100])
def test_what_fills_a_batch_up_changes_nothing(tokens: int | None) -> None:
    compare(lora(FAMILIES["llama"]()), Plan(tokens=tokens), tokens)


def test_micro_batches_add_up() -> None:
    model = lora(FAMILIES["qwen3"]())
    plain_loss(model, COUNT).backward()
    expected = gradients(model)
    fast = applied(model, Plan(replay=1))
    collate, count = Flat(0, longest=30), torch.tensor(COUNT)
    for example in examples():
        fast.step(collate([example]), count)
    assert_same(gradients(model), expected)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["q_proj", "down_proj", "gate_proj"]])
def test_layers_without_an_adapter_take_part(targets: list[str]) -> None:
    compare(lora(FAMILIES["llama"](), target_modules=targets), Plan(replay=3))


def test_rslora_scales_as_peft_does() -> None:
    compare(lora(FAMILIES["llama"](), use_rslora=True, r=9), Plan())


def dropping(replay: int = 0, compiled: bool = False, targets: Any = "all-linear") -> Any:
    """A model with LoRA's dropout on the fast path, and the batch of one document."""
    model = lora(FAMILIES["llama"](), lora_dropout=0.4, target_modules=targets)
    fast = applied(model, Plan(replay=replay, compile=compiled))
    return model, fast, Flat(0, longest=30)([{"input_ids": DOCUMENTS[3]}])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_dropout_draws_the_same_when_a_layer_runs_again(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.engine.fast.runner.inductor", aot_eager)
    losses, grads = [], []
    for replay in (0, 2):
        model, fast, batch = dropping(replay, compiled)
        for seed in (5, 5, 6):
            torch.manual_seed(seed)
            model.zero_grad()
            fast.draw()
            losses.append(fast.step(batch, torch.tensor(29.0)).loss.item())
            grads.append({k: v.clone() for k, v in gradients(model).items()})
        assert fast.step.how == ("compiled" if compiled else "not compiled")
    assert losses[0] == losses[1] == pytest.approx(losses[3]) and losses[0] != losses[2]
    assert losses[2] == pytest.approx(losses[5])
    assert_same(grads[3], grads[0])
    assert_same(grads[5], grads[2])


def test_dropout_has_the_gradients_of_pefts_own_with_the_same_drawn() -> None:
    model, fast, batch = dropping(targets=["q_proj", "v_proj", "down_proj"])
    fast.draw()
    loss = fast.step(batch, torch.tensor(29.0)).loss
    found = gradients(model)
    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    drawn = [m.lora_dropout["default"] for m in layers]
    assert all(isinstance(module, Dropout) for module in drawn)
    fast.restore()
    assert {type(m.lora_dropout["default"]) for m in layers} == {nn.Dropout}
    for layer, module in zip(layers, drawn, strict=True):
        layer.lora_dropout["default"] = module
    model.zero_grad()
    ids = torch.tensor([DOCUMENTS[3]])
    expected = model(input_ids=ids, labels=ids).loss
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
    assert_same(found, gradients(model))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_dropout_keeps_nothing_for_backward_once_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    def look(graph: Any, inputs: Any) -> Any:
        def forward(module: Any, _: Any) -> Any:
            made = next(n for n in module.graph.nodes if n.op == "output").args[0]
            values = [n.meta.get("val") for n in made if hasattr(n, "meta")]
            wide = [v for v in values if isinstance(v, Tensor) and 64 in v.shape]
            kept[-1] += sum(v.numel() * v.element_size() for v in wide)
            return make_boxed_func(module.forward)

        both = aot_autograd(
            fw_compiler=forward,
            bw_compiler=lambda module, _: make_boxed_func(module.forward),
            partition_fn=min_cut_rematerialization_partition,
        )
        with torch._functorch.config.patch(_KEEP_PRODUCTS):
            return both(graph, inputs)

    monkeypatch.setattr("studio.engine.fast.runner.inductor", look)
    for share in (0.0, 0.4):
        torch._dynamo.reset()
        kept.append(0)
        fast = applied(lora(FAMILIES["llama"](), lora_dropout=share), Plan(compile=True, tokens=64))
        fast.step(Flat(0, longest=30, tokens=64)(examples()), torch.tensor(COUNT))
        assert fast.step.how == "compiled"
    assert 0 < kept[1] <= kept[0]


def test_an_evaluation_drops_nothing() -> None:
    model, fast, batch = dropping()
    model.eval()
    first = fast.evaluate(batch, torch.tensor(29.0)).loss
    fast.draw()
    assert torch.equal(first, fast.evaluate(batch, torch.tensor(29.0)).loss)


# The compiler looks for a gradient at tensors that have none, and torch warns of that.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("tokens", [None, 64], ids=["any length", "one length"])
def test_compiled_layers_compute_the_same(
    family: str, tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced, split into forward and backward, but run by torch itself: seconds, not minutes.
    monkeypatch.setattr("studio.engine.fast.runner.inductor", aot_eager)
    fast = compare(lora(FAMILIES[family]()), Plan(compile=True, replay=1, tokens=tokens), tokens)
    assert fast.step.how == "compiled"


@pytest.mark.parametrize("double", [True, False], ids=["nested", "single"])
@pytest.mark.filterwarnings("ignore")
def test_four_bit_weights_give_bitsandbytes_loss_and_gradients(
    double: bool, tmp_path: Path
) -> None:
    sizes = SIZES | {"hidden_size": 64, "intermediate_size": 128}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).save_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )
    for module in base.modules():
        # As `train.build` does: the packed form has no gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    fast = compare(model, Plan(replay=1))
    fast.restore()
    compare(model, Plan())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_more_kinds_of_layers_than_the_compiler_takes_are_survived_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("studio.engine.fast.runner.inductor", aot_eager)
    ranks = {r"layers\.1\..*": 2, r"layers\.2\..*": 3}
    torch._dynamo.reset()
    compare(lora(FAMILIES["llama"](), rank_pattern=ranks), Plan(compile=True))
    monkeypatch.setattr("studio.engine.fast.runner._KINDS", 1)
    torch._dynamo.reset()
    recorder = Recorder()
    fast = applied(lora(FAMILIES["llama"](), rank_pattern=ranks), Plan(compile=True), recorder)
    fast.step(Flat(0, longest=30)(examples()), torch.tensor(COUNT))
    assert fast.step.how == "not compiled" and "uncompiled" in recorder.notes[0]


def test_a_failing_compiler_is_survived_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr("studio.engine.fast.runner.inductor", fails)
    model, recorder = lora(FAMILIES["llama"]()), Recorder()
    plain_loss(model, COUNT).backward()
    expected = gradients(model)
    fast = applied(model, Plan(compile=True), recorder)
    fast.step(Flat(0, longest=30)(examples()), torch.tensor(COUNT))
    assert_same(gradients(model), expected)
    assert len(recorder.notes) == 1 and "no C compiler" in recorder.notes[0]
    assert fast.step.how == "not compiled"


def test_what_a_cpu_can_not_is_told() -> None:
    recorder = Recorder()
    fast = applied(lora(FAMILIES["llama"]()), Plan(graphs=True, replay=99, host=True), recorder)
    assert "GPU only" in recorder.notes[0]
    assert fast.step.how == "not compiled"
    assert (fast.plan.replay, fast.plan.compile, fast.plan.graphs) == (3, False, False)


def test_evaluation_has_gradients_where_they_are_wanted() -> None:
    model = lora(FAMILIES["llama"]())
    plain_loss(model, COUNT).backward()
    expected = gradients(model)
    fast = applied(model, Plan(replay=2))
    loss, _ = fast.evaluate(Flat(0, longest=30)(examples()), torch.tensor(COUNT))
    loss.backward()
    assert_same(gradients(model), expected)


def declined(model: Any, plan: Plan | None = None) -> str:
    """Why the fast path declines the model."""
    answer = apply(model, plan or Plan(), Recorder().note, longest=30)
    assert isinstance(answer, Refused)
    return answer.reason


@pytest.mark.filterwarnings("ignore")  # peft's, about layers of other shapes
@pytest.mark.parametrize(
    ("config", "word"),
    [
        (lambda: Gemma2Config(**SIZES, head_dim=8), "soft-capped"),
        (lambda: MixtralConfig(**SIZES, num_local_experts=2), "experts"),
        (lambda: GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=2), "decoder"),
        (lambda: LlamaConfig(**SIZES, attention_dropout=0.1), "dropout"),
        (lambda: Phi3Config(**SIZES, resid_pdrop=0.1), "dropout"),
        (lambda: Gemma3TextConfig(**SIZES, head_dim=8, final_logit_softcapping=30.0), "logits"),
    ],
    ids=["gemma2", "mixtral", "gpt2", "attention", "residual", "capped"],
)
def test_models_that_it_declines(config: Any, word: str) -> None:
    model = lora(config())
    assert word in declined(model)


ELSEWHERE: dict[str, Any] = {
    **FAMILIES,
    "gemma": lambda: GemmaConfig(**SIZES, head_dim=8),
    "smollm3": lambda: SmolLM3Config(**SIZES),
    "granite": lambda: GraniteConfig(**SIZES),
    "gemma2": lambda: Gemma2Config(**SIZES, head_dim=8),
    "mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=2),
    "attention": lambda: LlamaConfig(**SIZES, attention_dropout=0.1),
    "residual": lambda: Phi3Config(**SIZES, resid_pdrop=0.1),
    "scaled": lambda: GraniteConfig(**SIZES, logits_scaling=8.0),
    "phi": lambda: PhiConfig(**SIZES),
    "olmo2": lambda: Olmo2Config(**SIZES),
    "starcoder2": lambda: Starcoder2Config(**SIZES),
}


@pytest.mark.filterwarnings("ignore")  # peft's, about layers of other shapes
@pytest.mark.parametrize("family", ELSEWHERE)
def test_the_plan_never_counts_on_a_fast_path_that_does_not_fit(family: str) -> None:
    config = ELSEWHERE[family]()
    anatomy, _ = read(lora(config))
    told = config.to_dict()
    if anatomy is None:
        assert unfit(told) or unknown(told)
    else:
        assert not unfit(told)
    if family in FAMILIES:
        assert anatomy is not None and not unknown(told)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "Biases"),
        ({"modules_to_save": ["lm_head"]}, "Whole modules"),
        ({"trainable_token_indices": [3, 4]}, "tokens"),
    ],
)
def test_adapters_that_it_declines(changes: dict[str, Any], word: str) -> None:
    assert word in declined(lora(FAMILIES["llama"](), **changes))


def test_more_that_it_declines() -> None:
    config = FAMILIES["llama"]()
    assert "no adapter" in declined(AutoModelForCausalLM.from_config(config))
    two = lora(config)
    two.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"]))
    assert "2 adapters" in declined(two)
    base = AutoModelForCausalLM.from_config(config)
    assert "IA3" in declined(get_peft_model(base, IA3Config(task_type="CAUSAL_LM")))
    norms = lora(config)
    norms.get_base_model().model.norm.weight.requires_grad_(True)
    assert "outside" in declined(norms)
    merged = lora(config)
    merged.merge_adapter()
    assert "merged" in declined(merged)
    odd = lora(config)
    odd.get_base_model().model.layers[1].mlp.extra = nn.Parameter(torch.zeros(3, 3))
    assert "does not know" in declined(odd)
    assert "GPU" in declined(lora(config), Plan(frozen="float8"))


def test_a_model_that_computes_something_else_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from studio.engine.fast import attention

    model = lora(FAMILIES["llama"]())
    ids = torch.tensor([DOCUMENTS[0]])
    before = model(input_ids=ids).logits
    attend = attention._sdpa
    monkeypatch.setattr(attention, "_sdpa", lambda *parts: attend(*parts) * 1.1)
    assert "something else" in declined(model)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert all("fast" not in type(m).__module__ for m in model.modules())


@pytest.mark.parametrize(
    ("capability", "dtype", "float8", "word"),
    [
        ((7, 5), torch.bfloat16, False, "too old"),
        ((8, 0), torch.float16, False, "float16"),
        ((8, 0), torch.float32, False, "float32"),
        ((8, 6), torch.bfloat16, True, "float8"),
        ((9, 0), torch.bfloat16, True, ""),
    ],
)
def test_gpus_that_can_not(
    capability: tuple[int, int],
    dtype: torch.dtype,
    float8: bool,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA T4")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    reasons = machine_reasons(torch.device("cuda"), dtype, float8)
    assert bool(reasons) == bool(word)
    assert word in " ".join(reasons)
    assert "mps" in machine_reasons(torch.device("mps"), dtype, float8)[0]


def test_rotary_embeddings_that_look_at_the_length_are_not_recorded() -> None:
    config = FAMILIES["llama"]()
    assert recordable(AutoModelForCausalLM.from_config(config).model)
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert not recordable(AutoModelForCausalLM.from_config(config).model)
    assert recordable(AutoModelForCausalLM.from_config(FAMILIES["gemma3"]()).model)
