"""Switches a model to the fast path, in place, and back."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from studio.engine.fast import layers
from studio.engine.fast.attention import HAS_WINDOW
from studio.engine.fast.batch import Flat
from studio.engine.fast.head import head_loss
from studio.engine.fast.plan import Plan, Refused
from studio.engine.fast.recognize import Anatomy, machine_reasons, read, recordable
from studio.engine.fast.replay import HostStash
from studio.engine.fast.runner import Mode, Runner
from studio.engine.fast.step import Batch, Figures, Note, Step

# How far the fast path's logits may lie from the plain one's, as a share of their norm. bfloat16
# leaves some hundredths after some dozen layers; a part that works otherwise leaves far more.
_TOLERANCE = {torch.float32: 1e-3}
_TOLERANCE_16 = 0.1


class Applied:
    """A model on the fast path. Its adapter is saved, evaluated and switched off as ever."""

    def __init__(self, model: Any, anatomy: Anatomy, plan: Plan, note: Note, draw: Tensor) -> None:
        self._model, self._anatomy, self.plan = model, anatomy, plan
        self._draw = draw
        device = anatomy.head.device
        stash = HostStash(device) if plan.host and plan.replay and device.type == "cuda" else None
        self._runner = Runner(anatomy, plan.replay, stash, dynamic=plan.tokens is None)
        self.step = Step(
            self.loss,
            self.scope,
            [p for p in model.parameters() if p.requires_grad],
            compiled=bool(plan.compile),
            graphs=bool(plan.graphs),
            note=note,
        )

    def draw(self) -> None:
        """Draws for the next micro-batch what dropout leaves, by torch's own generator, whose state
        a checkpoint holds."""
        self._draw.fill_(int(torch.randint(2**31, ())))

    def scope(self, mode: Mode, *, replay: bool = True) -> Any:
        """See `Runner.on`; `hidden` and `loss` work within it only."""
        return self._runner.on(mode, replay=replay)

    def hidden(self, batch: Batch) -> Tensor:
        """The decoder's output [T, h] for a batch of `Flat`."""
        trunk = self._anatomy.trunk
        embedded = trunk.embed_tokens(batch["input_ids"])
        if torch.is_grad_enabled() and not embedded.requires_grad:
            # The first layer's input then looks to the compiler like every other's.
            embedded.requires_grad_()
        return trunk(
            inputs_embeds=embedded,
            position_ids=batch["position_ids"],
            cu_seq_lens_q=batch["cu_seq_lens_q"],
            max_length_q=batch["max_length_q"],
            use_cache=False,
        ).last_hidden_state[0]

    def loss(self, batch: Batch, count: Tensor) -> tuple[Tensor, Tensor]:
        """See `head_loss`; `count` is the number of scored tokens that the sum is divided by."""
        labels = batch["labels"][0]
        shifted = torch.cat((labels[1:], labels.new_full((1,), -100)))
        return head_loss(self.hidden(batch), self._anatomy.head, shifted, count, self.plan.chunk)

    def evaluate(self, batch: Batch, count: Tensor) -> Figures:
        """Loss and sums, differentiable where gradients are on. Not compiled: evaluation comes in
        shapes of its own, and each would be compiled for."""
        with self.scope("eager", replay=False):
            return Figures(*self.loss(batch, count))

    def restore(self) -> None:
        """Gives back the plain model, adapter and all. float8 weights stay as rounded as they
        are."""
        self.step.forget()
        self._runner.remove()
        for layer in self._anatomy.adapted:
            layers.slow_down(layer)
            layers.thaw(layer.base_layer)
        for linear in self._anatomy.bare:
            layers.thaw(linear)


