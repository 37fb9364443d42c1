"""The fastest step that a link allows under a plan, and so the bound on speedup.

    speedup_bound           P T / max(T, end of the step's communication)
      transfers_of          each variable's bytes, from the moment that its gradient exists
        gradient_times      backpropagation from the top layer down, after the forward pass
      communication_end     one link, first come, first served

One direction of one node's link is looked at: half of what Table 1 counts as in plus out. Nothing
leaves during the forward pass. Protocol headers, latency and the processor's time are left out, so
no real step is faster. Where servers have hosts of their own, the link is a worker's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..errors import PlanError
from .plan import Plan

FORWARD_SHARE = 1 / 3
"""Of a step's computation. The rest is backpropagation, which makes two products per layer (the
gradients of its input and of its weights) where the forward pass makes one."""


class Transfer(NamedTuple):
    """Bytes that may enter the link once they exist."""

    exists_s: float
    num_bytes: float


def speedup_bound(
    plan: Plan,
    exists_s: Mapping[str, float],
    *,
    compute_s: float,
    bits_per_s: float,
) -> float:
    """P T / max(T, t_end): how many times one worker's samples per second P workers can reach.

    Args:
      exists_s: by variable, when its gradient exists, counted from the beginning of the step.
      compute_s: T, seconds that one worker computes per step.
      bits_per_s: of a node's link, each way.
    """
    end_s = communication_end(transfers_of(plan, exists_s), bits_per_s=bits_per_s)
    return plan.cluster.num_workers * compute_s / max(compute_s, end_s)


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


def transfers_of(plan: Plan, exists_s: Mapping[str, float]) -> list[Transfer]:
    """What each variable puts on the link, one way, and from when on."""
    missing = [variable.name for variable in plan.variables if variable.name not in exists_s]
    if missing:
        raise PlanError(f"exists_s must say when every gradient exists; it lacks {missing[0]!r}")
    return [
        Transfer(exists_s[variable.name], variable.node_bytes / 2) for variable in plan.variables
    ]


def communication_end(transfers: Iterable[Transfer], *, bits_per_s: float) -> float:
    """When the last byte has passed the link."""
    if not bits_per_s > 0:
        raise PlanError(f"bits_per_s must be more than 0, got {bits_per_s}")
    free_s = 0.0
    for transfer in sorted(transfers):
        free_s = max(free_s, transfer.exists_s) + transfer.num_bytes * 8 / bits_per_s
    return free_s
