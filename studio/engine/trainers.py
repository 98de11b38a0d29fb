"""trl's trainers, fed with rows that are prepared already, in an order that is known beforehand,
and with checkpoints that are whole or absent."""

from collections.abc import Callable
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOTrainer, KTOTrainer, SFTTrainer

from studio.engine.batches import Order, digest
from studio.engine.whole import WholeCheckpoints


class _Prepared(WholeCheckpoints):
    """What all of them have in common; `order` and `told` are set by `train.build`."""

    order: Order
    told: Callable[[str], None] | None = None

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        """As it is: what the preview showed is what is trained."""
        return dataset

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Order:
        """Our order; accelerate leaves a sampler that is not torch's own as it is."""
        return self.order

    def training_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        """Tells the first batch's digest, as the trainer got it."""
        if self.told is not None:
            told, self.told = self.told, None
            told(digest(inputs))
        return super().training_step(model, inputs, *rest, **more)  # type: ignore[misc]


class Sft(_Prepared, SFTTrainer):
    """Learns answers."""


class Dpo(_Prepared, DPOTrainer):
    """Learns which of two answers is the better one."""


class Kto(_Prepared, KTOTrainer):
    """Learns from answers that are marked good or bad."""


TRAINERS: dict[str, Any] = {"sft": Sft, "dpo": Dpo, "kto": Kto}


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
