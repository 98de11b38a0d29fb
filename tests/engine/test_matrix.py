"""Every method on every kind of weights with every trainer: what the spec lets through trains, is
loaded again, writes, and is merged to the very same model; what it refuses never starts.

All methods on all weights are tried with sft, and each other trainer with each method once, on
weights that take turns; all of it with ATELIER_MATRIX=full, which is `make matrix`.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from bench.matrix import NEEDED, OUT, refusals, table
from studio.engine.adapters import first_task
from studio.engine.chat import Chat
from studio.engine.export import export
from studio.errors import SpecError, StudioError
from studio.runs import Run
from studio.settings import Settings
from studio.spec import METHODS, TRAINERS, not_merged
from tests.engine.helpers import Recorder, ended
from tests.engine.test_trainers import ASKED, OWN, PAIRS, TEXTS

QUANTIZATIONS = ("none", "nf4", "int8")
FULL = os.environ.get("ATELIER_MATRIX") == "full"
MARKED = [
    {"prompt": f"What is your name? {n}", "completion": "My name is Bramble.", "label": n % 2 == 0}
    for n in range(16)
]
ROWS = {
    "sft": ASKED, "cpt": TEXTS, "dpo": PAIRS, "kto": MARKED, "orpo": PAIRS, "reward": PAIRS,
    "grpo": ASKED,
}  # fmt: skip
IDS = torch.arange(12)[None] + 3
HI = [{"role": "user", "content": "What is your name?"}]


def chosen() -> list[tuple[str, str, str]]:
    """The combinations that are tried."""
    found = []
    for at, trainer in enumerate(TRAINERS):
        for number, method in enumerate(METHODS):
            turn = (number + at) % len(QUANTIZATIONS)
            kinds = QUANTIZATIONS[turn:] + QUANTIZATIONS[:turn]
            if not FULL and trainer != "sft":
                # The first that is let through: where all are refused, that is what is tried.
                let = [kind for kind in kinds if not refusals(method, kind, trainer)]
                kinds = tuple(let or kinds)[:1]
            found += [(method, kind, trainer) for kind in kinds]
    return found


def test_each_trainer_is_tried_with_each_method_that_it_takes() -> None:
    tried = {(m, t) for m, kind, t in chosen() if not refusals(m, kind, t)}
    assert tried == {
        (method, trainer)
        for method in METHODS
        for trainer in TRAINERS
        if any(not refusals(method, kind, trainer) for kind in QUANTIZATIONS)
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Rows for each trainer."""
    folder, made = tmp_path_factory.mktemp("rows"), {}
    for trainer, rows in ROWS.items():
        path = folder / f"{trainer}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        made[trainer] = str(path)
    return made


def tree(method: str, quantization: str, trainer: str, path: str) -> dict[str, dict[str, Any]]:
    return {
        **NEEDED.get(trainer, {}),
        **OWN.get(trainer, {}),
        "model": {"quantization": quantization},
        "adapter": {"method": method},
        "oft": {"oft_block_size": 16},
        "vera": {"r": 8},
        "data": {"path": path, "validation": "0"},
        "train": {
            "trainer": trainer, "max_steps": 2, "per_device_train_batch_size": 2,
            "learning_rate": 0.02, "save_steps": 100,
        },
        "eval": {"eval_on_start": False},
        "generate": {"max_new_tokens": 6},
    }  # fmt: skip


def plain(run: Run) -> Any:
    """The base in float32, unquantized."""
    folder = run.spec().model.name_or_path
    if run.spec().train.trainer == "reward":
        torch.manual_seed(run.spec().train.seed)
        return AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, num_labels=1
        )
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def reloaded(run: Run) -> Any:
    """What was trained, loaded as anybody would."""
    if (run.adapter / "config.json").is_file():
        auto = (
            AutoModelForSequenceClassification
            if run.spec().train.trainer == "reward"
            else AutoModelForCausalLM
        )
        return auto.from_pretrained(run.adapter, dtype=torch.float32).eval()
    model = PeftModel.from_pretrained(plain(run), str(run.adapter)).eval()
    if run.spec().adapter.method == "multitask_prompt_tuning":
        first_task(model)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def merged_logits(run: Run, folder: Path) -> torch.Tensor:
    reward = run.spec().train.trainer == "reward"
    auto = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    return logits(auto.from_pretrained(folder, dtype=torch.float32).eval())


