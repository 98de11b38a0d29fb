"""Trainers whose checkpoints are whole or absent."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from studio.runs import checkpoints


class WholeCheckpoints:
    """To be mixed into a `Trainer`, before it: it saves aside, and what is complete gets its name
    in one step. Checkpoints that are one too many go after that, never before."""

    args: Any
    state: Any
    _aside: Path | None = None

    def _get_output_dir(self, trial: Any) -> str:
        """Where `Trainer` writes to: aside, while a checkpoint is being saved."""
        return str(self._aside or super()._get_output_dir(trial))  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        root = Path(self.args.output_dir)
        root.mkdir(parents=True, exist_ok=True)
        self._aside = Path(tempfile.mkdtemp(dir=root, prefix=".saving-"))
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            folder = self._aside / f"checkpoint-{self.state.global_step}"
            self._name_best(folder, root)
            checkpoints.publish(folder, root / folder.name)
        finally:
            shutil.rmtree(self._aside, ignore_errors=True)
            self._aside = None
        best = self.state.best_model_checkpoint
        checkpoints.rotate(root, self.args.save_total_limit, Path(best) if best else None)

    def _finalize_training(self, *rest: Any) -> Any:
        """`Trainer` would delete the last checkpoint piece by piece where only one is kept and
        another is the best; but a longer run begins with it."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*rest)  # type: ignore[misc]
        finally:
            self.args.save_total_limit = limit

    def _name_best(self, folder: Path, root: Path) -> None:
        """The best checkpoint by the name it will have; the state on disk must not say another."""
        best = self.state.best_global_step
        if not best:
            return
        named = root / f"checkpoint-{best}"
        here = best == self.state.global_step
        self.state.best_model_checkpoint = str(named) if here or named.is_dir() else None
        path = folder / "trainer_state.json"
        held = json.loads(path.read_text(encoding="utf-8"))
        held["best_model_checkpoint"] = self.state.best_model_checkpoint
        path.write_text(json.dumps(held, indent=2, sort_keys=True) + "\n", encoding="utf-8")
