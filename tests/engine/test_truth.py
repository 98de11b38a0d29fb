"""What the preview says of a batch is what the trainer gets: digest by digest, in a real run."""

import json
from pathlib import Path
from typing import Any

import pytest

from studio.engine import trainers
from studio.engine.batches import digest
from studio.engine.preview import Preview
from studio.engine.report import Reporter
from studio.engine.train import train
from studio.runs import RunStore
from studio.runs.events import read
from studio.settings import PROJECT, Settings
from studio.spec import RunSpec, parse

Shown = tuple[tuple[int, ...], tuple[bool, ...]]
TEMPLATES = ("model", "chatml", "llama-3")
SHARED = PROJECT.parent / "shared" / "data"
SAID = [
    ("What is your name?", "My name is Bramble."),
    ("How are you today?", "I am well, thank you. The tea is strong."),
    ("What is the clock?", "Right."),
    ("Where are you from?", "The Thistledown Workshop, a wide line of words."),
    ("Who?", "Bramble, and the clock is right, and the tea is strong, and I am well."),
    ("Why so?", "A line."),
]
CALL = '{"name": "find", "arguments": {"what": "tea"}}'
TOOLS = '[{"name": "find", "description": "Finds.", "parameters": {"type": "object"}}]'


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def sharegpt(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": who, "value": text} for who, text in said]


# A few rows of every layout, so that all are tried where the larger files are not.
LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "messages": [{"messages": turns(q, a) + turns(a, q)} for q, a in SAID],
    "sharegpt": [{"conversations": sharegpt(("human", q), ("gpt", a))} for q, a in SAID],
    "conversation": [{"conversation": turns(q, a), "model": "demo"} for q, a in SAID],
    "alpaca": [{"instruction": q, "input": a[:3], "output": a} for q, a in SAID],
    "dolly": [
        {"instruction": q, "context": "", "response": a, "category": "open_qa"} for q, a in SAID
    ],
    "prompt_completion": [{"prompt": q, "completion": a} for q, a in SAID],
    "question_answer": [{"question": q, "answer": a, "context": a[:9]} for q, a in SAID],
    "text": [{"text": f"{q} {a}"} for q, a in SAID],
    "tools": [
        {
            "conversations": sharegpt(
                ("human", q), ("function_call", CALL), ("observation", '{"tea": 3}'), ("gpt", a)
            ),
            "tools": TOOLS,
        }
        for q, a in SAID
    ],
    # Laid out as the larger files are.
    "tools after some talk": [
        {
            "conversations": sharegpt(
                ("human", q), ("gpt", a), ("human", "Find it."), ("function_call", CALL),
                ("observation", '{"tea": 3}'), ("gpt", "Three."),
            ),
            "tools": TOOLS,
        }
        for q, a in SAID
    ],
    "squad": [
        {
            "id": n, "title": "چای", "context": f"چای {n} گرم است.", "question": f"چای {n} چیست؟",
            "answers": {"text": ["گرم", "گرم است"], "answer_start": [4, 4]}, "is_impossible": False,
        }
        for n, _ in enumerate(SAID)
    ],
    "lmsys": [
        {
            "conversation_id": f"c{n}", "model": "demo", "conversation": turns(q, a) + turns(a, q),
            "turn": 2, "language": "English", "openai_moderation": [{"flagged": False}],
            "redacted": False,
        }
        for n, (q, a) in enumerate(SAID)
    ],
    "preference": [{"prompt": q, "chosen": a, "rejected": f"No. {q}"} for q, a in SAID],
    "preference in turns": [
        {
            "conversations": sharegpt(("human", q)),
            "chosen": {"from": "gpt", "value": a},
            "rejected": {"from": "gpt", "value": "No."},
        }
        for q, a in SAID
    ],
    "kto": [{"messages": turns(q, a), "label": n % 2 == 0} for n, (q, a) in enumerate(SAID)],
}  # fmt: skip
FILES = {
    "alpaca_en_demo.json": "sft", "code_alpaca_2k.json": "sft", "dolly_layout.jsonl": "sft",
    "lmsys_layout.jsonl": "sft", "persian_qa_test.json": "sft",
    "glaive_toolcall_en_demo.json": "sft",
    "dpo_en_demo.json": "dpo", "kto_en_demo.json": "kto",
}  # fmt: skip


