"""What a run will take: steps as the trainer counts them, memory and time that move rightly."""

import math
import random
from dataclasses import replace

import pytest

from bench import plan_gpu
from studio.plan.catalogue import EMBEDDED
from studio.plan.estimate import Plan, duration, plan, steps
from studio.plan.gpus import with_gpu
from studio.plan.known import known_config
from studio.plan.learned import Learned
from studio.plan.lengths import Rows
from studio.plan.machine import Gpu, Machine
from studio.plan.memory import parts
from studio.plan.model import outline, summarize
from studio.plan.trained import trainable
from studio.settings import PROJECT, Settings
from studio.spec import DEFAULTS, RunSpec, load, with_overrides
from tests.recorded import PACKED, RECORDED, SHAPES

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


ROWS = Rows(150, 10, (60, 100, 140, 200) * 10)


def made(spec: RunSpec, settings: Settings, machine: Machine = CPU) -> Plan:
    return plan(spec, summarize(spec.model.name_or_path, settings), machine, ROWS)


@pytest.mark.parametrize(
    "override",
    [
        "train.per_device_train_batch_size=32",
        "model.dtype=float32",
        "adapter.r=256",
        "train.engine=plain",
    ],
)
def test_more_of_it_takes_more_memory(spec: RunSpec, settings: Settings, override: str) -> None:
    more, less = made(with_overrides(spec, [override]), settings, GPU), made(spec, settings, GPU)
    assert more.memory is not None and less.memory is not None and more.memory > less.memory


@pytest.mark.parametrize(
    "override",
    [
        "model.quantization=nf4",
        "train.activation_checkpointing=true",
        "train.max_length=32",
        "train.optim=adamw_bnb_8bit",
        "train.per_device_train_batch_size=1",
        "fast.replay=20",
        "fast.float8=true",
        "fast.chunk=64",
    ],
)
def test_what_saves_memory_takes_less(spec: RunSpec, settings: Settings, override: str) -> None:
    base = with_overrides(spec, ["train.engine=fast"] if "fast." in override else [])
    # At the end of a row the loss holds few logits on a CPU: a GPU's chunks are full.
    machine = GPU if "fast." in override else CPU
    more, less = (
        made(base, settings, machine),
        made(with_overrides(base, [override]), settings, machine),
    )
    assert more.memory is not None and less.memory is not None and less.memory < more.memory


def test_more_steps_take_more_time_and_earlier_runs_correct_the_guess(
    spec: RunSpec, settings: Settings
) -> None:
    first = made(spec, settings)
    longer = made(with_overrides(spec, ["train.max_steps=40"]), settings)
    assert longer.seconds is not None and first.seconds is not None
    assert longer.seconds > first.seconds
    summary = summarize(spec.model.name_or_path, settings)
    taught = plan(spec, summary, CPU, ROWS, Learned(memory=1.5, time=3.0, runs=1))
    assert taught.times is not None and first.times is not None
    assert taught.times.steps == pytest.approx(3 * first.times.steps)
    assert taught.parts is not None and first.parts is not None
    assert taught.parts.weights == pytest.approx(1.5 * first.parts.weights)
    assert taught.raw == first.raw


def test_whether_it_fits_is_judged_where_it_will_run(spec: RunSpec, settings: Settings) -> None:
    assert made(spec, settings).fits is True
    assert made(spec, settings, Machine(2, 10**9, 10**8, ())).fits is False
    full = Machine(2, CPU.total, CPU.available, (Gpu("H100", 80 * 10**9, 80 * 10**9, 9.0),))
    assert made(spec, settings, full).fits is False
    beside = with_overrides(spec, ["model.device_map=cpu"])
    assert made(beside, settings, full).fits is True


def test_of_a_model_that_is_not_known_yet_nothing_is_invented(
    spec: RunSpec, settings: Settings
) -> None:
    found = made(with_overrides(spec, ["model.name_or_path=owner/name"]), settings)
    assert (found.memory, found.seconds, found.fits) == (None, None, None)
    assert found.steps == 20


def test_every_field_of_the_batch_moves_the_plan(spec: RunSpec, settings: Settings) -> None:
    """A plan is a sum of its parts, and none of them is negative or left out."""
    found = made(spec, settings, GPU)
    assert found.parts is not None and found.memory == pytest.approx(found.parts.total)
    sizes = vars(found.parts)
    assert found.memory == pytest.approx(sum(sizes.values()))
    assert all(size >= 0 for size in sizes.values())
    # The fast path has a workspace of its own.
    assert all(sizes.values())
    single = made(with_overrides(spec, ["train.engine=plain"]), settings, GPU)
    assert single.parts is not None and single.parts.workspace == 0
    quantized = made(with_overrides(spec, ["model.quantization=nf4"]), settings, GPU)
    assert quantized.parts is not None and quantized.parts.workspace > sizes["workspace"]


