"""What a run takes while it goes: memory, speed, time that goes elsewhere, the GPU's own figures.

A callback of the trainer's beside ours; it writes `use` events, one in a few seconds, and at the
end what was measured, beside which the plan is held.
"""

import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from studio.engine.batches import learned
from studio.engine.encode import IGNORED
from studio.engine.load import Hardware
from studio.engine.report import Reporter
from studio.plan.machine import first_visible

_EVERY_S = 2.0
_ASK_EVERY_S = 5.0
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_SIDE = {"cpu": 1024, "cuda": 4096}


def product_speed(where: Hardware) -> float:
    """Flops a second that a product of two large matrices reaches here, in the run's numbers; takes
    some hundredths of a second."""
    side = _SIDE[where.device]
    a = torch.ones(side, side, device=where.device, dtype=where.dtype)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        torch.mm(a, a)
        if where.device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2.0 * side**3 / best


class Memory:
    """Bytes that this process holds where the run is; of a GPU what torch's allocator holds, and
    what was taken beside it when this began: the context."""

    def __init__(self, where: Hardware) -> None:
        self._cuda = where.device == "cuda"
        self._process = psutil.Process()
        self._context = 0
        if self._cuda:
            free, total = torch.cuda.mem_get_info()
            self._context = max(0, total - free - torch.cuda.memory_reserved())

    def forget(self) -> None:
        """The peak begins anew."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        # The kernel's own peak; where it can't be reset it is that of the loading, too.
        with suppress(OSError):
            _CLEAR.write_text("5")

    def now(self) -> int:
        """Bytes held now."""
        if self._cuda:
            return self._context + torch.cuda.memory_reserved()
        return int(self._process.memory_info().rss)

    def peak(self) -> int:
        """The most that was held since `forget`."""
        if self._cuda:
            return self._context + torch.cuda.max_memory_reserved()
        with suppress(OSError, ValueError):
            for line in _STATUS.read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return self.now()


class Smi:
    """Power and temperature of the GPU by nvidia-smi. It is asked in the background, and its answer
    taken at the next look."""

    def __init__(self, where: Hardware) -> None:
        self._program = shutil.which("nvidia-smi") if where.device == "cuda" else None
        self._asked: subprocess.Popen[str] | None = None
        self._at = 0.0
        self._known: dict[str, float] = {}

    def look(self) -> dict[str, float]:
        """What was answered last: `power` in W, `temperature` in degrees."""
        if self._program is None:
            return {}
        if self._asked is not None and self._asked.poll() is not None:
            self._known = _figures(self._asked.communicate()[0])
            self._asked = None
        if self._asked is None and time.monotonic() - self._at >= _ASK_EVERY_S:
            self._at = time.monotonic()
            query = ["--query-gpu=power.draw,temperature.gpu", "--format=csv,noheader,nounits"]
            with suppress(OSError):
                self._asked = subprocess.Popen(
                    [self._program, *query, f"--id={first_visible()}"],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
        return self._known


def _figures(line: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, text in zip(("power", "temperature"), line.strip().split(","), strict=False):
        # A GPU that has no such sensor says [N/A].
        with suppress(ValueError):
            found[name] = float(text)
    return found


class Gauges(TrainerCallback):
    """Watches a run. `flops` are those that a trained token needs, 0 where that is not known."""

    def __init__(self, report: Reporter, where: Hardware, flops: float) -> None:
        self._report, self._flops = report, flops
        self._memory, self._smi = Memory(where), Smi(where)
        self._peak = product_speed(where)
        self._spent = {"data": 0.0, "evaluating": 0.0, "saving": 0.0, "training": 0.0}
        self._mark = self._told = self._began = 0.0
        self._scored: Any = 0
        self._tokens = 0
        self.most_tokens = 0
        self._steps = 0
        self._since = (0.0, 0, 0)

    def batch(self, inputs: Any) -> None:
        """Counts a micro-batch: its tokens, and those that are learned, where they lie."""
        if not isinstance(inputs, Mapping) or "input_ids" not in inputs:
            return
        labels = learned(inputs)
        self._scored = self._scored + (labels != IGNORED).sum()
        self._tokens += labels.numel()
        self.most_tokens = max(self.most_tokens, labels.numel())

    def _to(self, what: str) -> None:
        now = time.perf_counter()
        self._spent[what] += now - self._mark
        self._mark = now

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The clocks start."""
        self._memory.forget()
        self._mark = self._began = time.perf_counter()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """What was neither training, evaluating nor saving was waiting for data."""
        self._to("data")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A step is over."""
        self._steps += 1
        self._to("training")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """So is an evaluation."""
        self._to("evaluating")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """So is a checkpoint."""
        self._to("saving")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Tells how it goes, once in a while. An evaluation logs too; its time is its own."""
        if not logs or "loss" not in logs:
            return
        self._to("training")
        if time.monotonic() - self._told >= _EVERY_S:
            self._told = time.monotonic()
            self._tell(state.global_step)

    def _tell(self, step: int) -> None:
        scored, busy = int(self._scored), self._spent["training"]
        before_busy, before_scored, before_tokens = self._since
        seconds = busy - before_busy
        speeds: dict[str, float] = {}
        if seconds > 0 and self._tokens > before_tokens:
            every = (self._tokens - before_tokens) / seconds
            speeds["trained_per_second"] = round((scored - before_scored) / seconds, 1)
            if self._flops:
                speeds["share"] = round(every * self._flops / self._peak, 4)
        self._since = (busy, scored, self._tokens)
        lost = {k: round(v, 2) for k, v in self._spent.items() if k != "training"}
        self._report.event(
            "use",
            step=step,
            memory=self._memory.now(),
            peak=self._memory.peak(),
            **speeds,
            **self._smi.look(),
            **lost,
        )

    def measured(self) -> dict[str, Any]:
        """What the run took, for the event of that name; to be asked when it is over."""
        return {
            "memory": self._memory.peak(),
            "seconds": round(time.perf_counter() - self._began, 3),
            "steps": self._steps,
            "trained": int(self._scored),
            "tokens": self._tokens,
            "most_tokens": self.most_tokens,
            "product_flops": round(self._peak),
            **{k: round(v, 3) for k, v in self._spent.items()},
        }
