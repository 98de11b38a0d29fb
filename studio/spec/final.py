"""The last run: over all of the data, with the settings that earlier runs have found."""

from studio.spec.optimizer import MEASURED
from studio.spec.recipe import RunSpec, with_values


def final(spec: RunSpec, epochs: float | None = None, steps: int | None = None) -> RunSpec:
    """The same settings without held-back rows, and so without what looks at evaluations.

    `epochs` and `steps` are where the best checkpoint was, for a run that ended with its best:
    nothing can tell the final run when that is.
    """
    changes: dict[str, object] = {
        "data.validation": "0",
        "data.test": "0",
        "eval.eval_strategy": "no",
        "eval.load_best_model_at_end": False,
        "eval.early_stopping_patience": None,
    }
    if spec.train.save_strategy == "best":
        changes["train.save_strategy"] = "steps"
    if spec.train.lr_scheduler_type in MEASURED:
        # What is lowered when evaluations get no better has nothing to go by.
        changes["train.lr_scheduler_type"] = "constant"
        changes["train.lr_scheduler_kwargs"] = {}
    if spec.train.max_steps > 0 and steps:
        changes["train.max_steps"] = steps
    elif epochs:
        # More rows make longer epochs: as often as the best had seen each row.
        changes["train.num_train_epochs"] = round(epochs, 4)
        changes["train.max_steps"] = -1
    return with_values(spec, changes)