def test_activations_are_those_that_were_counted() -> None:
    large = outline("8B", known_config("meta-llama/Llama-3.1-8B") or {})
    plain = with_overrides(DEFAULTS, ["adapter.r=16", "train.engine=plain"])
    # Byte by byte: 184,680 a token and layer in 16 bits, and what autocast keeps besides; once, the
    # inputs of the adapters in hand as float32.
    one, cast = 1.24 * 184_680, 4 * (14336 + 4096)
    assert parts(plain, large, GPU, 1).activations == pytest.approx(one * 32 + cast)
    kept = with_overrides(plain, ["train.activation_checkpointing=true"])
    assert parts(kept, large, GPU, 1).activations == pytest.approx(2 * 4096 * 32 + one + cast)
    halves = with_overrides(plain, ["model.quantization=nf4"])
    assert parts(halves, large, GPU, 1).activations == pytest.approx(1.06 * 184_680 * 32)
    single = with_overrides(plain, ["model.device_map=cpu"])
    # In float32 twice as much, and a CPU keeps each head's scores of a row: here one of 8 tokens.
    scores = 32 * (8 / 8) * 4
    each = 2 * 184_680 - (4 * 32 + 8) + scores
    assert parts(single, large, GPU, 8).activations == pytest.approx(8 * 32 * each)
    # A config that says nothing still gives a figure of that size.
    unsaid = replace(large, config=None)
    assert 0.7 < parts(plain, unsaid, GPU, 1).activations / (one * 32) < 1.5


def test_an_optimizer_takes_what_was_measured(settings: Settings) -> None:
    large = outline("8B", known_config("meta-llama/Llama-3.1-8B") or {})

    def taken(*overrides: str) -> float:
        chosen = with_overrides(DEFAULTS, overrides)
        return parts(chosen, large, GPU, 100).optimizer / trainable(chosen, large)

    found = {"adamw_torch": 8, "adamw_bnb_8bit": 2.03, "lion_8bit": 1.02, "sgd": 0}
    for optim, each in found.items():
        assert taken(f"train.optim={optim}") == pytest.approx(each, abs=0.01)
    # In 16 bits, as trl holds an adapter on a quantized model, torch's own takes half.
    assert taken("model.quantization=nf4", "train.engine=plain") == 4
    assert taken("model.quantization=nf4", "train.engine=fast") == 8


def test_the_planner_holds_beside_every_run_that_was_measured() -> None:
    every = plan_gpu.recorded(PROJECT / "bench" / "plan_gpu.json")
    held = [run for run in every if run.ran]
    assert len(held) >= 24
    # One really ran out of memory, and the plan had said so.
    assert [run.plan.fits for run in every if not run.ran] == [False]
    for run in held:
        assert abs(run.allocated()) < 0.10, run.row["words"]
    whole = [run for run in held if run.row["growing"]]
    assert all(abs(run.memory()) < 0.10 for run in whole)
    assert all(abs(run.probed_memory()) < 0.05 for run in whole)
    # What waits for the host takes as long as the host does, which only a run can tell.
    quick = [run for run in held if run.plan.engine == "fast" and run.spec.train.packing]
    assert len(quick) >= 9 and all(abs(run.time()) < 0.15 for run in quick)
    assert all(abs(run.probed_time()) < 0.15 for run in held)
    assert not any(run.plan.fits for run in plan_gpu.too_large(held[0]))


@pytest.mark.parametrize(("gpu", "shape", "overrides", "gib", "speed"), RECORDED)
def test_the_plan_is_what_was_measured_on_a_gpu(
    gpu: str, shape: str, overrides: list[str], gib: float, speed: float | None
) -> None:
    machine = with_gpu(CPU, gpu)
    assert machine is not None
    spec = with_overrides(DEFAULTS, ["train.max_steps=10", *PACKED, *overrides])
    summary = outline(shape, SHAPES[shape] or {})
    found = plan(spec, summary, machine, Rows(10_000, 0, (110, 110, 110, 300), True))
    assert found.parts is not None and found.times is not None
    assert found.parts.allocated / 2**30 == pytest.approx(gib, rel=0.10)
    if speed is not None:
        tokens = found.real * spec.train.gradient_accumulation_steps * found.steps
        assert tokens / found.times.steps == pytest.approx(speed, rel=0.15)


