"""Variables that Keras overwrites with their gradients, as float8 quantization has it.

Such a gradient is the next value, found in one replica's samples: there is no sum to make of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from poseidon_tf.errors import ConfigError


def refuse_overwritten(variables: Iterable[Any]) -> None:
    """Raise ConfigError if one of the `variables`, which have gradients, is such a one."""
    for variable in variables:
        if getattr(variable, "overwrite_with_gradient", False):  # Of Keras's variables only.
            raise ConfigError(
                f"the variable {variable.path!r} is overwritten with its gradient, as "
                'quantize("float8") has it: each worker finds another value for it in its own '
                "samples, and workers would part; train without float8, for example with the "
                "dtype policy mixed_bfloat16"
            )
