"""trl's trainers, fed with rows that are prepared already, in an order that is known beforehand,
and with checkpoints that are whole or absent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft.optimizers import create_loraplus_optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOTrainer, KTOTrainer

from studio.engine import ranks
from studio.engine.batches import Order, digest
from studio.engine.fast import FastTrainer
from studio.engine.gauges import Gauges
from studio.engine.load import Hardware
from studio.engine.quick import AS_PLAIN
from studio.engine.ranks import slant
from studio.engine.report import Report
from studio.engine.whole import WholeCheckpoints
from studio.settings import Settings
from studio.spec import RunSpec


class Base(WholeCheckpoints):
    """What all of them have in common; `order` is set by `train.build`, `told`
    and `gauges` by `train.train`."""

    model: Any
    optimizer: Any
    order: Order
    told: Callable[[str], None] | None = None
    gauges: Gauges | None = None
    # LoRA+: how much faster B learns than A.
    loraplus_lr_ratio: float = 1.0
    # AdaLoRA: how strongly its directions are kept apart.
    orth_reg_weight: float = 0.0

    def create_optimizer(self, model: Any = None) -> Any:
        """peft's optimizer for LoRA+, where that is asked for."""
        if self.loraplus_lr_ratio == 1 or self.optimizer is not None:
            return super().create_optimizer(model)  # type: ignore[misc]
        kind, arguments = self.get_optimizer_cls_and_kwargs(self.args, self.model)  # type: ignore[attr-defined]
        self.optimizer = create_loraplus_optimizer(
            self.model,
            kind,
            loraplus_lr_ratio=self.loraplus_lr_ratio,
            loraplus_weight_decay=self.args.weight_decay,
            **arguments,
        )
        return self.optimizer

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with ranks.whole(self.model):
            super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        ranks.keep(self.model, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is not None:
            ranks.take_up(self.model, Path(checkpoint))

    def _load_best_model(self) -> None:
        with ranks.whole(self.model):
            super()._load_best_model()  # type: ignore[misc]
        ranks.take_up(self.model, Path(self.state.best_model_checkpoint))

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        """As it is: what the preview showed is what is trained."""
        return dataset

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Order:
        """Our order; accelerate leaves a sampler that is not torch's own as it is."""
        return self.order

    def evaluate(self, *rest: Any, **more: Any) -> Any:
        """Only looks: the steps after it meet the chance that they would have met without it."""
        with torch.random.fork_rng():
            return super().evaluate(*rest, **more)  # type: ignore[misc]

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        """With the pull of AdaLoRA on its directions, while training."""
        loss = super().compute_loss(model, inputs, *rest, **more)  # type: ignore[misc]
        if not (self.orth_reg_weight and self.model.training):
            return loss
        pull = self.orth_reg_weight * slant(self.model)
        if self._is_share(more.get("num_items_in_batch")):
            # The losses of a step's batches are added up, and the pull is to count once.
            pull = pull / self.current_gradient_accumulation_steps  # type: ignore[attr-defined]
        # Only its gradient: what is told stays the loss of the rows, as in an evaluation.
        return loss + (pull - pull.detach())

    def _is_share(self, counted: Any) -> bool:
        """Whether a batch's loss is a share of the step's already, or `Trainer` makes it one; by
        the rule that it goes by itself. `counted` are the step's tokens, where they are counted."""
        said: bool | None = self.loss_is_scaled_for_ga  # type: ignore[attr-defined]
        if said is not None:
            return said
        return self.model_accepts_loss_kwargs and counted is not None  # type: ignore[attr-defined]

    def training_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        """Tells the first batch's digest, as the trainer got it."""
        plain = inputs.pop(AS_PLAIN, None) if isinstance(inputs, dict) else None
        if self.told is not None:
            told, self.told = self.told, None
            told(digest(plain() if plain else inputs))
        if self.gauges is not None:
            self.gauges.batch(inputs)
        return super().training_step(model, inputs, *rest, **more)  # type: ignore[misc]


class Sft(Base, FastTrainer):
    """Learns answers; on the fast path where `quick.engage` switches it on."""


class Dpo(Base, DPOTrainer):
    """Learns which of two answers is the better one."""


class Kto(Base, KTOTrainer):
    """Learns from answers that are marked good or bad."""


def trainer_class(name: str) -> Any:
    """The class of a trainer. Those with a file of their own are loaded when they are wanted."""
    match name:
        case "orpo":
            from studio.engine.orpo import Orpo

            return Orpo
        case "reward":
            from studio.engine.reward import Reward

            return Reward
        case "grpo":
            from studio.engine.grpo import Grpo

            return Grpo
    return {"sft": Sft, "cpt": Sft, "dpo": Dpo, "kto": Kto}[name]


def own_arguments(
    spec: RunSpec, settings: Settings, where: Hardware, report: Report
) -> dict[str, Any]:
    """What only the trainer of `spec` is given: the rewards of grpo. Raises StudioError."""
    if spec.train.trainer != "grpo":
        return {}
    from studio.engine.reward import load_scorer
    from studio.engine.rewards import rewards

    scorer = None
    if spec.grpo.reward_model_weight:
        scorer = load_scorer(spec.grpo.reward_model, settings, where, report)
    return {"reward_funcs": rewards(spec.grpo, scorer)}


class EpochOfOrder(TrainerCallback):
    """Tells the order which epoch begins: where batches are skipped after a resume, accelerate's
    own way of telling it does not get through."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """`state.epoch` counts what is done: in the middle of the third epoch it is 2.5."""
        self._order.set_epoch(int((state.epoch or 0.0) + 1e-6))
