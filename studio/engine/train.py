"""Training a run: its spec in, its events, checkpoints and adapter out."""

import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase
from trl import SFTTrainer

from studio.data import load_rows
from studio.engine.callback import StudioCallback
from studio.engine.card import model_card
from studio.engine.config import lora_config, sft_config
from studio.engine.dataset import Prepared, prepare
from studio.engine.load import Hardware, hardware, load_model
from studio.engine.report import Reporter
from studio.engine.source import origin_of, resolve
from studio.engine.tokenizer import load_tokenizer
from studio.errors import StudioError
from studio.runs import Run, files
from studio.settings import Settings
from studio.spec import RunSpec


def train(run: Run, settings: Settings, report: Reporter) -> None:
    """Trains the run to its end, or until its stop file appears.

    Raises StudioError in words, Stopped where a stop came before there was anything to save, and
    whatever the libraries throw.
    """
    spec = run.spec()
    where = hardware(spec.model)
    report.stage("finding the model")
    folder = resolve(spec.model, settings, report)
    report.stage("reading the data")
    rows = load_rows(spec.data, settings)
    loaded = load_tokenizer(folder)
    if loaded.note:
        report.note(loaded.note)
    prepared = prepare(rows, loaded.tokenizer, spec, report)
    for note in prepared.notes:
        report.note(note)
    model = load_model(spec.model, folder, where, report)
    report.stage("adding the adapter")
    trainer = build(run, spec, where, model, loaded.tokenizer, prepared)
    callback = StudioCallback(report, _facts(trainer, prepared, where))
    trainer.add_callback(callback)
    report.stage("training")
    output = trainer.train()
    # From here on a stop would only lose what is done.
    report.tell("saving the adapter")
    save_adapter(trainer.model, loaded.tokenizer, spec, run.adapter)
    report.end(
        "stopped" if callback.stopped else "finished",
        train_loss=output.training_loss if math.isfinite(output.training_loss) else None,
        eval_loss=callback.eval_loss,
        step=output.global_step,
    )


def _facts(trainer: SFTTrainer, prepared: Prepared, where: Hardware) -> dict[str, Any]:
    """What the start event says besides the run's length."""
    trainable, parameters = trainer.model.get_nb_trainable_parameters()
    return {
        "train_rows": len(prepared.train),
        "eval_rows": len(prepared.held_back or ()),
        "parameters": parameters,
        "trainable": trainable,
        "device": where.words,
    }


def build(
    run: Run,
    spec: RunSpec,
    where: Hardware,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prepared: Prepared,
) -> SFTTrainer:
    """trl's trainer with the adapter in place; it seeds before it makes the adapter."""
    for module in model.modules():
        # On a CPU with bfloat16 instructions bitsandbytes repacks 4-bit weights at the first
        # evaluation, and the packed form has no gradient: the training after it would be wrong.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    trainer = SFTTrainer(
        model=model,
        args=sft_config(spec, run, where, evaluate=prepared.held_back is not None),
        train_dataset=prepared.train,
        eval_dataset=prepared.held_back,
        processing_class=tokenizer,
        peft_config=_checked(lora_config(spec), model),
    )
    if where.dtype is not torch.bfloat16:
        # trl casts the adapter of a quantized model to bfloat16. float16 can't be scaled with it,
        # and a CPU is slow at it.
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return trainer


def _checked(config: Any, model: Any) -> Any:
    """The adapter's settings, once its modules are known to exist. Raises StudioError otherwise."""
    wanted = config.target_modules
    if isinstance(wanted, str):
        return config
    present = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if hasattr(module, "weight")
    }
    missing = sorted(set(wanted) - present)
    if missing:
        linear = sorted(
            {
                n.rsplit(".", 1)[-1]
                for n, m in model.named_modules()
                if isinstance(m, torch.nn.Linear)
            }
        )
        raise StudioError(
            f"The model has no module {', '.join(missing)}.",
            f"Its linear layers are {', '.join(linear)}; all-linear takes those of every layer.",
        )
    return config


def save_adapter(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, spec: RunSpec, target: Path
) -> None:
    """Writes the adapter with its tokenizer and card; whole, or not at all."""
    config = model.peft_config["default"]
    # The folder we loaded from means nothing elsewhere. Set only now: a Hub id in here makes peft
    # ask the Hub at every checkpoint.
    config.base_model_name_or_path = origin_of(spec.model)
    config.revision = spec.model.revision
    with files.whole_folder(target) as aside:
        # False: the embeddings are not trained, and "auto" would ask the Hub about them.
        model.save_pretrained(str(aside), save_embedding_layers=False)
        tokenizer.save_pretrained(str(aside))
        (aside / "README.md").write_text(model_card(spec), encoding="utf-8")
