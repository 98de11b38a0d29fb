"""The command line: one JSON object at the end, exit 0 only if it was done, and sentences."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from studio.cli import main
from studio.runs import Run, RunStore
from studio.runs.events import append
from studio.settings import PROJECT
from studio.spec import DEFAULTS, with_overrides

RECIPE = str(PROJECT / "presets" / "persona.yaml")


class Answer:
    """What a command said: its exit status, its words, and the JSON of its last line."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found


@pytest.fixture
def studio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command with a home of its own."""

    def call(*arguments: str) -> Answer:
        code = main([*arguments, "--home", str(tmp_path)])
        return Answer(code, *capsys.readouterr())

    return call


@pytest.fixture
def ended(tmp_path: Path) -> Run:
    """A run that trained two steps."""
    run = RunStore(tmp_path / "runs").create(
        with_overrides(DEFAULTS, ["train.max_steps=2"]), "mine"
    )
    for event in (
        {"type": "start", "max_steps": 2},
        {"type": "eval", "step": 0, "eval_loss": 3.0},
        {"type": "log", "step": 1, "loss": 2.5},
        {"type": "log", "step": 2, "loss": 2.0},
        {"type": "note", "text": "Zwölf Zeilen ☕"},
        {"type": "end", "status": "finished", "train_loss": 2.25, "eval_loss": 1.75},
    ):
        append(run.events, event)
    return run


def outside(*arguments: str, **env: str) -> Answer:
    """A command in a process of its own."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT, env={**os.environ, **env},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("command", ["run", "preview"])
def test_every_wrong_field_is_told_at_once(studio: Any, tmp_path: Path, command: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train:\n  sede: 1\n  optim: adam\n", encoding="utf-8")
    wrong = ("--set", "adapter.r=0", "--set", "generate.top_p=.nan", "--set", "seed=1")
    said = studio(command, str(recipe), *wrong, "--json")
    assert said.code == 1 and not (tmp_path / "runs").exists()
    problems = {p["field"]: p for p in said.json["problems"]}
    assert set(problems) == {"train.sede", "train.optim", "adapter.r", "generate.top_p", "seed"}
    assert problems["train.sede"]["hint"] == "Did you mean seed?"
    assert all(p["message"] and p["hint"] for p in problems.values())
    assert all(field in said.err for field in problems)


def test_without_json_the_problems_are_words_on_stderr(studio: Any) -> None:
    said = studio("run", RECIPE, "--set", "train.sede=1")
    assert (said.code, said.out) == (1, "")
    assert said.err.strip() == "train.sede: is not a setting. Did you mean seed?"


def test_a_recipe_that_is_not_there_is_told(studio: Any) -> None:
    said = studio("run", "nix.yaml", "--json")
    assert said.code == 1
    assert said.json["error"] == "There is no recipe nix.yaml." and said.json["hint"]


def test_no_runs_are_an_empty_list(studio: Any) -> None:
    said = studio("runs", "--json")
    assert (said.code, said.json) == (0, {"runs": []})
    assert "presets/persona.yaml" in studio("runs").out


def test_runs_are_listed_with_what_they_reached(studio: Any, ended: Run) -> None:
    (row,) = studio("runs", "--json").json["runs"]
    reached = {"status": "finished", "global_step": 2, "train_loss": 2.25, "eval_loss": 1.75}
    assert row == {"run": ended.id, **reached}
    line = studio("runs").out
    assert ended.id in line and "finished" in line and "2.2500" in line


def test_a_run_is_shown_with_its_chart(studio: Any, ended: Run) -> None:
    said = studio("show", "mine", "--json")
    assert said.code == 0 and said.json["run"] == ended.id and said.json["status"] == "finished"
    assert said.json["max_steps"] == 2 and said.json["problem"] is None
    assert said.json["history"] == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}]
    assert said.json["evaluations"] == [{"step": 0, "eval_loss": 3.0}]
    assert said.json["notes"] == ["Zwölf Zeilen ☕"]
    assert "max_steps: 2" in studio("show", "mine").out


def test_a_failed_run_is_shown_with_what_to_do(studio: Any, ended: Run) -> None:
    failure = {"message": "Out of memory.", "hint": "Take a batch of 2.", "stage": "training"}
    append(ended.events, {"type": "end", "status": "failed", **failure})
    said = studio("show", ended.id, "--json")
    assert said.json["status"] == "failed"
    assert said.json["problem"] == {
        "what": "Out of memory.", "do": "Take a batch of 2.", "stage": "training",
    }  # fmt: skip
    assert "Take a batch of 2." in studio("show", ended.id).out


