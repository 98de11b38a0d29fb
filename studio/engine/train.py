"""Training a run: its spec in, its events, checkpoints and adapter out."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import TrainableTokensWrapper
from transformers import PreTrainedTokenizerBase

from studio.data import open_data
from studio.engine.batches import arranged, bare, collator, order
from studio.engine.callback import StudioCallback
from studio.engine.card import model_card
from studio.engine.config import lora_config, trainer_config
from studio.engine.dataset import Prepared, prepare
from studio.engine.load import Hardware, fit_embeddings, hardware, load_model
from studio.engine.report import Reporter
from studio.engine.source import origin_of, resolve
from studio.engine.tokenizer import Tokenizer, load_tokenizer
from studio.engine.trainers import TRAINERS, EpochOfOrder
from studio.errors import StudioError
from studio.runs import Run, checkpoints, files
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
    data = open_data(spec.data, settings, report)
    loaded = load_tokenizer(folder, spec.data)
    prepared = prepare(data, loaded.tokenizer, spec, settings, report)
    for note in (loaded.note, *data.notes, *prepared.notes):
        if note:
            report.note(note)
    model = load_model(spec.model, folder, where, report)
    report.stage("adding the adapter")
    trainer = build(run, spec, where, model, loaded, prepared)
    trainer.told = lambda sha256: report.event("batch", sha256=sha256)
    checkpoint, _ = checkpoints.newest(run.checkpoints)
    callback = StudioCallback(
        report, _facts(trainer, prepared, where), _tokens_until(run, checkpoint)
    )
    trainer.add_callback(callback)
    if checkpoint is not None:
        # What the base model's loss is, was measured at the first start.
        trainer.args.eval_on_start = False
    report.stage("training")
    output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    test_loss = None if callback.stopped else _tested(trainer, spec, prepared, report)
    # From here on a stop would only lose what is done.
    report.tell("saving the adapter")
    save_adapter(trainer.model, loaded.tokenizer, spec, run.adapter)
    report.end(
        "stopped" if callback.stopped else "finished",
        train_loss=output.training_loss if math.isfinite(output.training_loss) else None,
        eval_loss=callback.eval_loss,
        test_loss=test_loss,
        step=output.global_step,
    )


def _tokens_until(run: Run, checkpoint: Path | None) -> int:
    """The tokens that were seen before the checkpoint; trl counts from 0 again."""
    if checkpoint is None:
        return 0
    step = checkpoints.step_of(checkpoint)
    seen = [p["num_tokens"] for p in run.history() if p["step"] <= step and p.get("num_tokens")]  # type: ignore[operator]
    return int(seen[-1]) if seen else 0  # type: ignore[call-overload]


def _tested(trainer: Any, spec: RunSpec, prepared: Prepared, report: Reporter) -> float | None:
    """The loss on the rows that were kept for the end."""
    if prepared.test is None:
        return None
    report.tell("measuring the test loss")
    rows = bare(arranged(spec, prepared.test, train=False))
    loss = trainer.evaluate(rows, metric_key_prefix="test")["test_loss"]
    return loss if math.isfinite(loss) else None


def _facts(trainer: Any, prepared: Prepared, where: Hardware) -> dict[str, Any]:
    """What the start event says besides the run's length."""
    trainable, parameters = trainer.model.get_nb_trainable_parameters()
    return {
        "train_rows": len(prepared.train),
        "eval_rows": len(prepared.validation or ()),
        "test_rows": len(prepared.test or ()),
        "parameters": parameters,
        "trainable": trainable,
        "device": where.words,
    }


def build(
    run: Run, spec: RunSpec, where: Hardware, model: Any, loaded: Tokenizer, prepared: Prepared
) -> Any:
    """trl's trainer with the adapter in place; it seeds before it makes the adapter."""
    for module in model.modules():
        # On a CPU with bfloat16 instructions bitsandbytes repacks 4-bit weights at the first
        # evaluation, and the packed form has no gradient: the training after it would be wrong.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    fit_embeddings(model, len(loaded.tokenizer))
    rows = arranged(spec, prepared.train, train=True)
    held = arranged(spec, prepared.validation, train=False) if prepared.validation else None
    trainer = TRAINERS[spec.train.trainer](
        model=model,
        args=trainer_config(spec, run, where, evaluate=held is not None),
        train_dataset=bare(rows),
        eval_dataset=bare(held) if held else None,
        processing_class=loaded.tokenizer,
        peft_config=_checked(lora_config(spec, _rows_of(loaded.new_ids, model)), model),
    )
    for module in trainer.model.modules():
        # trl's head asks for it, and peft's wrapper around a head knows only its weight.
        if isinstance(module, TrainableTokensWrapper):
            module.bias = None
    # "auto" would ask the Hub about them, and save all of them where some were added.
    trainer.model.save_pretrained = partial(
        trainer.model.save_pretrained, save_embedding_layers=False
    )
    # Now: for packed rows trl takes no collator but the very one that it makes itself.
    trainer.data_collator = collator(spec, loaded.tokenizer.pad_token_id)
    trainer.order = order(spec, rows)
    trainer.add_callback(EpochOfOrder(trainer.order))
    if where.dtype is not torch.bfloat16:
        # trl casts the adapter of a quantized model to bfloat16. float16 can't be scaled with it,
        # and a CPU is slow at it.
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return trainer


def _rows_of(tokens: list[int], model: Any) -> dict[str, list[int]]:
    """The tokens by the name of each module that has a row for them. Where the two are one, peft
    keeps them so; where they are not, the head has to learn to write what is new, too. Raises
    StudioError for a head to which nothing can be added."""
    if not tokens:
        return {}
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if getattr(ends[1], "bias", None) is not None:
        raise StudioError(
            "Tokens can't be added to this model: its head has a bias.",
            "Set data.add_template_tokens to false, or choose another model.",
        )
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(end)].rpartition(".")[2]: tokens for end in ends if end is not None}


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
        model.save_pretrained(str(aside), save_embedding_layers=False)
        tokenizer.save_pretrained(str(aside))
        (aside / "README.md").write_text(model_card(spec), encoding="utf-8")
