"""What an answer that grpo tries is rewarded for. Each reward gives a number for each answer."""

import json
import re
from collections.abc import Callable
from typing import Any

from studio.engine.reward import Scorer
from studio.spec import REWARDS, GrpoSection

Reward = Callable[..., list[float]]


def rewards(grpo: GrpoSection, scorer: Scorer | None) -> list[Reward]:
    """The functions whose weight is above 0, in the order of their fields; trl names the metrics
    after them. `scorer` is the reward model, where its weight is."""
    made: dict[str, Callable[[], Reward]] = {
        "exact_match": lambda: _right,
        "pattern": lambda: _matching(grpo.pattern),
        "json": lambda: _parses,
        "length": lambda: _about(grpo.length),
        "reward_model": lambda: _scored(scorer),
    }
    chosen = []
    for name, weight in REWARDS.items():
        if getattr(grpo, weight):
            function = made[name]()
            function.__name__ = name
            chosen.append(function)
    return chosen


def same(answer: str, wanted: str) -> bool:
    """Whether the two are the same but for case, spaces and a full stop at the end, or the answer
    ends with what is wanted."""
    said, right = _plain(answer), _plain(wanted)
    return bool(right) and (said == right or said.endswith(f" {right}"))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!")


def _right(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    return [float(same(*pair)) for pair in zip(completions, answer, strict=True)]


def _matching(pattern: str) -> Reward:
    compiled = re.compile(pattern, re.DOTALL)

    def matching(completions: list[str], **_: Any) -> list[float]:
        return [float(compiled.search(text) is not None) for text in completions]

    return matching


def _parses(completions: list[str], **_: Any) -> list[float]:
    return [float(_is_json(text)) for text in completions]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _about(wanted: int) -> Reward:
    def about(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [max(0.0, 1 - abs(len(ids) - wanted) / wanted) for ids in completion_ids]

    return about


def _scored(scorer: Scorer | None) -> Reward:
    assert scorer is not None

    def scored(completions: list[str], messages: list[str], **_: Any) -> list[float]:
        return scorer.score([json.loads(asked) for asked in messages], completions)

    return scored
