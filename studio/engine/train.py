"""Training a run: its spec in, its events, checkpoints and adapter out."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft.utils import TrainableTokensWrapper
from transformers import set_seed

from studio.data import open_data
from studio.engine.adapters import adapter_config, arrange, count, reference, steps_of
from studio.engine.batches import arranged, bare, collator, order
from studio.engine.callback import Done, StudioCallback
from studio.engine.config import trainer_config
from studio.engine.dataset import Prepared, prepare
from studio.engine.explain import first_line
from studio.engine.forecast import forecast
from studio.engine.gauges import Gauges
from studio.engine.load import Hardware, fit_embeddings, hardware, load_model
from studio.engine.quick import engage
from studio.engine.report import Reporter
from studio.engine.reporters import prepare_reporters
from studio.engine.result import first_weights, save_result
from studio.engine.source import resolve
from studio.engine.stopping import go_on, refuse_impossible, stop_early, stopped_early
from studio.engine.tokenizer import Tokenizer, load_tokenizer
from studio.engine.trainers import EpochOfOrder, own_arguments, trainer_class
from studio.errors import StudioError
from studio.runs import Run, checkpoints, events
from studio.runs.control import Wishes
from studio.settings import Settings
from studio.spec import RunSpec


def train(run: Run, settings: Settings, report: Reporter) -> None:
    """Trains the run to its end, or until its stop file appears.

    Raises StudioError in words, Stopped where a stop came before there was anything to save, and
    whatever the libraries throw.
    """
    spec = run.spec()
    refuse_impossible(spec)
    where = hardware(spec.model)
    report.stage("finding the model")
    folder = resolve(spec.model, settings, report)
    refuse_impossible(spec, folder=folder)
    report.stage("reading the data")
    data = open_data(spec.data, settings, report)
    loaded = load_tokenizer(folder, spec.data)
    prepared = prepare(data, loaded.tokenizer, spec, settings, report)
    for note in (loaded.note, *data.notes, *prepared.notes):
        if note:
            report.note(note)
    prepare_reporters(run)
    own = own_arguments(spec, settings, where, report)
    # A scorer's head is new, and drawn.
    set_seed(spec.train.seed)
    scorer = spec.train.trainer == "reward"
    model = load_model(spec.model, folder, where, report, scorer)
    report.stage("adding the adapter")
    trainer = build(run, spec, where, model, loaded, prepared, folder, **own)
    trainer.told = lambda sha256: report.event("batch", sha256=sha256)
    facts = _facts(trainer, prepared, where)
    # After the facts: the fast form of a weight is no parameter.
    facts["engine"] = engage(trainer, spec, where, report)
    callback, checkpoint = _callback(run, report, trainer, facts)
    trainer.add_callback(callback)
    planned = forecast(run, spec, settings, where, prepared, facts["engine"])
    if planned is not None:
        report.event("predicted", **planned.event())
    trainer.gauges = Gauges(report, where, planned.flops if planned else 0.0)
    trainer.add_callback(trainer.gauges)
    if checkpoint is not None:
        # What the base model's loss is, was measured at the first start.
        trainer.args.eval_on_start = False
    report.stage("training")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Done:
        # Cut off between the last step and the end: what is left is what follows.
        if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
            trainer._load_best_model()
    taken = trainer.gauges.measured()
    report.event("measured", **(planned.beside(taken) if planned else taken))
    if words := stopped_early(trainer):
        report.note(words)
    # From here on a stop would only lose what is done.
    report.tell("saving the adapter")
    save_result(trainer, loaded.tokenizer, spec, run.adapter)
    test_loss = None if callback.stopped else _tested(trainer, spec, prepared, report)
    paused = {"paused": True} if callback.stopped and run.wish() == "pause" else {}
    report.end(
        "stopped" if callback.stopped else "finished",
        **_losses(trainer.state.log_history),
        test_loss=test_loss,
        step=trainer.state.global_step,
        **paused,
    )


def _callback(
    run: Run, report: Reporter, trainer: Any, facts: dict[str, Any]
) -> tuple[StudioCallback, Path | None]:
    """The callback, and the checkpoint to go on from, with what was told until then."""
    checkpoint, _ = checkpoints.newest(run.checkpoints)
    if checkpoint is None:
        return StudioCallback(report, facts, Wishes(run)), None
    step, told = checkpoints.step_of(checkpoint), list(events.read(run.events))
    attempt = [event for event in told if event["type"] == "attempt"][-1:]
    rates = {c["step"]: c["value"] for event in attempt for c in event.get("changes") or ()}
    for event in told:
        # A new run from another's checkpoint may have been given another rate.
        if event["type"] == "branch" and event.get("step") == step and "learning_rate" in event:
            rates[step] = event["learning_rate"]
    # trl counts from 0 again.
    seen = [e["num_tokens"] for e in events.shown(told) if e["step"] <= step and "num_tokens" in e]
    longer = any(
        e["type"] == "end" and e.get("status") == "finished" and e.get("step") == step for e in told
    )
    over = partial(go_on, trainer, run.spec(), longer)
    before = max(seen, default=0)
    return StudioCallback(report, facts, Wishes(run), before, rates, over), checkpoint


def _losses(history: list[dict[str, Any]]) -> dict[str, float | None]:
    """The mean loss over all steps, and that of the last evaluation, whatever attempt they were
    made in."""
    total, last, evaluated = 0.0, 0, None
    for entry in history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last)
            last = entry["step"]
        evaluated = entry.get("eval_loss", evaluated)
    mean = total / last if last else math.nan
    return {"train_loss": mean if math.isfinite(mean) else None, "eval_loss": evaluated}


def _tested(trainer: Any, spec: RunSpec, prepared: Prepared, report: Reporter) -> float | None:
    """The loss on the rows that were kept for the end; None, and a note, where that fails."""
    if prepared.test is None:
        return None
    report.tell("measuring the test loss")
    rows = bare(arranged(spec, prepared.test, train=False))
    try:
        loss = trainer.evaluate(rows, metric_key_prefix="test")["test_loss"]
    except Exception as error:  # noqa: BLE001 - what was trained is saved, and worth more than this
        report.note(f"The test loss could not be measured: {first_line(error)}")
        return None
    return loss if math.isfinite(loss) else None


def _facts(trainer: Any, prepared: Prepared, where: Hardware) -> dict[str, Any]:
    """What the start event says besides the run's length."""
    trainable, parameters = count(trainer.model)
    return {
        "train_rows": len(prepared.train),
        "eval_rows": len(prepared.validation or ()),
        "test_rows": len(prepared.test or ()),
        "parameters": parameters,
        "trainable": trainable,
        "device": where.words,
    }


