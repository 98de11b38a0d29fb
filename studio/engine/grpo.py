"""GRPO: tries several answers to each prompt and learns from those that are rewarded most."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trl import GRPOTrainer

from studio.engine.trainers import Base

# Of a step's answers so many are kept to be read, each up to so many letters.
_KEPT, _LETTERS = 8, 2000


class Grpo(Base, GRPOTrainer):
    """trl's trainer on prompts that are tokenized already. `keep` is told some of the answers that
    were tried, each time the trainer logs."""

    keep: Callable[[int, list[dict[str, Any]]], None] | None = None
    _tried: list[dict[str, Any]] | None = None
    _before: int | None = None

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[Any], None, dict[str, Any]]:
        """As they are: what the preview showed is what is asked."""
        return prompts, None, {}

    def _generate(self, prompts: list[Any]) -> Any:
        """Tells the tokens of this attempt, as the other trainers do; trl's state knows all."""
        if self._before is None:
            self._before = self.state.num_input_tokens_seen
        made = super()._generate(prompts)
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["num_tokens"] = [self.state.num_input_tokens_seen - self._before]
        return made

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: list[str], completion_ids_list: Any
    ) -> Any:
        """Remembers some of what was tried."""
        given = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.model.training:
            rows = zip(inputs, completions, given.tolist(), strict=True)
            self._tried = [
                {
                    "prompt": self.processing_class.decode(row["prompt"])[-_LETTERS:],
                    "answer": row["answer"][:_LETTERS],
                    "completion": completion[:_LETTERS],
                    "rewards": dict(zip(self.reward_func_names, each, strict=True)),
                }
                for row, completion, each in list(rows)[:_KEPT]
            ]
        return given

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keeps what was tried last beside the numbers."""
        super().log(logs, start_time)
        if "loss" in logs and self._tried and self.keep is not None:
            self.keep(self.state.global_step, self._tried)
            self._tried = None


def keeper(path: Path) -> Callable[[int, list[dict[str, Any]]], None]:
    """Appends what it is told to the file, a line of JSON for each step."""

    def keep(step: int, rows: list[dict[str, Any]]) -> None:
        line = json.dumps({"step": step, "rows": rows}, ensure_ascii=False)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    return keep
