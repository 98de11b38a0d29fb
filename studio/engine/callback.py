"""The trainer's callback: turns what the trainer says into events, and a stop file into a stop."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from studio.engine.report import Reporter
from studio.errors import StudioError
from studio.runs.control import Wishes
from studio.spec import REWARDS

# What the trainers tell besides the loss: sft, those that compare, orpo, reward, grpo.
_METRICS = (
    "mean_token_accuracy", "entropy",
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen",
    "logps/rejected", "kl",
    "nll_loss", "log_odds_ratio", "log_odds_chosen",
    "accuracy", "margin", "mean_reward", "min_reward", "max_reward",
    "reward", "reward_std", "frac_reward_zero_std", "completions/mean_length",
    "completions/min_length", "completions/max_length", "completions/clipped_ratio",
    *(f"rewards/{name}/mean" for name in REWARDS),
)  # fmt: skip


class Done(BaseException):
    """There is no step left to train: the run was cut off after its last one. No `Exception`, as
    with `Stopped`."""


class Divergence:
    """Sees whether the loss climbs for good: once its mean over some ten points lies half above
    the lowest that it had. From 20 points on, and once a run."""

    def __init__(self) -> None:
        self._points, self._mean, self._lowest, self._at = 0, 0.0, math.inf, 0
        self._told = False

    def see(self, step: int, loss: float) -> str:
        """What to say of it; mostly nothing."""
        self._points += 1
        share = max(0.1, 1 / self._points)
        self._mean += share * (loss - self._mean)
        if self._mean < self._lowest:
            self._lowest, self._at = self._mean, step
        high = self._mean >= max(1.5 * self._lowest, self._lowest + 0.3)
        if self._told or not high or self._points < 20:
            return ""
        self._told = True
        return (
            f"The loss is rising: about {self._mean:.2f} at step {step}, and it was "
            f"{self._lowest:.2f} at step {self._at}. A lower learning rate, which can be set now, "
            "or a longer warmup helps; earlier checkpoints are kept up to save_total_limit."
        )


class StudioCallback(TrainerCallback):
    """Writes a run's events. A step costs it one look for the stop file."""

    def __init__(
        self,
        report: Reporter,
        facts: dict[str, Any],
        wishes: Wishes,
        before: int = 0,
        rates: Mapping[int, float] | None = None,
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        """`facts` goes into the start event: rows, parameters, device; `before` are the tokens that
        an earlier attempt saw, `rates` the learning rates that are to be set after a step. `over`
        is asked at the beginning: whether an earlier attempt had trained all that there was."""
        self._report = report
        self._facts = facts
        self._wishes = wishes
        self._rates = dict(rates or {})
        self._over = over
        self._step_began = 0.0
        self._busy_s = 0.0
        self._before = self._tokens = before
        self._evaluated = 0
        self._divergence = Divergence()
        self.stopped = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """The length of the run is known now. Raises Done where an earlier attempt got there."""
        self._report.current = "training"
        best = state.best_global_step
        named = Path(args.output_dir) / f"checkpoint-{best}"
        # By its place now: the home may have been moved since.
        state.best_model_checkpoint = str(named) if best and named.is_dir() else None
        self._report.event(
            "start",
            max_steps=state.max_steps,
            num_train_epochs=args.num_train_epochs,
            **self._facts,
        )
        if self._over() or state.global_step >= state.max_steps:
            raise Done
        self._change_rate(state.global_step, more)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Starts the step's clock."""
        self._step_began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Stops the step's clock; does what is asked of the run."""
        self._busy_s += time.perf_counter() - self._step_began
        self._wish(args, state, control)
        self._change_rate(state.global_step, more)
        if state.global_step < state.max_steps:
            self._heed(control)
        if control.should_save or state.global_step >= state.max_steps:
            # A checkpoint does not hold what is not yet logged; and whatever logging_steps says,
            # the chart ends where the run ends.
            control.should_log = True

    def _wish(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        for wish, value in self._wishes.take().items():
            if wish == "learning_rate" and value is not None:
                self._rates[state.global_step] = value
            elif wish == "save":
                control.should_save = True
            elif args.eval_strategy == "no":
                self._report.note("There is nothing to evaluate on: no rows are held back.")
            else:
                control.should_evaluate = True

    def _change_rate(self, step: int, more: Mapping[str, Any]) -> None:
        """What was asked for now, or what an earlier attempt was asked for at this step."""
        rate = self._rates.pop(step, None)
        if rate is not None:
            set_learning_rate(more["optimizer"], more["lr_scheduler"], rate)
            self._report.event("change", step=step, value=rate)

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
        loss = _finite(logs["loss"], "loss", state.global_step)
        tokens = int(logs["num_tokens"]) + self._before if "num_tokens" in logs else self._tokens
        rate = (tokens - self._tokens) / self._busy_s if self._busy_s > 0 else None
        self._tokens, self._busy_s = tokens, 0.0
        self._report.event(
            "log",
            step=state.global_step,
            epoch=round(state.epoch or 0.0, 4),
            loss=loss,
            learning_rate=logs.get("learning_rate"),
            grad_norm=_or_none(logs.get("grad_norm")),
            num_tokens=tokens,
            tokens_per_second=None if rate is None else round(rate, 1),
            **_metrics(logs),
        )
        if words := self._divergence.see(state.global_step, loss):
            self._report.note(words)

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
            loss = _finite(metrics["eval_loss"], "evaluation loss", state.global_step)
            more = _metrics(metrics, "eval_")
            self._report.event("eval", step=state.global_step, eval_loss=loss, **more)
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


def set_learning_rate(optimizer: Any, scheduler: Any, rate: float) -> None:
    """Gives the run another learning rate from here on: the schedule keeps its shape, and each
    group of parameters its share. A checkpoint holds what this changes."""
    scheduler = getattr(scheduler, "scheduler", scheduler)
    groups = optimizer.param_groups
    # A scheduler that looks at the loss knows no rate that it began with.
    bases = getattr(scheduler, "base_lrs", None) or [groups[0]["lr"]]
    factor = rate / bases[0] if bases[0] else 1.0
    for group in groups:
        group["lr"] *= factor
        if "initial_lr" in group:
            group["initial_lr"] *= factor
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [base * factor for base in scheduler.base_lrs]
    # What the next point of the chart says.
    scheduler._last_lr = [group["lr"] for group in groups]


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
