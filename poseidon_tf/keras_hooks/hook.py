"""What one hook is."""

from __future__ import annotations

from typing import Any, NamedTuple

from poseidon_tf.strategy.replacements import Wrap


class Hook(NamedTuple):
    """What stands for a method of Keras or TensorFlow under a PoseidonStrategy.

    Attributes:
      owner: the class that has the method.
      wrap: makes it of the original, which it calls under any other strategy.
      why: what a cluster needs and the original does not do.
    """

    owner: Any
    method: str
    wrap: Wrap
    why: str
