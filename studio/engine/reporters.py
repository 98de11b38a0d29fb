"""Where else the numbers go: TensorBoard, Trackio, Weights & Biases, each into the run's folder."""

import os

from studio.runs import Run


def prepare_reporters(run: Run) -> None:
    """Tells them where to write, and to send nothing; those that are not asked for do not look."""
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
