"""What TensorFlow logs of a strategy, and is not true of ours."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def reading_tf_config() -> Iterator[None]:
    """Within: `MirroredStrategy`'s half does not log that TF_CONFIG will be ignored.

    It would be for that strategy. Whatever else is logged, and by other threads, is not touched.
    """
    thread = threading.get_ident()

    def is_true(record: logging.LogRecord) -> bool:
        return record.thread != thread or "TF_CONFIG will be ignored" not in record.getMessage()

    logger = tf.get_logger()
    logger.addFilter(is_true)
    try:
        yield
    finally:
        logger.removeFilter(is_true)
