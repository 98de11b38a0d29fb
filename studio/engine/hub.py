"""Model files from the Hub: safetensors, configs and tokenizers, nothing that could run."""

import errno
from pathlib import Path
from typing import Any

from tqdm import tqdm

from studio.engine.explain import first_line
from studio.engine.report import Report
from studio.errors import StudioError
from studio.settings import Settings

_TOKENIZER_FILES = ["*.json", "*.jinja", "tokenizer*", "*.model", "vocab.txt", "merges.txt"]
# Folders hold other formats of the same weights; Mistral's consolidated file is a second copy.
_LEFT_OUT = ["*/*", "consolidated*"]
# What the disk says; every other number comes from the network.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def fetch(
    repo: str,
    revision: str | None,
    settings: Settings,
    report: Report,
    *,
    weights: bool = True,
    into: Path | None = None,
    pickles: bool = False,
    code: bool = False,
) -> Path:
    """The folder with the model's files: `into`, or the Hub's cache, which works without a network
    once it is filled. Raises StudioError where the Hub says no or can't be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    report.stage(f"asking the Hub for {repo}")
    offline = _unreachable(repo, revision, settings)
    report.stage(text := f"fetching {repo}")
    patterns = [*_TOKENIZER_FILES, *(["*.py"] if code else [])]
    if weights:
        patterns += ["*.safetensors", *(["*.bin", "*.bin.index.json"] if pickles else [])]
    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=_LEFT_OUT,
            local_dir=into,
            tqdm_class=_bar(report, text),
            etag_timeout=settings.hub_timeout_s,
            local_files_only=offline,
            token=settings.hub_token,
        )
        return Path(folder)
    except LocalEntryNotFoundError:
        raise _absent(repo) from None
    # The files may come from another server than the one that was asked above.
    except Exception as error:
        if not _is_network(error):
            raise
        raise StudioError(
            f"The Hub broke off while sending {repo}: {first_line(error)}", "Try again."
        ) from None


def _absent(repo: str) -> StudioError:
    return StudioError(
        f"{repo} is not on this machine, and the Hub can't be reached.",
        "Check the network or HF_ENDPOINT, unset HF_HUB_OFFLINE, or give a model's folder.",
    )


def _unreachable(repo: str, revision: str | None, settings: Settings) -> bool:
    """Whether the Hub can't be reached. Raises StudioError where it answers and says no."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if constants.is_offline_mode():
        return True
    try:
        HfApi(token=settings.hub_token).model_info(
            repo, revision=revision, timeout=settings.hub_timeout_s
        )
    except GatedRepoError:
        raise StudioError(
            f"{repo} is gated: its owner wants to know who uses it.",
            "Accept its terms on its Hub page, then run `hf auth login`.",
        ) from None
    except RevisionNotFoundError:
        raise StudioError(
            f"{repo} has no revision {revision}.", "Check the branch, tag or commit."
        ) from None
    except RepositoryNotFoundError:
        raise StudioError(
            f"The Hub has no model {repo}, or it is private.",
            "Check the spelling; a private one needs `hf auth login`.",
        ) from None
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code < 500:
            raise StudioError(
                f"The Hub refused {repo}: {first_line(error)}", "Check the id and `hf auth whoami`."
            ) from None
        return True
    # The HTTP client's errors share no public base class; what is not the network's is raised.
    except Exception as error:
        if not _is_network(error):
            raise
        return True
    return False


def _is_network(error: BaseException) -> bool:
    """Whether the error comes from the connection: the client's classes or the socket's. One of
    the disk's is explained elsewhere."""
    if isinstance(error, OSError):
        return error.errno not in _DISK
    clients = ("httpx", "httpx2", "httpcore", "httpcore2", "hf_xet")
    return type(error).__module__.split(".")[0] in clients


def _bar(report: Report, text: str) -> type[tqdm]:
    """A progress bar that draws nothing and reports the bytes."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._written = kwargs.get("unit") == "B" and "Downloading" not in kwargs.get(
                "desc", ""
            )
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            if self._written and self.total:
                report.stage(text, int(self.n), int(self.total))
            return None

    return Bar
