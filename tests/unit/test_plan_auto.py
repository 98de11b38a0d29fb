"""What auto chooses: the fastest that fits, with the rows of a step as they were, and why."""

from pathlib import Path
from typing import Any

import pytest

from studio.plan.auto import Choice, choose
from studio.plan.estimate import plan
from studio.plan.gpus import with_gpu
from studio.plan.known import known_config
from studio.plan.learned import NOTHING, Learned, factors, learned
from studio.plan.lengths import Rows
from studio.plan.machine import Gpu, Machine
from studio.plan.model import outline
from studio.plan.possible import problems
from studio.plan.summary import Summary
from studio.runs import RunState, RunStore
from studio.runs.events import append
from studio.spec import DEFAULTS, RunSpec, load, with_overrides, with_values

CPU = Machine(2, int(16e9), int(12e9), ())
ROWS = Rows(900, 50, (60, 80, 120, 400) * 50, exact=True)


def model(name: str) -> Summary:
    config = known_config(name)
    assert config is not None
    return outline(name, config)


def chosen(name: str, gpu: str, *overrides: str, rows: Rows = ROWS) -> Choice:
    machine = with_gpu(CPU, gpu) if gpu else CPU
    assert machine is not None
    spec = with_overrides(DEFAULTS, ["train.max_steps=100", *overrides])
    choice = choose(spec, model(name), machine, rows)
    assert choice is not None
    return choice


def tokens_a_step(spec: RunSpec) -> float:
    size = spec.train.per_device_train_batch_size * spec.train.gradient_accumulation_steps
    cut = ROWS.cut(1024)
    return 0.96 * size * spec.train.max_length if spec.train.packing else size * cut.mean


def test_nothing_is_packed_by_a_guess_of_the_rows_lengths() -> None:
    asked = ("train.per_device_train_batch_size=16", "train.max_length=2048")
    guess = Rows(900, 50, ROWS.lengths)
    found = chosen("meta-llama/Llama-3.2-3B", "4090", *asked, rows=guess)
    assert not {"train.packing", "train.max_length"} & set(found.changes)
    counted = chosen("meta-llama/Llama-3.2-3B", "4090", *asked)
    # No row is cut that was not before.
    assert counted.spec.train.max_length >= ROWS.cut(2048).longest


@pytest.mark.parametrize("name", ["google/gemma-2-2b", "Qwen/Qwen3-0.6B"])
@pytest.mark.parametrize("gpu", ["", "t4", "4090"])
def test_what_is_chosen_can_be_started(name: str, gpu: str) -> None:
    for engine in ("plain", "auto", "fast"):
        choice = chosen(name, gpu, f"train.engine={engine}", "train.activation_checkpointing=true")
        machine = with_gpu(CPU, gpu) if gpu else CPU
        assert machine is not None
        assert problems(choice.spec, machine, config=known_config(name)) == []


@pytest.mark.parametrize("gpu", ["h100", "a100-40gb", "4090", "t4", "3060", ""])
@pytest.mark.parametrize(
    "name", ["meta-llama/Llama-3.1-8B", "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.2-3B"]
)
def test_what_is_chosen_fits_and_keeps_the_rows_of_a_step(name: str, gpu: str) -> None:
    choice = chosen(name, gpu, "train.per_device_train_batch_size=16", "train.max_length=1024")
    if choice.remedy:
        assert choice.plan.memory is not None and choice.plan.memory > 0.92 * choice.plan.free
        return
    assert choice.plan.memory is not None and choice.plan.memory <= 0.92 * choice.plan.free
    assert tokens_a_step(choice.spec) == pytest.approx(16 * ROWS.cut(1024).mean, rel=0.15)
    assert with_values(with_overrides(DEFAULTS, [
        "train.max_steps=100", "train.per_device_train_batch_size=16", "train.max_length=1024",
    ]), choice.changes) == choice.spec  # fmt: skip
    # What was not chosen is left as it is.
    assert all(k.partition(".")[0] in ("train", "model", "fast") for k in choice.changes)
    assert "train.learning_rate" not in choice.changes


