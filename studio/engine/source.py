"""From a model's name to a local folder with config.json, safetensors and a tokenizer.

A name is one of the catalogue, a folder, a GGUF file, or a Hub id. Whatever it is, the folder was
checked: no pickle weights and no code of the model's own, but those that somebody has allowed.
"""

from pathlib import Path

from studio.engine import embedded, gguf, hub
from studio.engine.folder import check_folder
from studio.engine.report import Report
from studio.engine.trust import check_consent
from studio.errors import StudioError
from studio.plan.catalogue import CATALOGUE
from studio.plan.model import is_gguf, is_hub_id
from studio.settings import Settings
from studio.spec import ModelSection


def resolve(
    section: ModelSection, settings: Settings, report: Report, *, weights: bool = True
) -> Path:
    """The local folder of the model, fetched and converted first where that is needed.

    Without `weights` those of a Hub model are not fetched: enough to tokenize. Raises StudioError
    that says what is missing and what to do.
    """
    folder = find(section, settings, report, weights=weights, code=section.trust_remote_code)
    if section.name_or_path in CATALOGUE and section.revision is None:
        return folder
    check_folder(
        folder,
        section.name_or_path,
        weights=weights or _local(section.name_or_path, settings) is not None,
        pickles=not section.use_safetensors,
        code=section.trust_remote_code,
    )
    if section.trust_remote_code:
        check_consent(folder, section.name_or_path, section.trusted_files)
    return folder


def find(
    section: ModelSection, settings: Settings, report: Report, *, weights: bool, code: bool
) -> Path:
    """As `resolve`, but nothing that is found is judged. With `code` the Python files of a Hub
    model are fetched too; to fetch is not to run."""
    name = section.name_or_path
    entry = CATALOGUE.get(name)
    if entry is not None and section.revision is None:
        return embedded.prepare(entry, settings, report)
    if entry is None:
        folder = _local(name, settings)
        if folder is not None and is_gguf(folder):
            folder = gguf.unpack(folder, settings, report)
        if folder is not None:
            if section.revision is not None:
                raise StudioError(
                    f"{name} is a folder, so it has no revision {section.revision}.",
                    "Leave the revision empty.",
                )
            return folder
    repo = entry.hub_id if entry else name
    if not is_hub_id(repo):
        raise StudioError(
            f"{name} is neither a folder nor the id of a Hub model.",
            "An id looks like owner/name; a folder's path starts at the workspace.",
        )
    return hub.fetch(
        repo,
        section.revision,
        settings,
        report,
        weights=weights,
        pickles=not section.use_safetensors,
        code=code,
    )


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
