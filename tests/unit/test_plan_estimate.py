"""What a run will take: steps as the trainer counts them, memory and time that move rightly."""

import math
import random
from dataclasses import replace

import pytest

from studio.plan.catalogue import EMBEDDED
from studio.plan.estimate import (
    Plan,
    activation_bytes,
    duration,
    memory_bytes,
    plan,
    steps,
)
from studio.plan.machine import Gpu, Machine
from studio.plan.model import Shape, Summary, summarize
from studio.plan.trained import trainable
from studio.settings import Settings
from studio.spec import DEFAULTS, RunSpec, load, with_overrides

CPU = Machine(cores=2, total=16 * 10**9, available=12 * 10**9, gpus=())
GPU = Machine(2, CPU.total, CPU.available, (Gpu("H100", 80 * 10**9, 10**9, 9.0),))


def counted_by_the_trainer(rows: int, batch: int, accumulate: int, epochs: float) -> int:
    """Batches come one by one; a step ends when enough were seen, or with the epoch."""
    per_epoch, held = 0, 0
    for _ in range(0, rows, batch):
        held += 1
        if held == accumulate:
            per_epoch, held = per_epoch + 1, 0
    per_epoch += held > 0
    return math.ceil(max(1, per_epoch) * epochs)


@pytest.mark.parametrize("seed", range(100))
def test_steps_are_counted_as_the_trainer_does(seed: int) -> None:
    rng = random.Random(seed)
    rows, batch = rng.randint(1, 500), rng.randint(1, 64)
    accumulate, epochs = rng.randint(1, 12), rng.choice([0.1, 0.5, 1.0, 1.5, 3.0])
    spec = with_overrides(
        DEFAULTS,
        [
            f"train.per_device_train_batch_size={batch}",
            f"train.gradient_accumulation_steps={accumulate}",
            f"train.num_train_epochs={epochs}",
        ],
    )
    assert steps(spec, rows) == counted_by_the_trainer(rows, batch, accumulate, epochs)
    limited = with_overrides(spec, ["train.max_steps=7"])
    assert steps(limited, rows) == 7


@pytest.fixture
def spec() -> RunSpec:
    return with_overrides(DEFAULTS, ["train.max_steps=20"])


def made(spec: RunSpec, settings: Settings, machine: Machine = CPU) -> Plan:
    summary = summarize(spec.model.name_or_path, settings)
    return plan(spec, summary, machine, train_rows=150, eval_rows=10, characters=400)


@pytest.mark.parametrize(
    "override",
    ["train.per_device_train_batch_size=32", "model.dtype=float32", "adapter.r=256"],
)
def test_more_of_it_takes_more_memory(spec: RunSpec, settings: Settings, override: str) -> None:
    assert (
        made(with_overrides(spec, [override]), settings, GPU).memory
        > made(spec, settings, GPU).memory
    )


@pytest.mark.parametrize(
    "override",
    ["model.quantization=nf4", "train.activation_checkpointing=true", "train.max_length=32"],
)
def test_what_saves_memory_takes_less(spec: RunSpec, settings: Settings, override: str) -> None:
    assert made(with_overrides(spec, [override]), settings).memory < made(spec, settings).memory


def test_more_steps_take_more_time_and_a_measured_speed_takes_the_guesss_place(
    spec: RunSpec, settings: Settings
) -> None:
    first = made(spec, settings)
    assert made(with_overrides(spec, ["train.max_steps=40"]), settings).seconds > first.seconds
    summary = summarize(spec.model.name_or_path, settings)
    slow, fast = (plan(spec, summary, CPU, 150, 10, 400, each).seconds for each in (0.1, 0.001))
    assert slow > 50 * (fast - 15)


def test_whether_it_fits_is_judged_where_it_will_run(spec: RunSpec, settings: Settings) -> None:
    assert made(spec, settings).fits is True
    assert made(spec, settings, Machine(2, 10**9, 10**8, ())).fits is False
    full = Machine(2, CPU.total, CPU.available, (Gpu("H100", 80 * 10**9, 80 * 10**9, 9.0),))
    assert made(spec, settings, full).fits is False


def test_of_a_model_that_is_not_known_yet_nothing_is_invented(
    spec: RunSpec, settings: Settings
) -> None:
    found = made(with_overrides(spec, ["model.name_or_path=owner/name"]), settings)
    assert (found.memory, found.seconds, found.fits) == (None, None, None)
    assert found.steps == 20


# The shapes of Llama 3.1 8B.
LARGE = Summary(
    "8B", True, 8_030_261_248, 32, 4096, 128_256, 131_072, "Llama", "", "",
    config={"intermediate_size": 14_336, "num_attention_heads": 32, "num_key_value_heads": 8},
)  # fmt: skip


def test_activations_are_those_that_were_measured() -> None:
    spec = with_overrides(DEFAULTS, ["adapter.r=16"])
    assert activation_bytes(spec, LARGE, 1, 2) == 184_680 * 32
    doubled = activation_bytes(spec, LARGE, 1, 4)
    assert doubled == 2 * 184_680 * 32 - 32 * (4 * 32 + 8)
    kept = with_overrides(spec, ["train.activation_checkpointing=true"])
    assert activation_bytes(kept, LARGE, 1, 2) == 2 * 4096 * 32 + 184_680
    # A config that says nothing still gives a figure of that size.
    unsaid = activation_bytes(spec, replace(LARGE, config=None), 1, 2)
    assert 0.7 < unsaid / (184_680 * 32) < 1.5


def test_an_optimizer_takes_what_was_measured(settings: Settings) -> None:
    shape = Shape("model.layers.0.self_attn.q_proj.weight", (4096, 4096))
    summary = replace(LARGE, shapes=(shape,))
    spec = with_overrides(DEFAULTS, ["adapter.r=16"])

    def taken(optim: str) -> float:
        chosen = with_overrides(spec, [f"train.optim={optim}"])
        return memory_bytes(chosen, summary, GPU, 100) / trainable(spec, summary)

    none = taken("sgd")
    for optim, each in {"adamw_torch": 8, "adamw_bnb_8bit": 2.03, "lion_8bit": 1.02}.items():
        assert taken(optim) - none == pytest.approx(each, abs=0.01)
    assert taken("adamw_torch_fused") == taken("adamw_torch") and taken("adafactor") >= none


def test_the_default_recipe_takes_about_what_its_worker_was_seen_to_take(
    settings: Settings,
) -> None:
    spec = load(settings.presets / "persona.yaml")
    summary = summarize(EMBEDDED, settings)
    found = plan(spec, summary, CPU, train_rows=141, eval_rows=9, characters=110)
    assert found.memory is not None and 1.5e9 < found.memory < 2.6e9


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (60, "1 min"), (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"), (7500, "2 h 5 min"), (200_000, "55 h 33 min"),
    ],
)  # fmt: skip
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words
