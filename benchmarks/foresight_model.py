"""From what was measured to what the model of a step says of a cell of `bench_foresight`.

Pure, as far as it measures nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lab.links import Carried

from poseidon_tf.planner import Host, Link, Machines, Plan, Timeline
from poseidon_tf.planner.exchanges import Exchange, exchanges_of
from poseidon_tf.planner.simulate import predict_exchanges

Row = dict[str, Any]


class Asked(NamedTuple):
    """What exchanges ask of one host in a step, and the CPU seconds that this took."""

    messages: float
    num_bytes: float
    summed_bytes: float
    cpu_s: float


class CpuCosts(NamedTuple):
    """Of one protocol: CPU seconds for a message and for a byte, sent or received."""

    message_s: float
    byte_s: float


def timeline_of(exists_s: Mapping[str, float], *, alone_s: float) -> Timeline:
    """Of a net, from when its gradients exist: those of the lowest layer last.

    A layer's forward pass takes half of what its backward pass does.
    """
    moments = sorted(set(exists_s.values()), reverse=True)  # From the input to the output.
    needed_s, now_s = {}, 0.0
    for exists, above in zip(moments, [*moments[1:], moments[-1]], strict=True):
        needed_s.update({name: now_s for name, at in exists_s.items() if at == exists})
        now_s = min(now_s + (exists - above) / 2, moments[-1])
    return Timeline(max(alone_s, moments[0]), dict(exists_s), needed_s)


def update_byte_s(timeline: Timeline, num_bytes: float) -> float:
    """What is left of a step when the last gradient exists goes to the update."""
    return max(timeline.compute_s - max(timeline.exists_s.values()), 0.0) / num_bytes


def exchanges_of_net(plan: Plan, timeline: Timeline) -> list[Exchange]:
    """Those of a plan for several nets that are of the net whose timeline is given."""
    of_others = {v.name: timeline.compute_s for v in plan.variables} | dict(timeline.exists_s)
    whole = Timeline(timeline.compute_s, of_others, {**of_others, **timeline.needed_s})
    return [
        exchange
        for unit, exchange in zip(plan.units, exchanges_of(plan, whole), strict=True)
        if plan.variables[unit.variables[0]].name in timeline.exists_s
    ]


def asked(exchanges: Sequence[Exchange], cpu_s: float) -> Asked:
    """Of co-located servers."""
    return Asked(
        sum(exchange.messages for exchange in exchanges),
        sum(2 * exchange.node_bytes for exchange in exchanges),
        sum(exchange.summed_bytes for exchange in exchanges),
        cpu_s,
    )


def cpu_costs(many: Asked, wide: Asked, *, sum_byte_s: float) -> CpuCosts:
    """From many small messages and from few large ones; no less than nothing.

    Where one would be, the other is such that the large ones cost what they did.
    """
    a, b = (each.cpu_s - each.summed_bytes * sum_byte_s for each in (many, wide))
    both = many.messages * wide.num_bytes - wide.messages * many.num_bytes
    message_s = (a * wide.num_bytes - b * many.num_bytes) / both
    byte_s = (b * many.messages - a * wide.messages) / both
    if message_s < 0:
        return CpuCosts(0.0, max(b, 0.0) / wide.num_bytes)
    if byte_s < 0:
        return CpuCosts(max(b, 0.0) / wide.messages, 0.0)
    return CpuCosts(message_s, byte_s)


def link_of(carried: Carried) -> Link:
    """Its payload was measured, so there are no headers to take off."""
    return Link(bits_per_s=carried.bits_per_s, latency_s=carried.round_trip_s / 2)


def predicted_s(
    exchanges: Sequence[Exchange],
    *,
    workers: int,
    compute_s: float,
    link: Link,
    host: Host,
    flops_per_s: float | None,
    update_byte_s: float,
    across_step: bool,
    held_bytes: float = 0.0,
) -> float:
    """What a step takes, by the model."""
    machines = Machines(
        link=link,
        host=host,
        flops_per_s=flops_per_s,
        update_byte_s=update_byte_s,
        held_bytes=held_bytes,
    )
    return predict_exchanges(
        exchanges,
        machines,
        num_workers=workers,
        compute_s=compute_s,
        across_step=across_step,
    ).step_s


def with_error(row: Row) -> Row:
    """The row with "error": the prediction's, relative to what was measured."""
    return {**row, "error": row["predicted_s"] / row["measured_s"] - 1}


def summary(rows: Sequence[Row]) -> Row:
    """Of absolute errors: the median, what nine of ten are within, and the worst."""
    errors = sorted(abs(row["error"]) for row in rows)
    return {
        "cells": len(errors),
        "median error": statistics.median(errors),
        "90 % within": errors[max(0, -(-9 * len(errors) // 10) - 1)],
        "worst": errors[-1],
    }
