"""What TensorFlow logs while a strategy is constructed is true of it."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence

import pytest
import tensorflow as tf

from poseidon_tf import PoseidonStrategy


@pytest.fixture
def logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[[], list[str]]]:
    """The messages of TensorFlow's logger at INFO, in a process that has a TF_CONFIG."""
    # Nobody listens for a lone worker.
    cluster, task = {"worker": ["localhost:1"]}, {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    with caplog.at_level(logging.INFO, logger="tensorflow"):
        yield lambda: [r.getMessage() for r in caplog.records if r.name == "tensorflow"]


def is_ignored(messages: Sequence[str]) -> bool:
    return any("TF_CONFIG will be ignored" in text for text in messages)


def test_nobody_is_told_that_tf_config_will_be_ignored(logged: Callable[[], list[str]]) -> None:
    """It has been read. What else is logged stays."""
    PoseidonStrategy()
    assert not is_ignored(logged())
    assert any("with devices" in text for text in logged())


def test_of_tensorflows_own_strategy_it_is_still_logged(logged: Callable[[], list[str]]) -> None:
    """Also while ours has been constructed before; and nothing is left in TensorFlow's logger."""
    filters = list(tf.get_logger().filters)
    PoseidonStrategy()
    assert tf.get_logger().filters == filters
    tf.distribute.MirroredStrategy(["CPU:0"])
    assert is_ignored(logged())
