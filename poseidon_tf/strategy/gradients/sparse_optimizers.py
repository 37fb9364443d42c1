"""Which optimizers need every row of a sparse gradient, and which only the rows' sum.

Keras does not add up rows of one index before the update. An optimizer that squares a gradient
squares row by row, so that two rows `a` and `b` of one word count as a^2 + b^2, which no sum of
them tells; a dense table of sums would train otherwise than one process does. The same holds for
a norm that clips. Optimizers that are linear in the gradient up to there get the same from a sum.
"""

from __future__ import annotations

from typing import Any

import keras

# `update_step` read: SGD scales and adds, with momentum or without; Lion adds before it takes the
# sign. A subclass may do anything.
_LINEAR = (keras.optimizers.SGD, keras.optimizers.Lion)
_CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")


def why_rows(optimizer: Any) -> str:
    """Why this optimizer must be given the rows of a sparse gradient; empty if it need not."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if optimizer is None:
        return "the optimizer is not known"
    name = type(inner).__name__
    for clip in _CLIPS:
        if getattr(inner, clip, None) is not None:
            return f"{clip} of {name} looks at every row"
    if type(inner) in _LINEAR:
        return ""
    return f"{name} may look at every row by itself"
