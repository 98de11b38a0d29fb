"""Settings from the environment, and the paths that the page may reach."""

from pathlib import Path

import pytest

from studio.errors import StudioError
from studio.settings import Settings


@pytest.fixture
def confined(tmp_path: Path) -> Settings:
    """A workspace and a home side by side, with a secret beside both."""
    for name in ("work/sub", "home/runs", "presets", "workshop"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "secret.jsonl").write_text("{}", encoding="utf-8")
    return Settings(
        home=tmp_path / "home", workspace=tmp_path / "work", presets=tmp_path / "presets"
    )


def test_the_environment_decides(tmp_path: Path) -> None:
    env = {
        "STUDIO_HOME": str(tmp_path / "h"), "STUDIO_WORKSPACE": str(tmp_path), "HOST": "0.0.0.0",
        "PORT": "8000", "STUDIO_BENCH_IDLE": "5",
    }  # fmt: skip
    settings = Settings.from_env(env)
    assert (settings.home, settings.workspace) == (tmp_path / "h", tmp_path)
    assert (settings.host, settings.port, settings.bench_idle_s) == ("0.0.0.0", 8000, 5)
    assert settings.runs == tmp_path / "h" / "runs"


def test_an_empty_environment_serves_this_machine_only() -> None:
    for env in ({}, {"HOST": "", "PORT": "", "STUDIO_HOME": ""}):
        settings = Settings.from_env(env)
        assert (settings.host, settings.port) == ("127.0.0.1", 7860)
        assert settings.home == Path.home() / ".atelier"


@pytest.mark.parametrize("text", ["0", "65536", "-1", "80.5", "http", "1e4", " ", "²", "9" * 5000])
def test_a_wrong_port_is_told_with_the_remedy(text: str) -> None:
    with pytest.raises(StudioError, match="PORT=") as caught:
        Settings.from_env({"PORT": text})
    assert "65535" in caught.value.message and "7860" in caught.value.hint


@pytest.mark.parametrize("path", ["a.jsonl", "sub/../a.jsonl", "./sub", "", "sub/new/deeper.csv"])
def test_paths_in_the_workspace_are_taken(confined: Settings, path: str) -> None:
    assert confined.confine(path) == (confined.workspace / path).resolve()


def test_the_home_and_the_presets_are_taken(confined: Settings) -> None:
    assert confined.confine(str(confined.runs / "x")) == confined.runs / "x"
    assert confined.confine("../presets/a.yaml") == confined.presets / "a.yaml"


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jsonl",
        "sub/../../secret.jsonl",
        "/etc/passwd",
        "..",
        "/",
        "~",
        "~root/x",
        "../workshop",
    ],
)
def test_paths_outside_are_refused(confined: Settings, path: str) -> None:
    with pytest.raises(StudioError, match="outside the workspace") as caught:
        confined.confine(path)
    assert str(confined.workspace) in caught.value.hint


def test_models_may_lie_on_another_disk(confined: Settings, tmp_path: Path) -> None:
    disk = tmp_path / "disk" / "tiny"
    disk.mkdir(parents=True)
    confined.home.mkdir(exist_ok=True)
    confined.models.symlink_to(disk.parent)
    assert confined.confine(str(confined.models / "tiny")) == disk


def test_a_link_that_leads_outside_is_refused(confined: Settings) -> None:
    (confined.workspace / "link.jsonl").symlink_to(confined.workspace.parent / "secret.jsonl")
    (confined.workspace / "up").symlink_to("..")
    (confined.workspace / "inside").symlink_to("sub")
    for path in ("link.jsonl", "up/secret.jsonl", "up", "inside/../../secret.jsonl"):
        with pytest.raises(StudioError, match="outside the workspace"):
            confined.confine(path)
    assert confined.confine("inside/a") == confined.workspace / "sub" / "a"


def test_a_workspace_that_is_a_link_is_still_one(confined: Settings) -> None:
    link = confined.workspace.parent / "link"
    link.symlink_to(confined.workspace)
    settings = Settings(home=confined.home, workspace=link, presets=confined.presets)
    assert settings.confine("sub/a") == confined.workspace / "sub" / "a"


@pytest.mark.parametrize(
    "path", ["a\0b", "~nobody-of-that-name/x", "a" * 5000, "x/" * 3000, "loop/a"]
)
def test_what_can_be_no_path_is_told_in_a_sentence(confined: Settings, path: str) -> None:
    (confined.workspace / "loop").symlink_to("loop")
    for look in (confined.resolve, confined.confine):
        with pytest.raises(StudioError, match="can't be used as a path") as caught:
            look(path)
        assert len(caught.value.message) < 6200 and caught.value.hint
