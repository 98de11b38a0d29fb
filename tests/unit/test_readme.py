"""The README is true where a test can tell."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 150


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_what_it_links_to_is_there(link: str) -> None:
    assert (ROOT / link).is_file()


def test_it_shows_the_page() -> None:
    assert len(re.findall(r"!\[[^]]+\]\(docs/[a-z]+\.png\)", README)) >= 2


@pytest.mark.parametrize("command", sorted(set(re.findall(r"python -m studio ([a-z-]+)", README))))
def test_the_commands_it_names_exist(command: str) -> None:
    cli = (ROOT / "studio" / "cli" / "__init__.py").read_text(encoding="utf-8")
    assert re.search(rf'\(\s*"{command}",', cli)


@pytest.mark.parametrize(
    "place", re.findall(r"^    ([a-z]+/[a-z_/]*[a-z_]+\.py|[a-z]+/[a-z]+/) ", README, re.M)
)
def test_the_places_it_names_exist(place: str) -> None:
    assert (ROOT / place).exists()