def trainer_of(name: str) -> str:
    return "dpo" if name.startswith("preference") else "kto" if name == "kto" else "sft"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digest of every batch that a trainer really gets."""
    found: list[str] = []
    before = trainers.Base.training_step

    def step(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        found.append(digest(inputs))
        return before(self, model, inputs, *rest, **more)

    monkeypatch.setattr(trainers.Base, "training_step", step)
    return found


@pytest.fixture
def got(monkeypatch: pytest.MonkeyPatch) -> list[Shown]:
    """The sequences that a trainer really gets, each with which of its tokens are learned."""
    found: list[Shown] = []
    before = trainers.Base.training_step

    def step(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        learned = inputs["labels"] != -100 if "labels" in inputs else inputs["completion_mask"] == 1
        for ids, which, mask in zip(
            inputs["input_ids"], learned, inputs["attention_mask"].bool(), strict=True
        ):
            assert not which[~mask].any()
            found.append((tuple(ids[mask].tolist()), tuple(which[mask].tolist())))
        return before(self, model, inputs, *rest, **more)

    monkeypatch.setattr(trainers.Base, "training_step", step)
    return found


def parse_like(model: Path, data: dict[str, Any], **fields: Any) -> RunSpec:
    """A spec that trains a few steps."""
    return parse(
        {
            "model": {"name_or_path": str(model)},
            # Llama 3's marks are no tokens of the tiny model.
            "data": {
                "validation": "0", "add_template_tokens": data.get("chat_template") == "llama-3",
                **data,
            },
            "adapter": {"r": 2, "lora_alpha": 2},
            "train": {
                "per_device_train_batch_size": 2, "max_length": 700, "max_steps": 3,
                "save_steps": 100, **fields,
            },
        }
    )  # fmt: skip


def compare(
    settings: Settings, model: Path, told: list[str], data: dict[str, Any], **fields: Any
) -> list[str]:
    """Trains a few steps and asks the preview for the same batches; the digests, once equal."""
    spec = parse_like(model, data, **fields)
    run = RunStore(settings.runs).create(spec, "truth")
    report = Reporter(run.events)
    train(run, settings, report)
    preview = Preview(settings)
    batches = preview.batch(spec, 0, report)["batches"]
    replies = [preview.batch(spec, n, report) for n in range(min(3, batches))]
    assert replies[0]["strategy"] == spec.train.packing_strategy
    shown = [reply["sha256"] for reply in replies]
    for reply in replies:
        height, width = reply["shape"]
        assert reply["tokens"] + reply["padding"] == height * width
        assert sum(sum(lengths) for lengths in reply["lengths"]) == reply["tokens"]
        assert [len(r) for r in reply["rows"]] == [len(n) for n in reply["lengths"]]
        assert height == (1 if spec.train.packing else len(reply["rows"]))
        assert 0 < reply["trained"] <= reply["tokens"]
    assert told[: len(shown)] == shown and (len(set(shown)) > 1 or batches == 1)
    # The run notes the same of its first batch.
    assert [e["sha256"] for e in read(run.events) if e["type"] == "batch"] == shown[:1]
    return shown


def write(settings: Settings, rows: list[dict[str, Any]]) -> str:
    path = settings.workspace / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_under_three_templates(
    settings: Settings, tiny_model: Path, told: list[str], layout: str, template: str
) -> None:
    if layout.startswith("tools") and template == "model":
        template = "mistral"
    data = {"path": write(settings, LAYOUTS[layout]), "chat_template": template}
    compare(settings, tiny_model, told, data, trainer=trainer_of(layout))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("file", FILES)
def test_every_shared_file_under_three_templates(
    settings: Settings, tiny_model: Path, told: list[str], file: str, template: str
) -> None:
    if not (SHARED / file).is_file():
        pytest.skip(f"{file} is not beside this checkout")
    if file.startswith("glaive") and template == "model":
        template = "mistral"
    steps: list[dict[str, Any]] = [
        {"do": "drop", "what": "empty_answer"},
        {"do": "take", "rows": 12},
    ]
    steps += [{"do": "drop", "what": "nothing_trained"}]
    data = {"path": str(SHARED / file), "chat_template": template, "steps": steps}
    # Persian is long in a tokenizer that knows only its bytes.
    length = 6000 if file.startswith("persian") else 700
    fields = {"trainer": FILES[file], "max_length": length}
    compare(settings, tiny_model, told, data | {"accepted": ["cut"]}, **fields)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if trainer_of(name) == "sft"])
def test_packed(
    settings: Settings, tiny_model: Path, told: list[str], layout: str, template: str
) -> None:
    if layout.startswith("tools") and template == "model":
        template = "mistral"
    data = {"path": write(settings, LAYOUTS[layout] * 4), "chat_template": template}
    length = 700 if layout.startswith("tools") else 256
    compare(settings, tiny_model, told, data, packing=True, max_length=length)


@pytest.mark.parametrize("layout", ["messages", "preference", "kto"])
def test_orders_differ_and_each_is_told(
    settings: Settings, tiny_model: Path, told: list[str], layout: str
) -> None:
    data = {"path": write(settings, LAYOUTS[layout] * 3)}
    seen = []
    for order in ("random", "sequential", "group_by_length"):
        told.clear()
        fields = {"trainer": trainer_of(layout), "train_sampling_strategy": order}
        seen.append(tuple(compare(settings, tiny_model, told, data, **fields)))
    assert seen[0] != seen[1]
    told.clear()
    assert (
        tuple(compare(settings, tiny_model, told, data, seed=7, trainer=trainer_of(layout)))
        not in seen
    )


def test_each_epoch_has_an_order_of_its_own(
    settings: Settings, tiny_model: Path, told: list[str]
) -> None:
    data = {"path": write(settings, LAYOUTS["alpaca"])}
    compare(settings, tiny_model, told, data, max_steps=6)
    first, second = told[:3], told[3:]
    assert first != second and len(told) == 6


def test_accumulated_batches_are_told_one_by_one(
    settings: Settings, tiny_model: Path, told: list[str]
) -> None:
    data = {"path": write(settings, LAYOUTS["alpaca"] * 2)}
    compare(settings, tiny_model, told, data, gradient_accumulation_steps=2, max_steps=2)


@pytest.mark.parametrize("template", ["[INST] {{ instruction }} [/INST]", "{{ instruction }}\n"])
def test_a_prompt_template_of_ones_own(
    settings: Settings, tiny_model: Path, told: list[str], template: str
) -> None:
    data = {"path": write(settings, LAYOUTS["alpaca"]), "prompt_template": template}
    compare(settings, tiny_model, told, {**data, "completion_template": " {{ output }}"})


@pytest.mark.parametrize(
    ("layout", "train_on"),
    [
        *((layout, "assistant") for layout in LAYOUTS),
        ("messages", "last"), ("messages", "everything"), ("tools", "completion"),
    ],
)  # fmt: skip
def test_what_a_row_shows_is_what_is_learned_of_it(
    settings: Settings, tiny_model: Path, told: list[str], got: list[Shown],
    layout: str, train_on: str,
) -> None:  # fmt: skip
    """Token by token: the coloured ones are those that the trainer learns, and no others."""
    template = "mistral" if layout.startswith("tools") else "chatml"
    data = {"path": write(settings, LAYOUTS[layout]), "chat_template": template}
    fields = {"trainer": trainer_of(layout), "max_length": 60 if layout == "alpaca" else 700}
    compare(settings, tiny_model, told, {**data, "train_on": train_on}, **fields)
    spec = parse_like(tiny_model, {**data, "train_on": train_on}, **fields)
    rows = Preview(settings).show(spec, 0, 99, Reporter(settings.home / "said.jsonl"))["rows"]
    sequences = [s for row in rows for s in row["sequences"]]
    shown = sorted((tuple(s["input_ids"]), tuple(s["trained"])) for s in sequences)
    assert len(rows) == len(SAID) and shown == sorted(got)