def apply(model: Any, plan: Plan, note: Note, longest: int) -> Applied | Refused:
    """Switches a PEFT LoRA model to the fast path, before its optimizer is made.

    `longest` is the longest document's number of tokens; `note` hears what was not possible. The
    model is as it was where the answer is Refused.
    """
    anatomy, reasons = read(model)
    if anatomy is None:
        return Refused(tuple(reasons))
    device, dtype = anatomy.head.device, anatomy.head.dtype
    float8 = plan.frozen == "float8"
    reasons = machine_reasons(device, dtype, float8) + _window_reasons(anatomy, device, longest)
    if not reasons and device.type == "cuda":
        reasons = _kernel_reasons(device, float8)
    if float8 and any(hasattr(m.base_layer.weight, "quant_state") for m in anatomy.adapted):
        reasons.append("The weights are 4-bit already; float8 starts from 16-bit weights.")
    if reasons:
        return Refused(tuple(reasons))
    plan = _resolved(plan, anatomy, note)
    # Compared without dropout; what is not refused is trained from here on.
    model.eval()
    expected = _plain_logits(model)
    linears = [*(m.base_layer for m in anatomy.adapted), *anatomy.bare]
    draw = torch.zeros((), dtype=torch.int64, device=device)
    _switch(anatomy, linears, draw)
    applied = Applied(model, anatomy, plan, note, draw)
    wrong = _wrong(applied, anatomy, expected)
    model.train()
    if wrong:
        applied.restore()
        return Refused((wrong,))
    if float8:
        for linear in linears:
            layers.thaw(linear)
            layers.freeze(linear, float8=True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            # A step of 2e-4 is lost in a bfloat16 adapter's last digit.
            parameter.data = parameter.data.float()
    return applied


def _wrong(applied: Applied, anatomy: Anatomy, expected: Tensor) -> str:
    """Why the switched model must not be trained; nothing where its logits are the plain ones."""
    try:
        off = _distance(applied, anatomy, expected)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        return f"It fails on this model: {(str(error).splitlines() or [''])[0]}"
    if off <= _TOLERANCE.get(anatomy.head.dtype, _TOLERANCE_16):
        return ""
    return f"On this model it computes something else (its logits are {off:.0%} off)."


def _switch(anatomy: Anatomy, linears: list[Any], draw: Tensor) -> None:
    for linear in linears:
        layers.freeze(linear)
    layers.share_codes(linears)
    for number, layer in enumerate(anatomy.adapted):
        layers.quicken(layer, draw, number)
    layers.group_siblings(anatomy.trunk.layers)


def _resolved(plan: Plan, anatomy: Anatomy, note: Note) -> Plan:
    """The plan with every None decided for this machine."""
    cuda = anatomy.head.device.type == "cuda"
    graphs = cuda and plan.graphs is not False
    if not cuda and (plan.graphs or plan.host):
        note("Steps are recorded, and layer inputs kept on the host, for a GPU only.")
    if graphs and not recordable(anatomy.trunk):
        note("Its rotary embeddings depend on the length, so steps are not recorded.")
        graphs = False
    return replace(
        plan,
        compile=cuda if plan.compile is None else plan.compile,
        graphs=graphs,
        replay=min(plan.replay, len(anatomy.layers)),
    )


def _window_reasons(anatomy: Anatomy, device: torch.device, longest: int) -> list[str]:
    windows = {getattr(x.self_attn, "sliding_window", None) for x in anatomy.layers}
    least = min((w for w in windows if w), default=longest)
    if device.type == "cuda" and not HAS_WINDOW and least < longest:
        return ["Its attention slides, which this torch's variable-length attention does not do."]
    return []


def _kernel_reasons(device: torch.device, float8: bool) -> list[str]:
    """Tries what a driver, a missing C compiler or an old torch could fail at."""
    try:
        from studio.engine.fast import kernels
    except ImportError as error:
        return [f"Triton, which its kernels are written in, is not there: {error}"]
    try:
        return _kernels_tried(kernels, device, float8)
    except (RuntimeError, OSError, AssertionError, kernels.TritonError) as error:
        return [f"Its kernels do not run here: {(str(error).splitlines() or [''])[0]}"]


def _kernels_tried(kernels: Any, device: torch.device, float8: bool) -> list[str]:
    y = torch.zeros(64, 128, device=device, dtype=torch.bfloat16)
    u, v = (torch.ones(*shape, device=device).bfloat16() for shape in ((64, 16), (16, 128)))
    kernels.thin_add(y, u, v)
    if not bool((y == 16).all()):
        return ["Triton's kernels compute something else on this GPU."]
    if float8:
        x = torch.ones(64, 128, device=device).to(torch.float8_e4m3fn)
        scale = torch.ones(64, 1, device=device)
        torch._scaled_mm(x, x.t(), scale_a=scale, scale_b=scale.t(), out_dtype=torch.bfloat16)
    return []


def _sample(vocabulary: int, device: torch.device) -> tuple[list[list[int]], torch.device]:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(0, vocabulary, (60,), generator=generator).tolist()
    return [draw[:24], draw[24:]], device


@torch.no_grad()
def _plain_logits(model: Any) -> Tensor:
    """The plain path's logits [60, V] for two documents, as padded rows."""
    head = model.get_output_embeddings().weight
    documents, device = _sample(head.shape[0], head.device)
    width = max(map(len, documents))
    ids = torch.tensor([d + [0] * (width - len(d)) for d in documents], device=device)
    mask = torch.tensor([[1] * len(d) + [0] * (width - len(d)) for d in documents], device=device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits[mask.bool()].float()


@torch.no_grad()
def _distance(applied: Applied, anatomy: Anatomy, expected: Tensor) -> float:
    """The relative distance of the fast path's logits for the same documents, packed."""
    documents, device = _sample(anatomy.head.shape[0], anatomy.head.device)
    rows = [{"input_ids": d} for d in documents]
    flat = Flat(0, longest=64, tokens=sum(map(len, documents)))(rows)
    batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in flat.items()}
    with applied.scope("eager"):
        logits = (applied.hidden(batch) @ anatomy.head.t()).float()
    return float((logits - expected).norm() / expected.norm())
