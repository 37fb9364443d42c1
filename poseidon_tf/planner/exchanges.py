"""What the exchange of a unit asks of every machine: bytes, messages, sums, products.

The letters are those of `cost`. `b` is the bytes of a unit's gradient. Per step, one way:

    scheme          a worker's host          a server's own host    latencies one after another
    PS, co-located  b (P1 + P2 - 2) / P2     -                      2
    PS, dedicated   b                        b P1 / P2              2
    SFB, rows       K (P1-1) (M+N) values    -                      1
    ring            2 b (P1-1) / P1          -                      2 (P1-1)
    hierarchical    2 b (P1-1) / P1          -                      2 (g-1) + 2 (P1/g - 1)
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from .plan import Plan, Scheme, Unit, VariablePlan
from .specs import DTYPE_BYTES
from .timeline import Timeline


class Summing(enum.Enum):
    """Who adds up what does not travel as factors or rows."""

    SERVERS = "servers"
    RING = "a ring of all workers"
    HIERARCHICAL = "rings of g workers, then rings across them, then the first ones again"


class Exchange(NamedTuple):
    """One unit in one step.

    Attributes:
        name: of its first variable, and how many more it has.
        exists_s: when the last of its gradients exists.
        needed_s: when a step reads the first of its variables.
        node_bytes: one way on the link of a worker's host, a co-located server's included.
        server_bytes: one way on the link of a dedicated server.
        last_bytes: of its last piece, which crosses a link again after it was received whole.
        hops: latencies one after another.
        messages, server_messages: sent plus received on the two hosts.
        summed_bytes, server_summed_bytes: added up on the two hosts.
        device_bytes: that one device contributes.
        rebuild_flops: of the products over the other workers' rows.
        updated_bytes: of the gradient by which variables are updated.
        stream_bytes: from a worker to one server.
        servers_apart: whether servers have hosts of their own, which carry `server_bytes` alone.
    """

    name: str
    exists_s: float
    needed_s: float
    node_bytes: float
    server_bytes: float = 0.0
    last_bytes: float = 0.0
    hops: int = 0
    messages: float = 0.0
    server_messages: float = 0.0
    summed_bytes: float = 0.0
    server_summed_bytes: float = 0.0
    device_bytes: float = 0.0
    rebuild_flops: float = 0.0
    updated_bytes: float = 0.0
    stream_bytes: float = 0.0
    servers_apart: bool = False


def bytes_of_variables(plan: Plan, timeline: Timeline) -> list[Exchange]:
    """Each variable on its own, and nothing but its bytes: the least that the links carry."""
    found = []
    for variable in plan.variables:
        needed_s, exists_s = timeline.of(variable.name)
        found.append(
            Exchange(
                variable.name,
                exists_s,
                needed_s,
                variable.node_bytes / 2,
                _server_bytes(plan, [variable]) if variable.scheme is Scheme.PS else 0.0,
                servers_apart=not plan.cluster.co_located,
            )
        )
    return found if plan.cluster.num_workers > 1 else []


def exchanges_of(
    plan: Plan, timeline: Timeline, *, summing: Summing = Summing.SERVERS
) -> list[Exchange]:
    """Every unit of the plan, in its order; none for one worker."""
    if plan.cluster.num_workers == 1:
        return []
    counts = Counter(pair.unit for pair in plan.pairs)
    found = []
    for unit in plan.units:
        members = [plan.variables[at] for at in unit.variables]
        times = [timeline.of(variable.name) for variable in members]
        first = Exchange(
            members[0].name
            if len(members) == 1
            else f"{members[0].name} and {len(members) - 1} more",
            exists_s=max(exists_s for _, exists_s in times),
            needed_s=min(needed_s for needed_s, _ in times),
            node_bytes=sum(variable.node_bytes for variable in members) / 2,
            updated_bytes=_summed_bytes(unit),
            servers_apart=not plan.cluster.co_located,
        )
        if unit.scheme is not Scheme.PS:
            found.append(_by_factors(first, plan, members))
        elif summing is not Summing.SERVERS:
            found.append(_by_rings(first, plan, unit, summing))
        else:
            found.append(_by_servers(first, plan, unit, members, counts[unit.index]))
    return found


def _by_servers(
    first: Exchange, plan: Plan, unit: Unit, members: Sequence[VariablePlan], num_pairs: int
) -> Exchange:
    P1, P2 = plan.cluster.num_workers, plan.cluster.num_servers
    b, summed = unit.num_elements * DTYPE_BYTES[unit.dtype], _summed_bytes(unit)
    first = first._replace(
        last_bytes=b / max(num_pairs, 1), hops=2, device_bytes=summed, stream_bytes=b / P2
    )
    if plan.cluster.co_located:
        return first._replace(
            messages=2 * num_pairs * (P1 + P2 - 2) / P2, summed_bytes=P1 * summed / P2
        )
    return first._replace(
        server_bytes=_server_bytes(plan, members),
        messages=2 * num_pairs,
        server_messages=2 * num_pairs * P1 / P2,
        server_summed_bytes=P1 * summed / P2,
    )


def _by_factors(first: Exchange, plan: Plan, members: Sequence[VariablePlan]) -> Exchange:
    P1 = plan.cluster.num_workers
    flops = sum(variable.rebuild_flops for variable in members)
    return first._replace(
        hops=1,
        messages=2 * (P1 - 1),
        device_bytes=first.node_bytes / (P1 - 1),
        rebuild_flops=flops * (P1 - 1) / P1,
    )


def _by_rings(first: Exchange, plan: Plan, unit: Unit, summing: Summing) -> Exchange:
    """Rings of g, and across them of P1 / g, carry together what one ring of P1 does.

    Within its group a worker sends 2 b (g - 1) / g, and across groups as much of what is then its
    g-th part: the sum is that of one ring, with fewer latencies after one another.
    """
    P1 = plan.cluster.num_workers
    g = group_size(P1) if summing is Summing.HIERARCHICAL else P1
    hops = 2 * (g - 1) + 2 * (P1 // g - 1)
    b, summed = unit.num_elements * DTYPE_BYTES[unit.dtype], _summed_bytes(unit)
    return first._replace(
        node_bytes=2 * b * (P1 - 1) / P1,
        hops=hops,
        messages=2 * hops,
        summed_bytes=summed * (P1 - 1) / P1,
        device_bytes=summed,
    )


def group_size(num_workers: int) -> int:
    """g of hierarchical all-reduce: the largest part of P1 up to its root, so latencies are few."""
    return next(g for g in range(math.isqrt(num_workers), 0, -1) if num_workers % g == 0)


def _summed_bytes(unit: Unit) -> int:
    """Of one contribution as it is added up: 16 bits are widened for that."""
    return unit.num_elements * max(DTYPE_BYTES[unit.dtype], DTYPE_BYTES["float32"])


def _server_bytes(plan: Plan, members: Sequence[VariablePlan]) -> float:
    """One way on a dedicated server's link: its part of the gradient, from or to each worker."""
    P1, P2 = plan.cluster.num_workers, plan.cluster.num_servers
    return 0.0 if plan.cluster.co_located else sum(v.ps_bytes for v in members) / 2 * P1 / P2
