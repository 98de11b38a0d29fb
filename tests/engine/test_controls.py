"""No dead control: every field of the form changes what the libraries are really given.

Each field is set to another legal value, with what it takes to be used at all, and what comes out
at the other end is compared: the trainer's settings and callbacks, peft's configuration, what the
model is loaded with, the rows that are trained on, how answers are generated. A field that is
added without effect fails here, and nobody has to list it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from studio.data import Example
from studio.data.opening import open_data
from studio.data.sources import origins
from studio.engine import load, quick, source, trainers
from studio.engine.adapters import adapter_config, arrange
from studio.engine.chat import _messages
from studio.engine.config import trainer_config
from studio.engine.dataset import prepare
from studio.engine.encode import Encoder
from studio.engine.generate import Speaker, generation_config
from studio.engine.load import Hardware, hardware, load_model
from studio.engine.quick import wanted
from studio.engine.rewards import rewards
from studio.engine.stopping import stop_early
from studio.engine.tokenizer import load_tokenizer
from studio.engine.trainers import trainer_class
from studio.errors import StudioError
from studio.runs import Run
from studio.settings import Settings
from studio.spec import SECTIONS, RunSpec, parse
from tests.alternatives import keys, pairs
from tests.engine.helpers import Recorder

CPU = Hardware("cpu", torch.float32)
TRAINING = ("train", "fast", "eval", "cpt", "dpo", "kto", "orpo", "reward", "grpo")
Received = Callable[[RunSpec], Any]


@pytest.fixture
def training(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Received:
    """The trainer's class, its settings as it holds them, who may stop it, what it rewards, what
    the fast path is asked for, and how a text is encoded for it."""
    # As on a GPU that has it: this machine refuses it before anything is made.
    monkeypatch.setattr(transformers.training_args, "is_torch_tf32_available", lambda: True)
    monkeypatch.setattr(quick, "_new_enough", lambda where: True)

    def received(spec: RunSpec) -> Any:
        arguments = trainer_config(spec, Run(Path("run")), CPU, evaluate=True)
        callbacks: list[Any] = []
        trainer = SimpleNamespace(args=arguments, add_callback=callbacks.append)
        stop_early(trainer, spec)
        text = Encoder.of(tiny_tokenizer, spec).one(Example("text", prompt="The tea."))
        return (
            trainer_class(spec.train.trainer),
            wanted(spec, CPU),
            arguments.to_dict(),
            [callback.state() for callback in callbacks],
            _rewarded(spec, settings, monkeypatch),
            quick.wanted(spec, CPU),
            text.sequences[0].input_ids.tolist(),
        )

    return received


def _rewarded(spec: RunSpec, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The rewards of some answers, and the reward model that was asked for."""
    named: list[str] = []

    def load_scorer(name: str, *_: Any) -> Any:
        named.append(name)
        return SimpleNamespace(score=lambda prompts, answers: [0.5 for _ in answers])

    monkeypatch.setattr("studio.engine.reward.load_scorer", load_scorer)
    own = trainers.own_arguments(spec, settings, CPU, Recorder())
    answers = ["aa", "x , z", "b", "{}"]
    given = {
        "completions": answers,
        "completion_ids": [[1] * (5 * n + 1) for n in range(4)],
        "answer": answers,
        "messages": ["[]"] * 4,
    }
    functions = own.get("reward_funcs", [])
    return named, [(f.__name__, f(**given)) for f in functions]


