"""TRL's SFTTrainer with the fast path's micro-batch in it; without `engage` it is TRL's own."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pyarrow.compute as pc
import torch
from torch import Tensor
from transformers.training_args import OptimizerNames
from trl import SFTTrainer

from studio.engine.fast.apply import Applied, apply
from studio.engine.fast.batch import Flat
from studio.engine.fast.plan import Plan, Refused
from studio.engine.fast.step import Figures, Note

_ROUND = 128  # tokens of a tile of the attention kernel


class FastTrainer(SFTTrainer):
    """Everything around a micro-batch is TRL's: data, optimizer, clipping, logs, checkpoints."""

    fast: Applied | None = None

    def engage(self, plan: Plan, note: Note) -> Applied | Refused:
        """Switches to the fast path, before `train`. Refused leaves everything as it was."""
        reasons = self._reasons()
        if reasons:
            return Refused(tuple(reasons))
        fixed = plan.compile or plan.graphs or self.args.device.type == "cuda"
        if plan.tokens is None and self.args.packing and fixed:
            tokens = self.args.per_device_train_batch_size * self.args.max_length
            plan = replace(plan, tokens=tokens)
        if self.args.activation_checkpointing and not plan.replay:
            plan = replace(plan, replay=self.model.config.get_text_config().num_hidden_layers)
        longest = -(-self._longest() // _ROUND) * _ROUND
        applied = apply(self.model, plan, note, longest)
        if isinstance(applied, Refused):
            return applied
        # Counted now: the fast form of a weight is no parameter.
        self._parameters = self.model.num_parameters(exclude_embeddings=True)
        self.data_collator = Flat(
            self._tokenizer.pad_token_id, longest, plan.tokens, exact=not fixed
        )
        self._settle_arguments()
        self._sums: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self.fast = applied
        return applied

    def _settle_arguments(self) -> None:
        # Replayed layers take its place. It has two names, and transformers reads the new one.
        self.args.activation_checkpointing = self.args.gradient_checkpointing = False
        # A copy that the host waits for would let the GPU run dry at every micro-batch.
        self.accelerator.dataloader_config.non_blocking = True
        if self.args.optim == OptimizerNames.ADAMW_TORCH and self.args.device.type == "cuda":
            self.args.optim = OptimizerNames.ADAMW_TORCH_FUSED  # the same numbers in one kernel

    def _reasons(self) -> list[str]:
        args = self.args
        wrong = {
            "Several GPUs train together.": args.world_size > 1,
            "The loss is not the plain one.": args.loss_type != "nll"
            or args.label_smoothing_factor > 0
            or self.compute_loss_func is not None,
            "NEFTune's noise depends on the padding, which the fast path does not have.": bool(
                args.neftune_noise_alpha
            ),
            "It trains in float16.": args.fp16,
            "Activations are offloaded; replay layers instead.": args.activation_offloading,
            "The whole model is compiled already.": args.torch_compile,
            "Logits are asked for.": self.compute_metrics is not None,
        }
        return [reason for reason, holds in wrong.items() if holds]

    def _longest(self) -> int:
        """The longest document's number of tokens, training and evaluation."""
        sets = [self.train_dataset, self.eval_dataset]
        flat = [d for s in sets for d in (s.values() if isinstance(s, dict) else [s])]
        return max(_longest_of(data, self.args.max_length) for data in flat if data is not None)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward of a micro-batch; its share of the step's loss."""
        if self.fast is None:
            return super().training_step(model, inputs, num_items_in_batch)
        if not model.training:
            model.train()
        batch = self._prepare_inputs(inputs)
        self.fast.draw()
        figures = self.fast.step(batch, self._count(batch, num_items_in_batch, training=True))
        self._keep("train", figures, batch)
        self._total_train_tokens += batch["num_tokens"]
        return figures.loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch; on the fast path for batches of its own collator."""
        if self.fast is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        count = self._count(inputs, num_items_in_batch, training=False)
        figures = self.fast.evaluate(inputs, count)
        self._keep("train" if model.training else "eval", figures, inputs)
        return figures.loss

    def _count(self, batch: dict[str, Any], given: Any, *, training: bool) -> Tensor:
        """The number of scored tokens by which the batch's sum is divided."""
        if given is not None:
            return torch.as_tensor(given, device=batch["labels"].device).float().reshape(())
        scored = (batch["labels"][0, 1:] >= 0).sum().clamp(min=1).float()
        return scored * self.current_gradient_accumulation_steps if training else scored

    def _keep(self, mode: str, figures: Figures, batch: dict[str, Any]) -> None:
        # Left on the GPU until somebody logs: a look at them now would make the host wait.
        scored = (batch["labels"][0, 1:] >= 0).sum()
        self._sums[mode].append((figures.sums, scored))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what TRL adds: entropy, accuracy, tokens so far."""
        if self.fast is not None:
            mode = "train" if self.model.training else "eval"
            kept = self._sums.pop(mode, [])
            if kept:
                sums = torch.stack([s for s, _ in kept]).sum(0)
                scored = torch.stack([n for _, n in kept]).sum().clamp(min=1)
                entropy, accuracy = (sums / scored).tolist()
                self._metrics[mode]["entropy"] = [entropy]
                self._metrics[mode]["mean_token_accuracy"] = [accuracy]
                self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """transformers' own estimate, without a walk over all modules at every micro-batch."""
        if self.fast is None:
            return int(super().floating_point_ops(inputs))
        return int(6 * inputs["input_ids"].numel() * self._parameters)


def _longest_of(data: Any, otherwise: int | None) -> int:
    table = getattr(data, "data", None)
    if table is None:  # a stream: nobody knows
        return otherwise or 1024
    if "seq_lengths" in table.column_names:
        return int(pc.max(pc.list_flatten(table.column("seq_lengths"))).as_py())
    return int(pc.max(pc.list_value_length(table.column("input_ids"))).as_py())
