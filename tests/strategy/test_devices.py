"""Where a worker's replicas run when nobody says: on all its accelerators, else on the CPU."""

from __future__ import annotations

import pytest
import tensorflow as tf

import poseidon_tf
from poseidon_tf.strategy.strategy import local_devices
from tests.support.jobs import run_alone


def show(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let TensorFlow list these logical devices, such as "GPU:0"."""
    shown = [
        tf.config.LogicalDevice(f"/device:{name}", name.partition(":")[0])
        for name in ("CPU:0", "CPU:1", *names)
    ]
    monkeypatch.setattr(
        tf.config,
        "list_logical_devices",
        lambda kind=None: [each for each in shown if kind in (None, each.device_type)],
    )


@pytest.mark.parametrize(
    "accelerators, expected",
    [
        (["GPU:0", "GPU:1"], ["/device:GPU:0", "/device:GPU:1"]),
        (["GPU:0"], ["/device:GPU:0"]),
        (["TPU:0", "TPU:1"], ["/device:TPU:0", "/device:TPU:1"]),
        ([], ["/device:CPU:0"]),
    ],
)
def test_all_accelerators_are_taken_and_of_the_cpu_one_replica(
    monkeypatch: pytest.MonkeyPatch, accelerators: list[str], expected: list[str]
) -> None:
    """A processor that is split into several logical devices still counts as one."""
    show(monkeypatch, *accelerators)
    assert local_devices() == expected


def test_a_strategy_has_a_replica_for_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """`devices=` takes fewer."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    show(monkeypatch, "GPU:0", "GPU:1", "GPU:2")
    strategy = poseidon_tf.PoseidonStrategy()
    assert strategy.num_replicas_in_sync == 3
    assert [each[-5:] for each in strategy.extended.worker_devices] == ["GPU:0", "GPU:1", "GPU:2"]
    assert poseidon_tf.PoseidonStrategy(devices=["GPU:1"]).num_replicas_in_sync == 1


@pytest.mark.processes
def test_a_processor_in_two_parts_trains_with_one_replica_by_default() -> None:
    """With real logical devices."""
    assert run_alone("replicas.py", "default", "2", "values")["values"]["replicas"] == 1
