"""What TensorFlow logs, and does not concern who uses this strategy."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def reading_tf_config() -> Iterator[None]:
    """Within: `MirroredStrategy`'s half does not log that TF_CONFIG will be ignored.

    It would be for that strategy.
    """
    with _kept_out("TF_CONFIG will be ignored"):
        yield


@contextlib.contextmanager
def counting_operations() -> Iterator[None]:
    """Within: the profiler does not log that it calls a function that will be removed.

    It is the profiler that calls it.
    """
    with _kept_out("tensor_shape_from_node_def_name"):
        yield


@contextlib.contextmanager
def _kept_out(text: str) -> Iterator[None]:
    """Whatever else is logged, and by other threads, is not touched."""
    thread = threading.get_ident()

    def is_true(record: logging.LogRecord) -> bool:
        return record.thread != thread or text not in record.getMessage()

    logger = tf.get_logger()
    logger.addFilter(is_true)
    try:
        yield
    finally:
        logger.removeFilter(is_true)
