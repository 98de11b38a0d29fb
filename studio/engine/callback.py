"""The trainer's callback: turns what the trainer says into events, and a stop file into a stop."""

import math
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from studio.engine.report import Reporter
from studio.errors import StudioError

# What the trainers dpo and kto tell besides the loss.
_METRICS = (
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen",
    "logps/rejected", "kl",
)  # fmt: skip


class StudioCallback(TrainerCallback):
    """Writes a run's events. A step costs it one look for the stop file."""

    def __init__(self, report: Reporter, facts: dict[str, Any], before: int = 0) -> None:
        """`facts` goes into the start event: rows, parameters, device; `before` are the tokens that
        an earlier attempt saw."""
        self._report = report
        self._facts = facts
        self._step_began = 0.0
        self._busy_s = 0.0
        self._before = self._tokens = before
        self._evaluated = 0
        self.stopped = False
        self.eval_loss: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The length of the run is known now."""
        self._report.current = "training"
        self._report.event(
            "start",
            max_steps=state.max_steps,
            num_train_epochs=args.num_train_epochs,
            **self._facts,
        )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Starts the step's clock."""
        self._step_began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stops the step's clock; ends the training where that is asked for."""
        self._busy_s += time.perf_counter() - self._step_began
        if state.global_step >= state.max_steps:
            # Whatever logging_steps says, the chart ends where the run ends.
            control.should_log = True
        else:
            self._heed(control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """A point of the chart. Raises StudioError where the loss is no number any more."""
        if not logs or "loss" not in logs:
            return
        tokens = int(logs["num_tokens"]) + self._before if "num_tokens" in logs else self._tokens
        rate = (tokens - self._tokens) / self._busy_s if self._busy_s > 0 else None
        self._tokens, self._busy_s = tokens, 0.0
        self._report.event(
            "log",
            step=state.global_step,
            epoch=round(state.epoch or 0.0, 4),
            loss=_finite(logs["loss"], "loss", state.global_step),
            learning_rate=logs.get("learning_rate"),
            grad_norm=_or_none(logs.get("grad_norm")),
            num_tokens=tokens,
            tokens_per_second=None if rate is None else round(rate, 1),
            **_metrics(logs),
        )

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """Counts the batches of an evaluation."""
        self._evaluated += 1
        # Before the first step nothing is lost by a stop; later the adapter has to be saved first.
        tell = self._report.stage if state.global_step == 0 else self._report.tell
        tell("evaluating", self._evaluated, len(eval_dataloader))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """The evaluation's loss."""
        self._evaluated = 0
        if metrics and "eval_loss" in metrics:
            self.eval_loss = _finite(metrics["eval_loss"], "evaluation loss", state.global_step)
            more = _metrics(metrics, "eval_")
            self._report.event("eval", step=state.global_step, eval_loss=self.eval_loss, **more)
        self._report.tell("training")
        if state.global_step < state.max_steps:
            self._heed(control)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A checkpoint is whole."""
        self._report.event("save", step=state.global_step)

    def _heed(self, control: TrainerControl) -> None:
        if self._report.should_stop():
            self.stopped = True
            control.should_training_stop = control.should_save = control.should_log = True


def _metrics(logs: dict[str, float], prefix: str = "") -> dict[str, float]:
    """Those of the trainer's own numbers that there are. A batch without a single good answer has
    no reward of one."""
    named = {f"{prefix}{name}": logs.get(f"{prefix}{name}") for name in _METRICS}
    return {name: value for name, value in named.items() if _or_none(value) is not None}  # type: ignore[misc]


def _or_none(value: float | None) -> float | None:
    """JSON has no NaN. A gradient norm without a number is usual while fp16 finds its scale."""
    return value if value is not None and math.isfinite(value) else None


def _finite(value: float, what: str, step: int) -> float:
    if math.isfinite(value):
        return value
    raise StudioError(
        f"The {what} became {'NaN' if math.isnan(value) else 'infinite'} at step {step}.",
        "Lower the learning rate or max_grad_norm, or raise the warmup; float16 overflows sooner "
        "than bfloat16.",
    )