@pytest.mark.parametrize(
    "command",
    [
        ("show", "nix"),
        ("stop", "nix"),
        ("chat", "nix", "--prompt", "Hi"),
        ("export", "nix", "--format", "adapter", "--out", "nowhere"),
    ],
    ids=lambda c: c[0],
)
def test_an_unknown_run_is_told(studio: Any, command: tuple[str, ...]) -> None:
    said = studio(*command, "--json")
    assert said.code == 1 and said.json["error"] == "There is no run nix."
    assert "studio runs" in said.json["hint"]


def test_a_run_that_is_over_cannot_be_stopped(studio: Any, ended: Run) -> None:
    said = studio("stop", "mine", "--json")
    assert said.code == 1 and "is not going" in said.json["error"]


def test_an_export_of_a_run_without_an_adapter_is_told(
    studio: Any, ended: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    said = studio("export", "mine", "--format", "merged", "--out", str(out), "--json")
    assert said.code == 1 and "has no adapter" in said.json["error"]
    assert not out.exists()


def test_a_wrong_override_of_a_chat_is_told(studio: Any, ended: Run) -> None:
    wrong = ("--set", "generate.temperature=0", "--set", "generate.topp=1")
    said = studio("chat", "mine", "--prompt", "Hi", *wrong, "--json")
    fields = [p["field"] for p in said.json["problems"]]
    assert said.code == 1 and fields == ["generate.temperature", "generate.topp"]


@pytest.mark.parametrize("port", ["http", "70000"])
def test_a_wrong_port_is_told(studio: Any, monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("PORT", port)
    said = studio("runs", "--json")
    assert said.code == 1 and said.json["error"].startswith(f"PORT={port} is not")


def test_a_home_that_can_be_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--home", "~nobody-of-that-name/x", "--json"]) == 1
    assert "can't be used as a path" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["preview", RECIPE, "--rows", "0"], ["preview", RECIPE, "--start", "-1"], ["dance"], []],
)
def test_a_wrong_argument_ends_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m studio" in capsys.readouterr().err


def test_the_doctor_tells_in_json_what_it_found(studio: Any) -> None:
    said = studio("doctor", "--json")
    assert said.code == 0 and said.json["ok"] is True
    assert {c["name"] for c in said.json["checks"]} >= {"python", "torch", "machine", "home"}


HEAVY = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "gradio", "datasets")


def test_the_command_line_works_where_no_model_library_can_be_imported() -> None:
    script = (
        f"import sys\nsys.modules.update(dict.fromkeys({HEAVY}))\n"
        "sys.argv = ['studio', *sys.argv[1:]]\n"
        "from studio.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "sys.exit(main(['runs', '--home', sys.argv[1], '--json']))\n"
    )
    said = outside("-c", script, "/nowhere")
    assert said.code == 0, said.err
    assert "doctor" in said.out and said.json == {"runs": []}


def test_the_module_is_a_program(tmp_path: Path) -> None:
    said = outside("-m", "studio", "show", "nix", "--json", STUDIO_HOME=str(tmp_path))
    assert said.code == 1
    assert said.json["error"] == "There is no run nix." and said.err.strip()


@pytest.mark.parametrize("gpu", ["h100-80gb", "4070"])
def test_a_run_is_planned_for_a_gpu_that_is_not_here(studio: Any, gpu: str) -> None:
    sets = ("model.name_or_path=Qwen/Qwen3-8B", "train.max_steps=50")
    said = studio("plan", RECIPE, "--gpu", gpu, "--json", *[p for s in sets for p in ("--set", s)])
    found = said.json
    assert sum(found["parts"].values()) == pytest.approx(found["total"], abs=20)
    assert said.code == (0 if found["fits"] else 1)
    assert found["fits"] == (gpu == "h100-80gb")
    assert (found["lacks"] > 0) == (gpu == "4070") and found["free"] > 1e10
    assert found["seconds"] > 0 and found["engine"] == "fast" and found["steps"] == 50
    assert all(reason["why"] for reason in found["chosen"])
    # What is chosen fits on both, with the rows of the file that is here.
    assert found["with_auto"]["fits"] and found["rows_known"] and not found["remedy"]
    assert found["changes"].get("model.quantization", "none") == (
        "none" if gpu[0] == "h" else "nf4"
    )


def test_a_plan_is_told_in_words_too(studio: Any) -> None:
    said = studio("plan", RECIPE)
    assert "total" in said.out and "threads" not in said.err
    assert "train.engine = " in said.out and "So it takes" in said.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "abacus"), "no GPU abacus"),
        (("--set", "model.name_or_path=owner/unknown"), "before it is fetched"),
        (("--gpu", "h100", "--probe"), "on this machine"),
    ],
)
def test_what_can_not_be_planned_is_said(
    studio: Any, arguments: tuple[str, ...], words: str
) -> None:
    said = studio("plan", RECIPE, *arguments)
    assert said.code == 1 and words in said.err
