"""Refuses what Keras 2 builds in a scope: the hooks are in Keras 3 and know none of its models.

They would train all the same, with other moving statistics and other losses on each worker.
"""

from __future__ import annotations

import sys
from typing import Any

from poseidon_tf.errors import ConfigError

# Between whoever makes a variable and the strategy that is asked for it.
_BETWEEN = frozenset({"tensorflow", "poseidon_tf", "contextlib", "functools"})


def refuse_variable(name: Any) -> None:
    """Called where a variable is made.

    Raises:
      ConfigError: it is Keras 2 (`tf_keras`) that makes it.
    """
    if "tf_keras" in sys.modules and _maker() == "tf_keras":
        variable = f"the variable {name!r}" if name else "a variable"  # Often named later.
        raise ConfigError(
            f"PoseidonStrategy trains models of Keras 3, and {variable} in its scope is one of "
            "Keras 2 (tf_keras); build model and optimizer with `import keras`: where "
            "TF_USE_LEGACY_KERAS=1 is set, tf.keras is Keras 2"
        )


def _maker() -> str:
    """The package whose code asks TensorFlow for a variable now."""
    frame = sys._getframe(1)
    while (package := _package(frame)) in _BETWEEN and frame.f_back is not None:
        frame = frame.f_back
    return package


def _package(frame: Any) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