def test_it_is_never_slower_than_what_fits_already() -> None:
    for name, gpu in (("Qwen/Qwen3-8B", "h100"), ("Qwen/Qwen3-0.6B", ""), ("Qwen/Qwen3-4B", "l4")):
        spec = with_overrides(DEFAULTS, ["train.max_steps=100", "model.quantization=nf4",
                                         "train.activation_checkpointing=true"])  # fmt: skip
        machine = with_gpu(CPU, gpu) if gpu else CPU
        assert machine is not None
        before = plan(spec, model(name), machine, ROWS)
        after = chosen(name, gpu, "model.quantization=nf4", "train.activation_checkpointing=true")
        assert before.fits and before.seconds is not None and after.plan.seconds is not None
        assert after.plan.seconds < 0.95 * before.seconds


def test_a_small_gpu_gets_4_bits_and_a_large_one_does_not_need_them() -> None:
    large, small = (chosen("meta-llama/Llama-3.1-8B", gpu) for gpu in ("h100", "4070"))
    assert large.spec.model.quantization == "none" and large.plan.engine == "fast"
    assert small.spec.model.quantization == "nf4" and not small.remedy
    old = chosen("Qwen/Qwen3-0.6B", "t4", "model.dtype=bfloat16")
    assert old.plan.engine == "plain" and old.spec.model.dtype == "auto"
    assert any("Ampere" in reason.why for reason in old.reasons)


def test_every_choice_has_its_reason() -> None:
    choice = chosen("Qwen/Qwen3-4B", "3060", "train.activation_checkpointing=true")
    assert {reason.field for reason in choice.reasons} >= {
        "train.engine", "model.quantization", "model.dtype", "train.packing",
        "train.per_device_train_batch_size", "train.activation_checkpointing",
    }  # fmt: skip
    for reason in choice.reasons:
        assert reason.why.endswith(".") and len(reason.why) > 20
        if reason.field in choice.changes:
            assert reason.value == choice.changes[reason.field] != reason.was


def test_where_nothing_fits_it_says_by_how_much_and_what_would() -> None:
    choice = chosen("meta-llama/Llama-3.1-70B", "t4")
    assert "GB more than there is" in choice.remedy and "would fit" in choice.remedy
    # Of the same family, where one fits.
    assert "meta-llama/" in choice.remedy
    # A long row that does not fit alone: a shorter one would.
    rows = Rows(100, 0, (60_000,) * 20)
    wide = chosen("Qwen/Qwen3-8B", "4070", "train.max_length=65536", rows=rows)
    assert "With max_length at" in wide.remedy


def test_a_cpu_computes_in_float32_without_padding_or_needless_passes() -> None:
    asked = ["model.dtype=bfloat16", "model.quantization=nf4", "train.engine=plain",
             "train.activation_checkpointing=true"]  # fmt: skip
    found = chosen("HuggingFaceTB/SmolLM2-135M", "", *asked)
    assert found.changes == {
        "train.engine": "fast", "model.quantization": "none", "model.dtype": "auto",
        "train.activation_checkpointing": False,
    }  # fmt: skip
    # What the fast path can't do as well is done the plain way, rows of like length together.
    biased = chosen("HuggingFaceTB/SmolLM2-135M", "", *asked, "adapter.bias=all")
    assert biased.plan.engine == "plain"
    assert biased.changes["train.train_sampling_strategy"] == "group_by_length"


