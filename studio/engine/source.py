"""From a model's name to a local folder with config.json, safetensors and a tokenizer.

A name is one of the catalogue, a folder, or a Hub id. Whatever it is, the folder was checked: no
pickle weights, no code that comes with the model.
"""

from pathlib import Path

from studio.engine import embedded, hub
from studio.engine.folder import check_folder
from studio.engine.report import Report
from studio.errors import StudioError
from studio.plan.catalogue import CATALOGUE
from studio.plan.model import is_hub_id
from studio.settings import Settings
from studio.spec import ModelSection


def resolve(
    section: ModelSection, settings: Settings, report: Report, *, weights: bool = True
) -> Path:
    """The local folder of the model, fetched and converted first where that is needed.

    Without `weights` those of a Hub model are not fetched: enough to tokenize. Raises StudioError
    that says what is missing and what to do.
    """
    name = section.name_or_path
    entry = CATALOGUE.get(name)
    if entry is not None and section.revision is None:
        return embedded.prepare(entry, settings, report)
    if entry is None:
        folder = _local(name, settings)
        if folder is not None:
            if section.revision is not None:
                raise StudioError(
                    f"{name} is a folder, so it has no revision {section.revision}.",
                    "Leave the revision empty.",
                )
            check_folder(folder, name)
            return folder
    repo = entry.hub_id if entry else name
    if not is_hub_id(repo):
        raise StudioError(
            f"{name} is neither a folder nor the id of a Hub model.",
            "An id looks like owner/name; a folder's path starts at the workspace.",
        )
    folder = hub.fetch(repo, section.revision, settings, report, weights=weights)
    check_folder(folder, name, weights=weights)
    return folder


def _local(name: str, settings: Settings) -> Path | None:
    """The path that `name` means, there or not, or None where it can only be a Hub id."""
    path = (settings.workspace / Path(name).expanduser()).resolve()
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    return path if looks_local or path.exists() else None


def origin_of(section: ModelSection) -> str:
    """The name under which the base is found on another machine: the Hub id of a catalogue model,
    else what the person gave."""
    entry = CATALOGUE.get(section.name_or_path)
    return entry.hub_id if entry else section.name_or_path
