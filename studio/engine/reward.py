"""Reward models: trained on which of two answers is better, and used to score answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from trl import RewardTrainer

from studio.data import Example, Message
from studio.engine.adapters import first_task
from studio.engine.encode import Encoder
from studio.engine.load import Hardware, fit_embeddings, load_model
from studio.engine.report import Report
from studio.engine.source import resolve
from studio.engine.tokenizer import load_tokenizer
from studio.engine.trainers import Base
from studio.errors import StudioError
from studio.runs import RunStore
from studio.settings import Settings
from studio.spec import RunSpec, parse

_BATCH = 8


class Reward(Base, RewardTrainer):
    """trl's trainer on batches of pairs like dpo's."""

    def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        """The model reads whole answers; where they begin, it is not told."""
        inputs = {name: value for name, value in inputs.items() if name != "completion_mask"}
        return super().compute_loss(model, inputs, *rest, **more)


class Scorer:
    """A model that gives each answer one number; higher is better."""

    def __init__(self, model: Any, encoder: Encoder) -> None:
        self._model = model.eval().requires_grad_(False)
        self._encoder = encoder
        # It reads the score at the last token that is no padding.
        self._pad = encoder.tokenizer.pad_token_id
        model.config.get_text_config().pad_token_id = self._pad

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float]:
        """The score of each answer to its prompt, written as it was in training. Raises
        StudioError where the chat template refuses a conversation."""
        said = [[{"role": "assistant", "content": answer}] for answer in answers]
        rows = [
            self._encoder.one(Example("unpaired", messages=prompt, chosen=answer, label=True))
            for prompt, answer in zip(prompts, said, strict=True)
        ]
        ids = [torch.from_numpy(row.sequences[0].input_ids).long() for row in rows]
        scores: list[float] = []
        for start in range(0, len(ids), _BATCH):
            scores += self._of(ids[start : start + _BATCH])
        return scores

    def _of(self, ids: list[torch.Tensor]) -> list[float]:
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self._pad)
        lengths = torch.tensor([len(row) for row in ids])
        mask = (torch.arange(padded.shape[1])[None] < lengths[:, None]).long()
        device = self._model.device
        with torch.inference_mode():
            logits = self._model(
                input_ids=padded.to(device), attention_mask=mask.to(device), use_cache=False
            ).logits
        return [float(value) for value in logits[:, 0].float().cpu()]


def load_scorer(name: str, settings: Settings, where: Hardware, report: Report) -> Scorer:
    """The reward model of a run, or of a folder. Raises StudioError in words."""
    report.stage("loading the reward model")
    spec, adapter = _named(name, settings)
    folder = resolve(spec.model, settings, report)
    loaded = load_tokenizer(adapter or folder, spec.data)
    whole = adapter is not None and not (adapter / "adapter_config.json").is_file()
    model = load_model(spec.model, adapter if whole and adapter else folder, where, report, True)
    if adapter is not None and not whole:
        fit_embeddings(model, len(loaded.tokenizer))
        model = PeftModel.from_pretrained(model, str(adapter))
        if spec.adapter.method == "multitask_prompt_tuning":
            first_task(model)
    return Scorer(model, Encoder.of(loaded.tokenizer, spec))


def _named(name: str, settings: Settings) -> tuple[RunSpec, Path | None]:
    """What a run or a folder was made with, and of a run what it made."""
    folder = (settings.workspace / Path(name).expanduser()).resolve()
    if (folder / "config.json").is_file():
        return parse({"model": {"name_or_path": str(folder)}, "train": {"trainer": "reward"}}), None
    try:
        run = RunStore(settings.runs).get(name)
    except StudioError:
        raise StudioError(
            f"{name} is neither a run nor a folder with a model.",
            "Name a run of the trainer reward in grpo.reward_model.",
        ) from None
    spec = run.spec()
    if spec.train.trainer != "reward":
        raise StudioError(
            f"The run {run.id} made no reward model: its trainer was {spec.train.trainer}.",
            "Name a run of the trainer reward in grpo.reward_model.",
        )
    if not run.adapter.is_dir():
        raise StudioError(f"The run {run.id} has not finished.", "Wait for it, or name another.")
    return spec, run.adapter