@pytest.fixture
def adapting(tiny_model: Path) -> Received:
    """peft's configuration, and what the trainer is told of the method."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)

    def received(spec: RunSpec) -> Any:
        trainer = SimpleNamespace(model=SimpleNamespace(), add_callback=lambda _: None)
        if spec.adapter.method == "lora":
            arrange(trainer, spec)
        try:
            config = adapter_config(spec, model, {}, folder=tiny_model)
        except StudioError as error:
            # The model's own names are judged where they arrive: that is an effect, too.
            return str(error)
        held = {} if config is None else config.to_dict()
        return type(config), held, getattr(trainer, "loraplus_lr_ratio", None)

    return received


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch, settings: Settings, tiny_model: Path) -> Received:
    """What transformers loads the model with, where it is looked for, and what is consented to."""
    asked: list[Any] = []

    class Auto:
        @staticmethod
        def from_pretrained(*arguments: Any, **more: Any) -> Any:
            asked.append((arguments, {k: _plain(v) for k, v in more.items()}))
            return None, {"missing_keys": [], "mismatched_keys": []}

    def fetch(*arguments: Any, **more: Any) -> Path:
        asked.append((arguments[:2], more))
        return tiny_model

    def consent(*arguments: Any) -> None:
        asked.append(arguments[2:])

    monkeypatch.setattr(load._guarded, "__defaults__", (Auto,))
    monkeypatch.setattr(source.hub, "fetch", fetch)
    monkeypatch.setattr(source, "check_consent", consent)

    def received(spec: RunSpec) -> Any:
        asked.clear()
        # Of the catalogue nothing is downloaded here.
        section = spec.model
        if section.name_or_path == "SmolLM2-135M-Instruct":
            section = section.model_copy(update={"name_or_path": "owner/other"})
        try:
            source.resolve(section, settings, Recorder())
            where = hardware(section)
        except StudioError as error:
            return str(error)
        load_model(section, tiny_model, where, Recorder())
        return str(asked)

    return received


def _plain(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else value


@pytest.fixture
def generating(tiny_tokenizer: Any) -> Received:
    """What transformers generates with, what the model is told first, and the dice."""
    speaker = SimpleNamespace(ends=[2], tokenizer=tiny_tokenizer)

    def received(spec: RunSpec) -> Any:
        config = generation_config(spec.generate, _as(speaker))
        asked = _messages("base", [{"role": "user", "content": "?"}], spec.generate)
        return config.to_dict(), asked, spec.generate.seed

    return received


def _as(speaker: Any) -> Speaker:
    return speaker  # type: ignore[no-any-return]


ROWS = [{"q": f"What is {n}? " + "x " * n, "a": f"It is {n}.", "n": n} for n in range(40)]
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
# Of each field of the data a pair of sections on the files below: the defaults can't be read here.
DATA: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "encoding": ({"path": "latin.csv"}, {"encoding": "cp850"}),
    "weight": ({}, {"weight": 2.0}),
    "also": ({}, {"also": [{"path": "more.jsonl"}]}),
    "layout": ({"path": "text.jsonl"}, {"layout": "text"}),
    "columns": ({"path": "rows.jsonl"}, {"columns": {"prompt": "a", "completion": "q"}}),
    "prompt_template": ({}, {"prompt_template": "{{ q }}"}),
    "completion_template": ({"prompt_template": "{{ q }}"}, {"completion_template": "{{ a }}"}),
    "steps": ({}, {"steps": [{"do": "take", "rows": 7}]}),
    "validation": ({}, {"validation": "5"}),
    "test": ({}, {"test": "5"}),
    "chat_template": ({}, {"chat_template": "chatml"}),
    "chat_template_jinja": (
        {"chat_template": "custom", "chat_template_jinja": PLAIN},
        {"chat_template_jinja": PLAIN.replace("<|im_end|>", "<|im_end|>\n")},
    ),
    "add_template_tokens": ({"chat_template": "llama-3"}, {"add_template_tokens": True}),
    "train_on": ({}, {"train_on": "everything"}),
    "accepted": ({"path": "long.jsonl"}, {"accepted": ["cut", "nothing_trained"]}),
}
# These name where rows come from: what is opened tells.
NAMED = ("path", "name", "split", "revision")


@pytest.fixture
def reading(tiny_model: Path, settings: Settings) -> Callable[[dict[str, Any]], Any]:
    """All rows as the trainer gets them, by part; or the sentence with which they are refused."""
    folder = settings.workspace
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    for name in ("rows.jsonl", "more.jsonl"):
        (folder / name).write_text(lines)
    text = [{"text": f"The tea {n}.", "prompt": "?", "completion": "!"} for n in range(40)]
    (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in text))
    long = [{"q": "x " * 900, "a": "y"} for _ in range(40)]
    (folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long + ROWS[:1]))
    rows = "".join(f"Grüße {n},Öl {n}\n" for n in range(40))
    (folder / "latin.csv").write_bytes(f"prompt,completion\n{rows}".encode("cp1252"))

    def received(data: dict[str, Any]) -> Any:
        section = {"path": "rows.jsonl", "columns": {"prompt": "q", "completion": "a"}, **data}
        if data.get("path") in ("latin.csv", "text.jsonl"):
            section["columns"] = {}
        if "prompt_template" in data:
            section["columns"] = {}
        spec = parse({"data": section, "train": {"max_length": 400}})
        try:
            opened = open_data(spec.data, settings, Recorder())
            loaded = load_tokenizer(tiny_model, spec.data)
            found = prepare(opened, loaded.tokenizer, spec, settings, Recorder())
        except StudioError as error:
            return str(error)
        parts = (found.train, found.validation, found.test)
        return [part.to_dict() if part is not None else None for part in parts]

    return received


def _differs(received: Received, key: str) -> bool:
    tried = list(pairs(key))
    assert tried, f"no other legal value of {key} is known: add one to tests/alternatives.py"
    return any(received(before) != received(after) for before, after in tried)


@pytest.mark.parametrize("key", [k for k in keys() if k.partition(".")[0] in TRAINING])
def test_the_trainer_receives_it(training: Received, key: str) -> None:
    assert _differs(training, key)


ELSEWHERE = (*TRAINING, "model", "data", "generate", "fast")
ADAPTERS = [k for k in keys() if k.partition(".")[0] not in ELSEWHERE]


# vera says that what it does not save is drawn again.
@pytest.mark.filterwarnings("ignore:Specified to not save vera")
@pytest.mark.parametrize("key", ADAPTERS)
def test_peft_receives_it(adapting: Received, key: str) -> None:
    assert _differs(adapting, key)


@pytest.mark.parametrize("key", [k for k in keys() if k.startswith("model.")])
def test_the_loaded_model_receives_it(loading: Received, key: str) -> None:
    assert _differs(loading, key)


@pytest.mark.parametrize("key", [k for k in keys() if k.startswith("fast.")])
def test_the_fast_path_receives_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a GPU that has it.
    monkeypatch.setattr(quick, "_new_enough", lambda where: True)
    assert _differs(lambda spec: wanted(spec, CPU), key)


@pytest.mark.parametrize("key", [k for k in keys() if k.startswith("generate.")])
def test_the_generation_receives_it(generating: Received, key: str) -> None:
    assert _differs(generating, key)


@pytest.mark.parametrize("name", SECTIONS["data"].model_fields)
def test_the_rows_change_with_it(reading: Callable[[dict[str, Any]], Any], name: str) -> None:
    if name in NAMED:
        before, after = next(pairs(f"data.{name}"))
        assert origins(before.data) != origins(after.data)
        return
    base, change = DATA[name]
    assert reading(base) != reading({**base, **change})


def test_all_controls_are_tried(capsys: pytest.CaptureFixture[str]) -> None:
    """Every field is in one of the tests above; says how many there are."""
    covered = [k for k in keys() if k.partition(".")[0] in ELSEWHERE]
    assert sorted([*covered, *ADAPTERS]) == sorted(keys()) and set(ELSEWHERE) <= set(SECTIONS)
    with capsys.disabled():
        print(f"\n{len(keys())} controls, none of them dead")


def test_rewards_are_made_of_their_weights_alone() -> None:
    assert [f.__name__ for f in rewards(parse({}).grpo, None)] == ["exact_match"]