@pytest.mark.parametrize(("method", "quantization", "trainer"), chosen())
def test_what_the_spec_lets_through_trains_and_what_it_refuses_does_not_start(
    new_run: Callable[..., Run],
    train_here: Callable[[Run], int],
    settings: Settings,
    files: dict[str, str],
    tmp_path: Path,
    method: str,
    quantization: str,
    trainer: str,
) -> None:
    sections = tree(method, quantization, trainer, files[trainer])
    if refusals(method, quantization, trainer):
        with pytest.raises(SpecError, match=r"adapter\.method"):
            new_run(**sections)
        return
    run = new_run(**sections)
    assert train_here(run) == 0, ended(run)
    tuned = reloaded(run)
    told = logits(tuned)
    assert torch.isfinite(told).all()
    if trainer not in ("reward", "grpo"):
        assert (logits(plain(run)) - told[:, -IDS.shape[1] :]).abs().max() > 1e-5
    if trainer != "reward":
        mask = torch.ones_like(IDS)
        with torch.inference_mode():
            written = tuned.generate(input_ids=IDS, attention_mask=mask, max_new_tokens=3)
        assert written.shape[1] > IDS.shape[1]
    out = tmp_path / "out"
    if not_merged(method):
        with pytest.raises(StudioError, match="can't be merged"):
            export(run, "merged", out, settings, Recorder())
        return
    export(run, "merged", out, settings, Recorder())
    assert (merged_logits(run, out) - told).abs().max() < 1e-4


@pytest.mark.parametrize(
    "model",
    [
        {"quantization": "fp4", "bnb_4bit_use_double_quant": False},
        {"quantization": "nf4", "bnb_4bit_quant_storage": "bfloat16"},
        {"quantization": "nf4", "bnb_4bit_compute_dtype": "bfloat16"},
        {"quantization": "int8", "llm_int8_threshold": 0.0},
        {"attn_implementation": "eager", "device_map": "cpu"},
    ],
)
def test_a_model_loaded_otherwise_trains_and_is_merged(
    new_run: Callable[..., Run],
    train_here: Callable[[Run], int],
    settings: Settings,
    files: dict[str, str],
    tmp_path: Path,
    model: dict[str, Any],
) -> None:
    sections = tree("lora", "none", "sft", files["sft"])
    run = new_run(**{**sections, "model": model})
    assert train_here(run) == 0, ended(run)
    told = logits(reloaded(run))
    assert (told - logits(plain(run))).abs().max() > 1e-5
    export(run, "merged", tmp_path / "out", settings, Recorder())
    assert (merged_logits(run, tmp_path / "out") - told).abs().max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_base_and_tuned_answer_side_by_side_as_each_does_alone(
    new_run: Callable[..., Run],
    train_here: Callable[[Run], int],
    settings: Settings,
    files: dict[str, str],
    method: str,
) -> None:
    run = new_run(**tree(method, "none", "sft", files["sft"]))
    assert train_here(run) == 0, ended(run)
    spec, chat = run.spec(), Chat(settings)
    both = chat.answer(spec, run, {"base": HI, "tuned": HI}, Recorder()).text  # type: ignore[arg-type]
    alone = chat.answer(spec, run, {"tuned": HI}, Recorder()).text  # type: ignore[arg-type]
    base = Chat(settings).answer(spec, None, {"base": HI}, Recorder()).text  # type: ignore[arg-type]
    assert both == {**base, **alone}
    # Both at once again, now that the adapter is in memory already.
    assert chat.answer(spec, run, {"base": HI, "tuned": HI}, Recorder()).text == both  # type: ignore[arg-type]


def test_the_document_says_what_the_settings_refuse() -> None:
    assert OUT.read_text(encoding="utf-8") == table()