@pytest.mark.parametrize(
    ("gpu", "overrides", "field"),
    [
        (Gpu("T4", int(16e9), 0, 7.5), ["train.engine=fast"], "train.engine"),
        (Gpu("A100", int(40e9), 0, 8.0), ["train.engine=fast", "fast.float8=true"], "fast.float8"),
        (Gpu("H100", int(80e9), 0, 9.0), ["train.engine=fast", "fast.float8=true"], ""),
        (Gpu("T4", int(16e9), 0, 7.5), ["fast.float8=true"], ""),
    ],
)
def test_the_fast_path_asked_for_by_name_is_judged_by_the_machine(
    gpu: Gpu, overrides: list[str], field: str
) -> None:
    machine = Machine(2, CPU.total, CPU.available, (gpu,))
    found = problems(with_overrides(DEFAULTS, overrides), machine)
    assert [p.field for p in found] == ([field] if field else [])
    mixture = {"num_local_experts": 8}
    odd = problems(with_overrides(DEFAULTS, ["train.engine=fast"]), CPU, config=mixture)
    assert [p.field for p in odd] == ["train.engine"] and "mixture" in odd[0].message


def test_rows_may_not_be_longer_than_what_the_model_was_made_for() -> None:
    config = {"max_position_embeddings": 2048}
    spec = with_overrides(DEFAULTS, ["train.max_length=4096"])
    (found,) = problems(spec, CPU, config=config)
    assert found.field == "train.max_length" and found.changes == {"train.max_length": 2048}
    assert problems(with_values(spec, found.changes), CPU, config=config) == []
    assert problems(spec, CPU, config={"max_position_embeddings": "long"}) == []


# What earlier runs teach.


def told(**changes: Any) -> RunState:
    """A run that was planned for four steps and measured over two, with other values measured."""
    before = {"engine": "plain", "raw_memory": 4e9, "raw_seconds": 10.0, "steps": 4}
    return RunState(
        predicted=before, measured={"memory": 2e9, "seconds": 5.0, "steps": 2, **changes}
    )


@pytest.mark.parametrize(
    ("state", "found"),
    [
        # Half of the steps, half of the time; half of the memory.
        (told(), (0.5, 1.0)),
        (told(steps=4, seconds=30.0), (0.5, 3.0)),
        (told(memory=float("nan")), None),
        (told(memory=1e8), None),
        (told(seconds=1e9), None),
        (RunState(), None),
        (RunState(predicted={"raw_memory": "much"}, measured={"memory": 1}), None),
    ],
)
def test_a_factor_is_measured_over_planned(
    state: RunState, found: tuple[float, float] | None
) -> None:
    assert factors(state) == (pytest.approx(found) if found else None)


def test_runs_of_another_kind_teach_nothing(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    assert learned(store, DEFAULTS, "CPU", "plain") == NOTHING
    for seconds in (3.0, 4.0, 40.0):
        run = store.create(DEFAULTS, "a")
        append(run.events, {"type": "start", "max_steps": 4, "device": "CPU, float32"})
        state = told(seconds=seconds, steps=4)
        for kind, held in (("predicted", state.predicted), ("measured", state.measured)):
            append(run.events, {"type": kind, **(held or {})})
        append(run.events, {"type": "end", "status": "finished"})
    # The median: one odd run decides nothing.
    assert learned(store, DEFAULTS, "CPU", "plain") == Learned(0.5, 0.4, 3)
    assert learned(store, DEFAULTS, "H100", "plain") == NOTHING
    assert learned(store, DEFAULTS, "CPU", "fast") == NOTHING
    quantized = with_overrides(DEFAULTS, ["model.quantization=nf4"])
    assert learned(store, quantized, "CPU", "plain") == NOTHING
    # Another model of the same kind is taught by it too.
    other = with_overrides(DEFAULTS, ["model.name_or_path=owner/name"])
    assert learned(store, other, "CPU", "plain").runs == 3


def test_the_bundled_recipes_can_be_planned_for_any_gpu() -> None:
    here = Path(__file__).parents[2] / "presets"
    machine = with_gpu(CPU, "a100")
    assert machine is not None
    planned = 0
    for path in sorted(here.glob("*.yaml")):
        spec = load(path)
        config = known_config(spec.model.name_or_path)
        if config is not None:
            choice = choose(spec, outline("x", config), machine, ROWS)
            assert choice is not None and not choice.remedy, path.name
            planned += 1
    assert planned >= 3
