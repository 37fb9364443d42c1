"""Which versions of TensorFlow and Keras are too old, in a sentence. Imports neither of them.

Newer ones than those that were tried are let through: what they may lack is a private name, and
`tf_internals` says which.
"""

from __future__ import annotations

OLDEST_TENSORFLOW = (2, 16)
# Under a strategy older ones count a batch too many in metrics, and before 3.8 do not divide the
# loss by the number of replicas.
OLDEST_KERAS = (3, 10)


def refusal(*, tensorflow: str, keras: str, backend: str) -> str | None:
    """Why the strategy cannot work with these, and what to do; None if it can.

    Args:
      tensorflow, keras: their versions, such as "2.21.0" or "3.16.0.dev2026".
      backend: what Keras computes with, as KERAS_BACKEND names it.
    """
    if _major_and_minor(tensorflow) < OLDEST_TENSORFLOW:
        oldest = _dotted(OLDEST_TENSORFLOW)
        return (
            f"poseidon_tf needs TensorFlow {oldest} or newer, got {tensorflow}; install it with: "
            f'pip install "tensorflow>={oldest}"'
        )
    if _major_and_minor(keras) < OLDEST_KERAS:
        oldest = _dotted(OLDEST_KERAS)
        return (
            f"poseidon_tf needs Keras {oldest} or newer, got {keras}: older ones give other "
            "results under a strategy than without; install it with: "
            f'pip install "keras>={oldest}"'
        )
    if backend != "tensorflow":
        return (
            f"poseidon_tf needs Keras to compute with TensorFlow, got the backend {backend!r}; set "
            "KERAS_BACKEND=tensorflow, or leave it out"
        )
    return None


def _major_and_minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
