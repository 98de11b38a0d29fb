"""ORPO: learns the better answer and, in the same step, that it is the better one."""

from typing import Any

from datasets import Dataset
from peft import get_peft_model
from transformers import set_seed
from trl.experimental.orpo import ORPOTrainer

from studio.engine.encode import IGNORED
from studio.engine.trainers import Base


class Orpo(Base, ORPOTrainer):
    """trl's trainer, which would tokenize the rows itself, fed with batches of pairs like dpo."""

    _tokens = 0

    def __init__(
        self,
        *,
        model: Any,
        args: Any,
        train_dataset: Dataset,
        eval_dataset: Dataset | None,
        peft_config: Any,
        **rest: Any,
    ) -> None:
        set_seed(args.seed)
        if peft_config is not None:
            # trl would cast all that is not quantized to float32 first.
            model = get_peft_model(model, peft_config)
        super().__init__(
            model=model,
            args=args,
            # No row to tokenize: they come after it.
            train_dataset=train_dataset.select([]),
            eval_dataset=eval_dataset.select([]) if eval_dataset else None,
            peft_config=None,
            **rest,
        )
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset

    def get_batch_loss_metrics(
        self, model: Any, batch: Any, train_eval: Any = "train"
    ) -> tuple[Any, dict[str, float]]:
        """The loss of a batch whose first half are the better answers, whose second the others."""
        half = len(batch["input_ids"]) // 2
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
        split = {}
        for side, part in (("chosen", slice(half)), ("rejected", slice(half, None))):
            split[f"{side}_input_ids"] = batch["input_ids"][part]
            split[f"{side}_attention_mask"] = batch["attention_mask"][part]
            split[f"{side}_labels"] = labels[part]
        if train_eval == "train":
            self._tokens += int(batch["attention_mask"].sum())
        return super().get_batch_loss_metrics(model, split, train_eval)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Tells the tokens that were seen, which trl's other trainers tell too."""
        if "loss" in logs:
            logs["num_tokens"] = self._tokens
        super().log(logs, start_time)
