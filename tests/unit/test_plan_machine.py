"""What this machine has, in words, and what is missing on it."""

import os
from pathlib import Path

import psutil
import pytest

from studio.plan import limits
from studio.plan.doctor import Check, examine
from studio.plan.machine import Gpu, Machine, gb, machine
from studio.settings import Settings

GIB = 2**30


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (Machine(1, 8 * 10**9, 6 * 10**9, ()), "CPU, 1 core, 2.0 of 8.0 GB used"),
        (Machine(16, 128 * 10**9, 28 * 10**9, ()), "CPU, 16 cores, 100 of 128 GB used"),
        (
            Machine(2, 8 * 10**9, 1, (Gpu("H100", 80 * 10**9, 12 * 10**9, 9.0),)),
            "H100, 12 of 80 GB used",
        ),
        (
            Machine(2, 1, 1, (Gpu("A10", 24 * 10**9, 0, 8.6), Gpu("A10", 24 * 10**9, 0, 8.6))),
            "A10 (+1 more), 0.0 of 24 GB used",
        ),
    ],
)
def test_a_machine_is_named_by_what_a_run_will_use(here: Machine, words: str) -> None:
    assert here.words == words


def test_free_memory_is_the_gpus_where_there_is_one() -> None:
    assert Machine(2, 8, 6, ()).free == 6
    assert Machine(2, 8, 6, (Gpu("T4", 16, 5, 7.5),)).free == 11


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0.0"), (1.24e9, "1.2"), (9.94e9, "9.9"), (9.96e9, "10"), (24.4e9, "24"), (1e12, "1000")],
)
def test_gigabytes_have_a_decimal_below_ten(size: float, words: str) -> None:
    assert gb(size) == words


def test_this_machine_is_found() -> None:
    here = machine()
    assert 1 <= here.cores <= len(os.sched_getaffinity(0))
    assert 0 < here.available < here.total <= psutil.virtual_memory().total


def test_only_the_cores_are_counted_that_this_process_may_use() -> None:
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_of_them)})
    try:
        assert machine().cores == 1
    finally:
        os.sched_setaffinity(0, all_of_them)


def group(root: Path, path: str, files: dict[str, str]) -> Path:
    """A control group with these files; the file that says that this process is in it."""
    (root / path).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / path / name).write_text(text + "\n", encoding="utf-8")
    own = root / "own"
    own.write_text(f"4:memory:/other\n0::/{path}\n", encoding="utf-8")
    return own


def test_a_containers_limits_are_found_wherever_they_are_set(tmp_path: Path) -> None:
    group(tmp_path, "", {"memory.max": str(8 * GIB), "memory.current": str(GIB)})
    group(tmp_path, "a", {"cpu.max": "150000 100000", "memory.max": "max"})
    stat = f"anon 5\ninactive_file {GIB}\nactive_file 7"
    own = group(
        tmp_path,
        "a/b",
        {"cpu.max": "max 100000", "memory.max": str(4 * GIB), "memory.current": str(3 * GIB),
         "memory.stat": stat},
    )  # fmt: skip
    assert limits.cores(tmp_path, own) == 1.5
    # What was read from files a while ago is given up at need.
    assert limits.memory(tmp_path, own) == (4 * GIB, 2 * GIB)


@pytest.mark.parametrize("files", [{}, {"cpu.max": "max 100000", "memory.max": "max"}])
def test_without_limits_there_are_none(tmp_path: Path, files: dict[str, str]) -> None:
    own = group(tmp_path, "a", files)
    assert limits.cores(tmp_path, own) is None and limits.memory(tmp_path, own) is None
    assert limits.cores(tmp_path, tmp_path / "nix") is None


def test_a_machine_is_as_large_as_its_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cores", lambda: 0.5)
    monkeypatch.setattr(limits, "memory", lambda: (GIB, 5))
    here = machine()
    assert (here.cores, here.total, here.available) == (1, GIB, 5)
    monkeypatch.setattr(limits, "memory", lambda: (2**60, 2**60))
    assert machine().total == psutil.virtual_memory().total


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of nvidia-smi; each test writes what it does."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def does(program: Path, lines: str) -> None:
    program.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
    program.chmod(0o755)


def test_gpus_are_read_from_nvidia_smi(smi: Path) -> None:
    does(smi, "echo 'NVIDIA H100 80GB HBM3, 81559, 1024, 9.0'\necho 'Tesla T4, 15360, 0, 7.5'")
    assert machine().gpus == (
        Gpu("H100 80GB HBM3", 81559 * 2**20, GIB, 9.0),
        Gpu("Tesla T4", 15 * GIB, 0, 7.5),
    )


@pytest.mark.parametrize(
    ("visible", "names"),
    [("1", "BAC"), ("2,0", "CAB"), ("0", "ABC"), ("7", ""), ("", ""), ("-1", ""), ("GPU-x", "ABC")],
)
def test_the_gpu_that_a_run_will_use_comes_first(
    smi: Path, monkeypatch: pytest.MonkeyPatch, visible: str, names: str
) -> None:
    does(smi, "for name in A B C; do echo $name, 8, 0, 8.0; done")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert "".join(gpu.name for gpu in machine().gpus) == names


def test_nvidia_smi_is_not_asked_at_each_look(smi: Path, tmp_path: Path) -> None:
    does(smi, f"echo asked >> {tmp_path}/asked; echo A, 8, 0, 8.0")
    assert all(machine().gpus for _ in range(20))
    # Twice where two seconds were just over.
    assert (tmp_path / "asked").read_text().count("asked") <= 2


def test_a_gpu_that_shares_the_computers_memory_has_that(smi: Path) -> None:
    does(smi, "echo 'NVIDIA GB10, [N/A], [N/A], 12.1'")
    (gpu,) = machine().gpus
    assert (gpu.name, gpu.total, gpu.capability) == ("GB10", psutil.virtual_memory().total, 12.1)
    assert 0 < gpu.used < gpu.total


@pytest.mark.parametrize(
    "lines",
    ["exit 9", "echo 'NVIDIA-SMI has failed'", "echo 'No devices were found'", "echo ' , , , '"],
)
def test_a_driver_that_fails_means_no_gpu(smi: Path, lines: str) -> None:
    does(smi, lines)
    assert machine().gpus == ()


def checks(settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in examine(settings)}


def test_the_doctor_finds_nothing_wrong_here(settings: Settings) -> None:
    found = checks(settings)
    assert {"python", "torch", "gradio", "machine", "home", "embedded model"} <= set(found)
    assert [c for c in found.values() if not c.ok] == []


def test_the_doctor_looks_at_a_home_that_is_not_made_yet(tmp_path: Path) -> None:
    found = checks(Settings(home=tmp_path / "not" / "yet", workspace=tmp_path))
    assert found["home"].ok and "GB free" in found["home"].found
    assert not (tmp_path / "not").exists()


def test_the_doctor_says_what_to_do_about_a_home_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        check = checks(Settings(home=home, workspace=tmp_path))["home"]
        assert not check.ok and "STUDIO_HOME" in check.hint
