"""Taking a run's result out: the adapter as it is, or its weights merged into the base. Where all
of the weights were trained, they are the merged model already."""

import shutil
from pathlib import Path

from studio.engine.report import Report
from studio.errors import StudioError
from studio.runs import Run, files
from studio.settings import Settings


def export(run: Run, kind: str, out: Path, settings: Settings, report: Report) -> None:
    """Writes `out`, a folder that is whole or absent. `kind` is adapter or merged.

    Raises StudioError in words.
    """
    if not run.tuned:
        raise StudioError(
            "The run has no adapter to export.",
            "Choose one that finished, or was stopped after a step.",
        )
    whole = not (run.adapter / "adapter_config.json").is_file()
    if whole and kind == "adapter":
        raise StudioError(
            "All of the model's weights were trained in this run: there is no adapter.",
            "Take the merged model; it is what was trained.",
        )
    out.parent.mkdir(exist_ok=True)
    if whole or kind == "adapter":
        report.stage("copying the weights" if whole else "copying the adapter")
        with files.whole_folder(out) as aside:
            shutil.copytree(run.adapter, aside, dirs_exist_ok=True)
        return
    report.stage("loading the libraries")
    # Only here: a copy needs no torch.
    from studio.engine.merge import merge

    merge(run, out, settings, report)
