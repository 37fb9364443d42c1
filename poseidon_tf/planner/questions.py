"""What people ask before they buy: how fast, what is hidden, what holds it up, what would do.

Each answer is the model of a step, asked again with something else in it.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from .exchanges import Summing, exchanges_of
from .machines import Machines
from .plan import Plan
from .planner import make_plan
from .simulate import Prediction, predict, predict_exchanges
from .specs import ClusterSpec, VariableSpec
from .timeline import Timeline

ENOUGH = 1.01
"""A link is enough if a step takes no more than this times what it takes over an endless one."""
BITS_PER_S_RANGE = (1e3, 1e18)


class Bottleneck(NamedTuple):
    """What a step waits for most.

    Attributes:
        name: of the exchange.
        step_s: what a step would take without it.
    """

    name: str
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """About a step.

    Attributes:
        prediction: of the step.
        across_step: of a step whose results are waited for where the next one reads them.
        bottleneck: None where no exchange makes a step 1 % longer.
        enough_bits_per_s: the slowest link that is enough, each way.
        endless_link_s: a step over a link that is never waited for.
    """

    prediction: Prediction
    across_step: Prediction
    bottleneck: Bottleneck | None
    enough_bits_per_s: float
    endless_link_s: float


def answer(plan: Plan, timeline: Timeline, machines: Machines) -> Answer:
    """What can be said of a step under `plan`."""
    exchanges = exchanges_of(plan, timeline)
    workers, compute_s = plan.cluster.num_workers, timeline.compute_s

    def step_s(bits_per_s: float) -> float:
        link = replace(machines.link, bits_per_s=bits_per_s)
        others = replace(machines, link=link)
        found = predict_exchanges(exchanges, others, num_workers=workers, compute_s=compute_s)
        return found.step_s

    prediction = predict(plan, timeline, machines)
    without = [
        Bottleneck(
            exchange.name,
            predict_exchanges(
                [*exchanges[:at], *exchanges[at + 1 :]],
                machines,
                num_workers=workers,
                compute_s=compute_s,
            ).step_s,
        )
        for at, exchange in enumerate(exchanges)
    ]
    worst = min(without, key=lambda each: each.step_s, default=None)
    if worst is not None and worst.step_s * ENOUGH > prediction.step_s:
        worst = None
    low, high = BITS_PER_S_RANGE
    endless_link_s = step_s(high)
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        if step_s(middle) <= ENOUGH * endless_link_s:
            high = middle
        else:
            low = middle
    return Answer(
        prediction=prediction,
        across_step=predict(plan, timeline, machines, across_step=True),
        bottleneck=worst,
        enough_bits_per_s=high,
        endless_link_s=endless_link_s,
    )


WAYS = (
    "PS",
    "SFB",
    "hybrid",
    "hybrid across the step",
    "hybrid in 16 bits",
    "hybrid across the step in 16 bits",
    "ring all-reduce",
    "hierarchical all-reduce",
)
"""What a curve compares; all but the two kinds of all-reduce are there to train with."""
SIXTEEN_BITS = "bfloat16"


class Point(NamedTuple):
    """Of the curve: what each of `WAYS` would make of so many workers."""

    num_workers: int
    predictions: dict[str, Prediction]


def curve(
    specs: Sequence[VariableSpec],
    timeline: Timeline,
    machines: Machines,
    counts: Sequence[int],
    *,
    num_servers: int | None,
    co_located: bool,
    schemes: Mapping[str, str],
) -> list[Point]:
    """Predictions for several numbers of workers, each with the same batch.

    Args:
        num_servers: None for as many as workers.
        schemes: overrides of the hybrid's, as in `make_plan`.
    """
    servers = {glob.escape(spec.name): "ps" for spec in specs if not spec.why_rows}
    factors = {
        glob.escape(spec.name): "sfb" for spec in specs if spec.factors and spec.rows is not None
    }
    points = []
    for count in counts:
        cluster = ClusterSpec(
            num_workers=count,
            num_servers=count if num_servers is None else num_servers,
            co_located=co_located,
        )
        ps, sfb, hybrid = (
            make_plan(specs, cluster, schemes=wishes) for wishes in (servers, factors, schemes)
        )
        narrow = make_plan(specs, cluster, schemes=schemes, wire_dtype=SIXTEEN_BITS)
        points.append(
            Point(
                count,
                {
                    "PS": predict(ps, timeline, machines),
                    "SFB": predict(sfb, timeline, machines),
                    "hybrid": predict(hybrid, timeline, machines),
                    "ring all-reduce": predict(ps, timeline, machines, summing=Summing.RING),
                    "hierarchical all-reduce": predict(
                        ps, timeline, machines, summing=Summing.HIERARCHICAL
                    ),
                    "hybrid across the step": predict(hybrid, timeline, machines, across_step=True),
                    "hybrid in 16 bits": predict(narrow, timeline, machines),
                    "hybrid across the step in 16 bits": predict(
                        narrow, timeline, machines, across_step=True
                    ),
                },
            )
        )
    return points
