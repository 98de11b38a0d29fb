"""Where things are and how long things may take: read once from the environment, passed in."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from studio.errors import StudioError

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """Frozen settings. `home` holds runs, models, recipes and uploads; `workspace` is the one
    other folder that the page may read data and models from."""

    home: Path
    workspace: Path
    presets: Path = PROJECT / "presets"
    host: str = "127.0.0.1"
    port: int = 7860
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    hub_timeout_s: float = 5.0
    bench_idle_s: float = 600.0
    # Whether a worker is kept ready while a page is looked at; as `from_env` has it, yes.
    spare: bool = False
    # Why this studio changes nothing in its home, where that is so.
    looks_only: str = ""

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def recipes(self) -> Path:
        return self.home / "recipes"

    @property
    def uploads(self) -> Path:
        return self.home / "uploads"

    @property
    def hub_token(self) -> str | None:
        """The token for the Hub that was typed into the page, if any. It stands in a file that only
        its owner can read, and nowhere else."""
        try:
            return (self.home / "hub_token").read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def check_writable(self) -> None:
        """Raises StudioError where this studio only looks."""
        if self.looks_only:
            raise StudioError(self.looks_only, "Here you can only look.")

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders that paths typed into the page must lie in."""
        # Models are large: their folder may be a link to another disk.
        return (self.workspace, self.home, self.models, self.presets)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> "Settings":
        """Reads STUDIO_HOME, STUDIO_WORKSPACE, HOST, PORT, STUDIO_HOSTS (names under which the page
        may be asked for, with commas), STUDIO_BENCH_IDLE (seconds) and STUDIO_SPARE (0 or 1)."""
        env = os.environ if env is None else env
        home = _full(Path(env.get("STUDIO_HOME") or Path.home() / ".atelier"))
        workspace = _full(Path(env.get("STUDIO_WORKSPACE") or Path.cwd()))
        return cls(
            home=home,
            workspace=workspace,
            # A Space's page is reached through a proxy on another address of its container.
            host=env.get("HOST") or ("0.0.0.0" if env.get("SPACE_ID") else "127.0.0.1"),
            hosts=_hosts(env),
            port=_number(env, "PORT", 7860, low=1, high=65535),
            bench_idle_s=_number(env, "STUDIO_BENCH_IDLE", 600, low=1, high=86_400),
            spare=_number(env, "STUDIO_SPARE", 1, low=0, high=1) == 1,
        )

    def resolve(self, path: str, base: Path | None = None) -> Path:
        """The path, from `base` or else the workspace on, with its links followed.

        Raises StudioError for a text that can't be a path here, or one that may not be looked at.
        """
        return _full(Path(path), base or self.workspace)

    def confine(self, path: str) -> Path:
        """The path, if it lies in one of `roots`; links are followed before that is judged.

        Raises StudioError otherwise.
        """
        full = self.resolve(path)
        if not any(full.is_relative_to(root.resolve()) for root in self.roots):
            raise StudioError(
                f"{path} lies outside the workspace.",
                f"Put it under {self.workspace}, or start Atelier with STUDIO_WORKSPACE set.",
            )
        return full


def _hosts(env: Mapping[str, str]) -> tuple[str, ...]:
    """A Space has a name of its own, and a proxy before it that judges names."""
    named = [name.strip() for name in env.get("STUDIO_HOSTS", "").split(",") if name.strip()]
    return ("*",) if env.get("SPACE_ID") else (*Settings.hosts, *named)


def _full(path: Path, base: Path | None = None) -> Path:
    try:
        full = ((base or Path.cwd()) / path.expanduser()).resolve()
        # A name that is too long is found out only by asking.
        full.exists()
    except (OSError, RuntimeError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        shown = str(path) if len(str(path)) <= 60 else f"{str(path)[:57]}..."
        raise StudioError(
            f"{shown!r} can't be used as a path: {reason}.", "Check the spelling."
        ) from None
    return full


def _number(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name) or str(default)
    if not text.isdecimal() or len(text) > 9 or not low <= int(text) <= high:
        raise StudioError(
            f"{name}={text} is not a whole number from {low} to {high}.",
            f"Unset it, or set it to {default}.",
        )
    return int(text)
