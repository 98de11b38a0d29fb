"""The module tree and the consent: what is drawn, and what a click changes."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studio import jobs
from studio.errors import StudioError
from studio.settings import Settings
from studio.spec import RunSpec, parse
from studio.ui import model_tab, modules

LINES = [
    {"depth": 0, "name": "", "text": "Tiny", "target": ""},
    {"depth": 1, "name": "(q_proj)", "text": "Linear(<64>)", "target": "q_proj"},
    {"depth": 1, "name": "(v_proj)", "text": "Linear(64)", "target": "v_proj"},
    {"depth": 1, "name": "(lm_head)", "text": "Linear(64)", "target": ""},
]
NAMES = ["q_proj", "v_proj"]


def spec_with(**adapter: Any) -> RunSpec:
    return parse({"adapter": adapter})


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> dict[str, Any]:
    """The tree as the model's process would hand it over."""

    def tree(_settings: Settings, _spec: RunSpec) -> Iterator[dict[str, Any]]:
        yield {"stage": "building its shapes"}
        yield {"done": True, "lines": LINES, "trained": 50, "parameters": 1000}

    monkeypatch.setattr(jobs, "tree", tree)
    (_, waiting), (kept, _) = modules.ask(settings, spec_with())
    assert "building its shapes" in waiting
    return kept


def test_targets_are_pressed_and_the_head_is_none(kept: dict[str, Any]) -> None:
    drawn = modules.shown(kept, spec_with(target_modules=["v_proj"]))
    assert drawn.count("aria-pressed='true'") == 1 and drawn.count("aria-pressed='false'") == 1
    assert "Targets: v_proj." in drawn and "Linear(&lt;64&gt;)" in drawn
    assert drawn.count("data-pick") == 2
    assert modules.shown(kept, spec_with()).count("aria-pressed='true'") == 2


def test_the_share_is_told_only_for_what_was_counted(kept: dict[str, Any]) -> None:
    assert "50 of 1,000 parameters (5 %)" in modules.shown(kept, spec_with())
    assert "1,000" not in modules.shown(kept, spec_with(r=8))


def test_another_model_is_not_shown_with_this_ones_tree(kept: dict[str, Any]) -> None:
    assert modules.shown(kept, parse({"model": {"name_or_path": "owner/other"}})) == ""
    assert modules.shown({}, spec_with()) == ""


def test_a_method_without_layers_has_no_targets(kept: dict[str, Any]) -> None:
    drawn = modules.shown(kept, spec_with(method="prompt_tuning"))
    assert "aria-pressed='true'" not in drawn and "changes no layer" in drawn


@pytest.mark.parametrize(
    ("held", "pressed", "then"),
    [
        ("all-linear", "q_proj", ["v_proj"]),
        (["all-linear"], "q_proj", ["v_proj"]),
        (["v_proj"], "q_proj", "all-linear"),
        (["q_proj"], "q_proj", []),
        ([], "v_proj", ["v_proj"]),
    ],
)
def test_a_press_adds_or_removes(held: Any, pressed: str, then: Any) -> None:
    act = {"do": "target", "name": pressed, "names": NAMES}
    tree = {"adapter": {"target_modules": held}}
    assert modules.toggled(tree, act) == {"adapter.target_modules": then}


@pytest.mark.parametrize(
    "act",
    [{}, {"do": "set"}, {"do": "target"}, {"do": "target", "name": "x", "names": NAMES},
     {"do": "consent"}, {"do": "consent", "files": "all"}],
)  # fmt: skip
def test_what_is_no_act_changes_nothing(act: dict[str, Any]) -> None:
    assert modules.toggled({}, act) == modules.consented(act) == {}


def test_files_are_shown_with_their_text_before_anybody_consents(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    file = {"name": "a.py", "sha256": "f00", "text": "<script>x</script>"}
    reply = {"done": True, "files": [file], "consent": ["a.py=f00"]}
    monkeypatch.setattr(jobs, "code", lambda *_: iter([reply]))
    (drawn,) = modules.ask_code(settings, spec_with())
    assert "a.py" in drawn and "f00" in drawn and "<script>" not in drawn
    assert "let them run" in drawn
    act = {"do": "consent", "files": ["a.py=f00"]}
    changes = modules.consented(act)
    assert changes == {"model.trust_remote_code": True, "model.trusted_files": ["a.py=f00"]}
    given = parse({"model": {"trust_remote_code": True, "trusted_files": ["a.py=f00"]}})
    (drawn,) = modules.ask_code(settings, given)
    assert "You have consented" in drawn and "let them run" not in drawn


def test_an_error_is_a_sentence(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    def fail(*_: Any) -> Iterator[dict[str, Any]]:
        raise StudioError("It is gone.", "Look elsewhere.")
        yield {}

    monkeypatch.setattr(jobs, "tree", fail)
    monkeypatch.setattr(jobs, "code", fail)
    ((kept, drawn),) = modules.ask(settings, spec_with())
    assert kept == {} and "It is gone." in drawn
    assert "It is gone." in next(modules.ask_code(settings, spec_with()))


def test_a_token_stands_in_a_file_of_its_owner_and_nowhere_else(settings: Settings) -> None:
    assert settings.hub_token is None and "No token" in model_tab.token_words(settings)
    said = model_tab.keep(settings, " hf_secret ")
    assert settings.hub_token == "hf_secret" and "hf_secret" not in said
    files = [path for path in settings.home.rglob("*") if path.is_file()]
    assert [p for p in files if "hf_secret" in p.read_text(errors="replace")] == files
    (path,) = files
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "No token" in model_tab.keep(settings, None) and settings.hub_token is None


@pytest.mark.parametrize("wrong", ["", "  ", "a b", "a\nX-Header: 1", "tökén"])
def test_what_is_no_token_is_not_kept(settings: Settings, wrong: str) -> None:
    assert "That is no token." in model_tab.keep(settings, wrong)
    assert not Path(settings.home / "hub_token").exists()
