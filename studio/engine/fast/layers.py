"""What a model's linear layers become while the fast path is on.

Only the class of each changes: its parameters, their names and what is saved stay PEFT's own.
"""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from studio.engine.fast.dropout import Dropout
from studio.engine.fast.product import products
from studio.engine.fast.storage import decoded, parts_of

# Siblings that read the same input, in the order in which attention and MLP call them.
GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class FrozenLinear(nn.Module):
    """A frozen nn.Linear or Linear4bit; its weight lies in the buffers part0, part1, ..."""

    def parts(self) -> list[Tensor]:
        """See `storage`."""
        return [getattr(self, f"part{i}") for i in range(self.n_parts)]

    def forward(self, x: Tensor) -> Tensor:
        """x [..., k] to [..., n], without an adapter."""
        nothing = x.new_empty(0, self.in_features), x.new_empty(self.out_features, 0)
        (y,) = products(x, self.kind, self.parts(), nothing[:1], nothing[1:])
        return y if self.bias is None else y + self.bias


def freeze(linear: Any, float8: bool = False) -> None:
    """Turns a frozen linear layer into a FrozenLinear in place. A float8 one gives up its 16-bit
    weight. Raises ValueError where its weight is held in another way."""
    kind, parts = parts_of(linear, float8)
    if float8:
        linear.weight.data = linear.weight.data.new_empty(0)
    linear.plain_class = type(linear)
    linear.kind, linear.n_parts = kind, len(parts)
    for i, part in enumerate(parts):
        linear.register_buffer(f"part{i}", part, persistent=False)
    linear.__class__ = FrozenLinear


def thaw(linear: Any) -> None:
    """Undoes `freeze`. What was float8 comes back in 16 bits, as rounded as it was trained on."""
    if linear.kind == "float8":
        shape = linear.out_features, linear.in_features
        linear.weight.data = decoded(linear.parts(), "float8", *shape, linear.weight.dtype)
    for i in range(linear.n_parts):
        delattr(linear, f"part{i}")
    linear.__class__ = linear.plain_class
    del linear.plain_class, linear.kind, linear.n_parts


def share_codes(linears: list[Any]) -> None:
    """Lets all layers hold one copy of the code tables, which bitsandbytes makes for each."""
    seen: dict[tuple[int, int], Tensor] = {}
    for linear in linears:
        for i, part in enumerate(linear.parts()):
            if part.numel() in (16, 256) and part.dtype is torch.float32:
                known = seen.setdefault((i, part.numel()), part)
                if torch.equal(known, part):
                    setattr(linear, f"part{i}", known)


class FastLora(nn.Module, LoraLayer):
    """A LoRA layer of PEFT that computes base and adapter, its siblings' too, in one operator."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What PEFT's layer computes. The first of the siblings computes for all; the others then
        find their output waiting."""
        if self.disable_adapters:
            return self.base_layer(x)
        if kwargs or args or self.merged or len(self.active_adapters) != 1:
            return self.plain_class.forward(self, x, *args, **kwargs)
        first = self.siblings[0]
        if first is not self and first.waiting and first.waiting[0] is x:
            y: Tensor = first.waiting.pop(1)
            if len(first.waiting) == 1:
                first.waiting.clear()
            return y
        group = self.siblings if first is self else (self,)
        name = self.active_adapters[0]
        a = [m.lora_A[name].weight for m in group]
        b = [m.lora_B[name].weight * m.scaling[name] for m in group]
        drops = [m.lora_dropout[name] for m in group]
        drop = self.training and isinstance(drops[0], Dropout)
        ys = products(
            x,
            self.base_layer.kind,
            [part for m in group for part in m.base_layer.parts()],
            a,
            b,
            skip=self.again,
            drawn=[drops[0].draw, *(d.own for d in drops)] if drop else [],
            share=drops[0].share if drop else 0.0,
        )
        ys = [
            y if m.base_layer.bias is None else y + m.base_layer.bias
            for y, m in zip(ys, group, strict=True)
        ]
        if len(ys) > 1:
            self.waiting = [x, *ys[1:]]
        return ys[0]

    def merge(self, *_: Any, **__: Any) -> None:
        """Not while the fast path is on."""
        raise RuntimeError("Undo the fast path with restore() before merging the adapter.")


def quicken(layer: Any, draw: Tensor, number: int) -> None:
    """Turns PEFT's LoRA layer, whose base is frozen already, into a FastLora in place. `draw` and
    `number` are for its dropout; see `Dropout`."""
    layer.plain_class = type(layer)
    layer.__class__ = FastLora
    for name, module in layer.lora_dropout.items():
        if isinstance(module, nn.Dropout) and module.p > 0:
            layer.lora_dropout[name] = Dropout(module, module.p, draw, number)
    layer.waiting = []
    # True while a replay runs whose last product nobody reads; see `recognize.tail_of`.
    layer.again = False
    layer.siblings = (layer,)


def slow_down(layer: Any) -> None:
    """Undoes `quicken`."""
    layer.__class__ = layer.plain_class
    for name, module in layer.lora_dropout.items():
        if isinstance(module, Dropout):
            layer.lora_dropout[name] = module.plain_module[0]
    del layer.plain_class, layer.waiting, layer.again, layer.siblings


def group_siblings(root: nn.Module) -> None:
    """Joins the layers below `root` that read one input, where all of them have an adapter and
    hold their weights alike."""
    for parent in root.modules():
        for names in GROUPS:
            group = tuple(getattr(parent, name, None) for name in names)
            if not all(isinstance(member, FastLora) for member in group):
                continue
            alike = {(m.base_layer.kind, m.base_layer.n_parts) for m in group if m is not None}
            if len(alike) == 1:
                for member in group:
                    member.siblings = group  # type: ignore[union-attr]
