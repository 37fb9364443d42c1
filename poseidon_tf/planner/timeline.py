"""When a step reads each variable, and when each gradient exists, if nothing has to be waited for.

read_times       forward: a layer's variables are read when the layers below it are done
gradient_times   backward: a layer's gradient exists when it and the layers above it are done
Timeline         both, by variable
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import PlanError

FORWARD_SHARE = 1 / 3
"""Of a step's computation. The rest is backpropagation, which makes two products per layer (the
gradients of its input and of its weights) where the forward pass makes one."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """One worker's step, computed without waiting. Seconds from the step's beginning.

    Attributes:
        compute_s: T, the whole step.
        exists_s: by variable, when its gradient exists; from 0 to T.
        needed_s: by variable, when the step first reads it; from 0 to the first of `exists_s`.
    """

    compute_s: float
    exists_s: Mapping[str, float]
    needed_s: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.compute_s > 0:
            raise PlanError(f"compute_s must be more than 0, got {self.compute_s}")

    def of(self, name: str) -> tuple[float, float]:
        """When the variable is first read, and when its gradient exists."""
        if name not in self.exists_s:
            raise PlanError(f"exists_s must say when every gradient exists; it lacks {name!r}")
        if name not in self.needed_s:
            raise PlanError(f"needed_s must say when every variable is read; it lacks {name!r}")
        return self.needed_s[name], self.exists_s[name]


def gradient_times(shares: Sequence[float], *, compute_s: float) -> list[float]:
    """When each layer's gradient exists, in the order of `shares`: from the input to the output.

    Args:
      shares: what part of the computation each layer takes.
    """
    now_s = compute_s * FORWARD_SHARE
    times_s = []
    for share in reversed(shares):
        now_s += compute_s * (1 - FORWARD_SHARE) * share
        times_s.append(now_s)
    return times_s[::-1]


def read_times(shares: Sequence[float], *, compute_s: float) -> list[float]:
    """When the forward pass comes to each layer, in the order of `shares`.

    Args:
      shares: what part of the computation each layer takes.
    """
    now_s = 0.0
    times_s = []
    for share in shares:
        times_s.append(now_s)
        now_s += compute_s * FORWARD_SHARE * share
    return times_s