def build(
    run: Run,
    spec: RunSpec,
    where: Hardware,
    model: Any,
    loaded: Tokenizer,
    prepared: Prepared,
    folder: Path,
    **own: Any,
) -> Any:
    """trl's trainer with the adapter in place; it seeds before it makes the adapter. `folder` is
    where the model came from, `own` what only this trainer is given."""
    for module in model.modules():
        # On a CPU with bfloat16 instructions bitsandbytes repacks 4-bit weights at the first
        # evaluation, and the packed form has no gradient: the training after it would be wrong.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    fit_embeddings(model, len(loaded.tokenizer))
    if spec.adapter.method == "none" and spec.model.dtype == "auto":
        # Small steps vanish in bfloat16: what is trained is held in float32, and computed in less.
        model.float()
    rows = arranged(spec, prepared.train, train=True)
    held = arranged(spec, prepared.validation, train=False) if prepared.validation else None
    new, steps = _rows_of(loaded.new_ids, model), steps_of(spec, len(rows))
    config = adapter_config(spec, model, new, folder=folder, total_step=steps)
    refuse_impossible(spec, steps, len(held or ()))
    trainer = trainer_class(spec.train.trainer)(
        model=model,
        args=trainer_config(spec, run, where, evaluate=held is not None),
        train_dataset=bare(rows),
        eval_dataset=bare(held) if held else None,
        processing_class=loaded.tokenizer,
        peft_config=config,
        **reference(spec, model),
        **own,
    )
    trainer.folder = folder
    trainer.first_weights = first_weights(trainer.model, spec)
    arrange(trainer, spec)
    for module in trainer.model.modules():
        # trl's head asks for it, and peft's wrapper around a head knows only its weight.
        if isinstance(module, TrainableTokensWrapper):
            module.bias = None
    if config is not None:
        # "auto" would ask the Hub about them, and save all of them where some were added.
        trainer.model.save_pretrained = partial(
            trainer.model.save_pretrained, save_embedding_layers=False
        )
    # Now: for packed rows trl takes no collator but the very one that it makes itself.
    trainer.data_collator = collator(spec, loaded.tokenizer.pad_token_id)
    trainer.order = order(spec, rows)
    trainer.add_callback(EpochOfOrder(trainer.order))
    stop_early(trainer, spec)
    if spec.train.trainer == "grpo":
        from studio.engine.grpo import keeper

        trainer.keep = keeper(run.completions)
    if where.dtype is not torch.bfloat16:
        _hold_in_float(trainer.model)
    return trainer


def _hold_in_float(model: Any) -> None:
    """What is trained, in float32: trl casts the adapter of a quantized model to bfloat16, with
    which float16 can't be scaled and which a CPU is slow at."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


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
