"""Where else the numbers go: TensorBoard, Trackio, Weights & Biases, each into the run's folder."""

import os

from studio.errors import StudioError
from studio.plan.extras import REPORTERS
from studio.runs import Run
from studio.spec import RunSpec


def prepare_reporters(spec: RunSpec, run: Run) -> None:
    """Tells them where to write, and to send nothing. Raises StudioError where one is missing."""
    missing = [name for name in spec.train.report_to if not REPORTERS[name].here]
    if missing:
        names = ", ".join(REPORTERS[name].label for name in missing)
        raise StudioError(
            f"{names} is not installed here.",
            f"{' and '.join(REPORTERS[name].install for name in missing)}, or take it out of "
            "train.report_to.",
        )
    os.environ |= {
        "TENSORBOARD_LOGGING_DIR": str(run.path / "tensorboard"),
        "TRACKIO_DIR": str(run.path / "trackio"),
        "WANDB_DIR": str(run.path),
        "WANDB_PROJECT": "atelier",
        "WANDB_NAME": run.id,
        # What is wanted elsewhere, `wandb sync` sends.
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
    }
