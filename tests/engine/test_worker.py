"""What the worker's process is set up with."""

import pytest

from studio.worker import fill_environment


@pytest.mark.parametrize(
    ("given", "kept"),
    [(None, "0"), ("3", "3"), ("2,0,1", "2"), (" 1 , 0", "1"), ("GPU-a,GPU-b", "GPU-a"), ("", "")],
)
def test_a_worker_sees_one_gpu(given: str | None, kept: str) -> None:
    env = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
    fill_environment(env)
    assert env["CUDA_VISIBLE_DEVICES"] == kept
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_what_is_set_already_is_kept() -> None:
    env = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST", "OMP_WAIT_POLICY": "ACTIVE"}
    fill_environment(env)
    assert (env["CUDA_DEVICE_ORDER"], env["OMP_WAIT_POLICY"]) == ("FASTEST_FIRST", "ACTIVE")