def test_the_default_recipe_takes_about_what_its_worker_was_seen_to_take(
    settings: Settings,
) -> None:
    spec = load(settings.presets / "persona.yaml")
    found = plan(spec, summarize(EMBEDDED, settings), CPU, Rows(141, 9, (80,) * 20))
    assert found.memory is not None and 1.5e9 < found.memory < 2.6e9


@pytest.mark.parametrize(
    ("name", "gib", "capability"),
    [
        ("h100-80gb", 79.6, 9.0), ("H100", 79.6, 9.0), ("NVIDIA A100-SXM4-40GB", 39.4, 8.0),
        ("rtx-3080-12gb", 11.8, 8.6), ("Tesla T4", 14.6, 7.5), ("rtx 4090", 23.6, 8.9),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_its_name(name: str, gib: float, capability: float) -> None:
    machine = with_gpu(CPU, name)
    assert machine is not None
    (gpu,) = machine.gpus
    assert gpu.total / 2**30 == pytest.approx(gib, abs=0.3) and gpu.capability == capability
    assert with_gpu(CPU, "abacus") is None


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_the_longest_of_a_batch_is_what_chance_makes_of_it(rows: int) -> None:
    dice, lengths = random.Random(0), (10, 20, 30, 90)
    drawn = [max(dice.choice(lengths) for _ in range(rows)) for _ in range(20_000)]
    found = Rows(4, 0, lengths).cut(80)
    expected = sum(min(80, n) for n in drawn) / len(drawn)
    assert found.longest_of(rows) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (60, "1 min"), (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"), (7500, "2 h 5 min"), (200_000, "55 h 33 min"),
    ],
)  # fmt: skip
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_plain_path_keeps_what_dropout_leaves_for_backward() -> None:
    config = known_config("Qwen/Qwen2.5-0.5B")
    assert config is not None
    summary, rows = outline("Qwen/Qwen2.5-0.5B", config), Rows(900, 0, (200,) * 50)

    def kept(machine: Machine, *overrides: str) -> float:
        found = plan(with_overrides(DEFAULTS, ["train.max_steps=9", *overrides]), summary, machine,
                     rows).parts  # fmt: skip
        assert found is not None
        return found.activations

    way = "train.engine=plain"
    for machine in (CPU, GPU):
        without = kept(machine, way)
        some = kept(machine, way, "adapter.lora_dropout=0.05")
        assert 1.1 * without < some < 2.5 * without
        # The share makes no difference, what is read does.
        assert some == kept(machine, way, "adapter.lora_dropout=0.5")
        few = ["adapter.target_modules=[q_proj]", way]
        assert kept(machine, *few, "adapter.lora_dropout=0.05") < some
    for machine in (CPU, GPU):
        fast = kept(machine, "train.engine=fast")
        assert fast == kept(machine, "train.engine=fast", "adapter.lora_dropout=0.05")


def test_what_bfloat16_takes_on_a_cpu_depends_on_its_instructions(settings: Settings) -> None:
    summary, rows = summarize(EMBEDDED, settings), Rows(90, 0, (60, 80, 120) * 10)

    def seconds(machine: Machine, dtype: str) -> float:
        found = plan(with_overrides(DEFAULTS, [f"model.dtype={dtype}"]), summary, machine, rows)
        assert found.times is not None
        return found.times.steps

    able = replace(CPU, cpu_bfloat16=True)
    assert seconds(able, "float32") == seconds(CPU, "float32")
    assert seconds(able, "bfloat16") < seconds(CPU, "float32") < seconds(CPU, "bfloat16")


def test_a_large_batch_of_an_evaluation_counts_on_a_cpu(settings: Settings) -> None:
    summary, rows = summarize(EMBEDDED, settings), Rows(90, 30, (60, 80, 120) * 10)
    small, large, none = (
        plan(with_overrides(DEFAULTS, [f"eval.per_device_eval_batch_size={size}",
                                       "train.per_device_train_batch_size=1",
                                       f"eval.eval_strategy={strategy}"]), summary, CPU, rows)
        for size, strategy in ((1, "steps"), (30, "steps"), (30, "no"))
    )  # fmt: skip
    assert large.parts and small.parts and none.parts
    assert large.parts.logits > 2 * small.parts.logits
    assert none.parts.logits <= small.parts.logits
