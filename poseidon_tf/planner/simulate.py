"""The model of a step: when all that the workers exchange has arrived, and what waits for it.

    predict              how long a step takes
      exchanges_of       what each unit asks of links and processors (`exchanges`)
      arrivals           when its result is there
        finish_times     one thing at a time, the most urgent first (`queueing`)
      end_of_step        in the step: all results are waited for at its end
      end_of_next_reads  across the step: each is waited for where the next step reads it
    speedup_bound        the same with nothing but bytes: no real step is faster

Workers are alike, and so are servers: what one of each kind does, all do at the same moments. So
one link of each kind is looked at, and a cluster of thousands costs no more than one of two. Each
way of a link carries as many bytes as the other, at the same moments. A unit streams through links
and processors piece by piece, so it has passed them all when it has passed the busiest, and its
last piece the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .exchanges import Exchange, Summing, bytes_of_variables, exchanges_of
from .machines import Host, Link, Machines
from .plan import Plan
from .queueing import finish_times
from .timeline import Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A step of P1 workers. Seconds.

    Attributes:
        num_workers: P1.
        compute_s: T, a step of one worker alone.
        step_s: a step of all.
        communication_s: what the exchanges of a step take if nothing is computed meanwhile.
    """

    num_workers: int
    compute_s: float
    step_s: float
    communication_s: float

    @property
    def speedup(self) -> float:
        """P1 T / step: samples per second, over one worker alone."""
        return self.num_workers * self.compute_s / self.step_s

    @property
    def hidden(self) -> float:
        """What part of the communication the computation hides, from 0 to 1; 1 if there is none."""
        if not self.communication_s:
            return 1.0
        return max(0.0, 1 - (self.step_s - self.compute_s) / self.communication_s)


def predict(
    plan: Plan,
    timeline: Timeline,
    machines: Machines,
    *,
    across_step: bool = False,
    summing: Summing = Summing.SERVERS,
) -> Prediction:
    """How long a step takes.

    Args:
        across_step: variables are updated at the top of the next step, each before it is read.
        summing: who adds up what the plan gives to servers.

    Raises:
        PlanError: the timeline lacks a variable of the plan.
    """
    exchanges = exchanges_of(plan, timeline, summing=summing)
    return predict_exchanges(
        exchanges,
        machines,
        num_workers=plan.cluster.num_workers,
        compute_s=timeline.compute_s,
        across_step=across_step,
    )


def predict_exchanges(
    exchanges: Sequence[Exchange],
    machines: Machines,
    *,
    num_workers: int,
    compute_s: float,
    across_step: bool = False,
) -> Prediction:
    """How long a step takes that makes these exchanges."""
    device_s = [_device_s(exchange, machines) for exchange in exchanges]
    # Alone, a device updates as soon as it has computed; here, when results are there.
    updates_s = sum(exchange.updated_bytes for exchange in exchanges) * machines.update_byte_s
    computed_s = max(compute_s - updates_s, 0.0)
    arrived_s = arrivals(exchanges, machines, across_step=across_step, computed_s=computed_s)
    end = end_of_next_reads if across_step else end_of_step
    at_once = [exchange._replace(exists_s=0.0) for exchange in exchanges]
    return Prediction(
        num_workers=num_workers,
        compute_s=compute_s,
        step_s=end(exchanges, arrived_s, device_s, compute_s=computed_s),
        communication_s=max(arrivals(at_once, machines), default=0.0),
    )


def speedup_bound(
    plan: Plan,
    exists_s: Mapping[str, float],
    *,
    compute_s: float,
    bits_per_s: float,
    needed_s: Mapping[str, float] | None = None,
) -> float:
    """P1 T / step at best: how many times one worker's samples per second P1 workers can reach.

    Nothing but the payload is counted: no headers, latency, processor or rebuild, and variables
    do not wait for the others of their unit.

    Args:
      exists_s: by variable, when its gradient exists, counted from the beginning of the step.
      compute_s: T, seconds that one worker computes per step.
      bits_per_s: of a node's link, each way.
      needed_s: by variable, when a step first reads it; the bound is then that across the step.
    """
    link = Link(bits_per_s=bits_per_s)
    reads_s = dict.fromkeys(exists_s, 0.0) if needed_s is None else needed_s
    return predict_exchanges(
        bytes_of_variables(plan, Timeline(compute_s, exists_s, reads_s)),
        Machines(link=link),
        num_workers=plan.cluster.num_workers,
        compute_s=compute_s,
        across_step=needed_s is not None,
    ).speedup


def arrivals(
    exchanges: Sequence[Exchange],
    machines: Machines,
    *,
    across_step: bool = False,
    computed_s: float = 0.0,
) -> list[float]:
    """When the result of each exchange is there, in seconds from the beginning of the step.

    Args:
        across_step: the first that is needed goes first. Without it, the first that exists.
        computed_s: until when computation may keep cores of a worker's host busy.
    """
    ready_s = [x.exists_s for x in exchanges]
    urgency = [x.needed_s if across_step else x.exists_s for x in exchanges]
    # A sum comes over a link that holds as much as that over which its parts went.
    held_bytes = machines.held_bytes * min(2, max((x.hops for x in exchanges), default=0))
    passed_s = [
        finish_times(ready_s, work_s, urgency, held_s=machines.link.seconds(held_bytes))
        for work_s in _link_work_s(exchanges, machines)
    ]
    if machines.host is not None:
        own, servers = _host_work_s(exchanges, machines, machines.host)
        idle = replace(machines.host, computing=0.0)
        passed_s += [
            _passed_host_s(ready_s, own, urgency, machines.host, computed_s),
            _passed_host_s(ready_s, servers, urgency, idle, computed_s),
        ]
    links = {*machines.worker_links, *machines.server_links}
    return [
        max((queue[at] for queue in passed_s), default=x.exists_s)
        + max(x.hops * link.latency_s + link.seconds(x.last_bytes) for link in links)
        + (2 * x.hops * machines.host.message_s if machines.host else 0.0)
        for at, x in enumerate(exchanges)
    ]


def end_of_step(
    exchanges: Sequence[Exchange],
    arrived_s: Sequence[float],
    device_s: Sequence[float],
    *,
    compute_s: float,
) -> float:
    """When all results are there, and the device has worked on them, after its computation.

    Args:
        device_s: what the device does with each result: rebuild it, update variables.
    """
    ready_s = [max(compute_s, arrived) for arrived in arrived_s]
    return max(finish_times(ready_s, device_s, ready_s), default=compute_s)


def end_of_next_reads(
    exchanges: Sequence[Exchange],
    arrived_s: Sequence[float],
    device_s: Sequence[float],
    *,
    compute_s: float,
) -> float:
    """From the beginning of a step to that of the next, with as much waiting as every step has.

    A forward pass ends when it has read everything, and no gradient exists before that: so the
    links are empty then, and each step is like the one before it. While the device waits for what
    it reads next, it works on what has arrived.
    """
    left_s = list(device_s)
    to_do = sorted((at for at, s in enumerate(left_s) if s), key=lambda at: arrived_s[at])
    now_s, read_s = compute_s, 0.0
    for at in sorted(range(len(exchanges)), key=lambda at: exchanges[at].needed_s):
        now_s += exchanges[at].needed_s - read_s
        read_s = exchanges[at].needed_s
        for other in to_do:
            start_s = max(now_s, arrived_s[other])
            if start_s >= arrived_s[at]:
                break
            spent_s = min(left_s[other], arrived_s[at] - start_s)
            left_s[other] -= spent_s
            now_s = start_s + spent_s if spent_s else now_s
        now_s = max(now_s, arrived_s[at]) + left_s[at]
        left_s[at] = 0.0
    return now_s - read_s


def _passed_host_s(
    ready_s: Sequence[float],
    work_s: Sequence[float],
    urgency: Sequence[float],
    host: Host,
    computed_s: float,
) -> list[float]:
    """When a host's processor is done: a queue by the clock of what is free of it."""
    ready = [host.done_until(each, computed_s=computed_s) for each in ready_s]
    done = finish_times(ready, work_s, urgency)
    return [
        host.done_at(each, computed_s=computed_s) if work else at
        for each, work, at in zip(done, work_s, ready_s, strict=True)
    ]


def _link_work_s(exchanges: Sequence[Exchange], machines: Machines) -> list[list[float]]:
    """How long each exchange takes on each link, and by the credit of a stream to a server."""
    work_s = [[link.seconds(x.node_bytes) for x in exchanges] for link in machines.worker_links]
    if any(x.server_bytes for x in exchanges):
        work_s += [
            [link.seconds(x.server_bytes) for x in exchanges] for link in machines.server_links
        ]
    elif machines.slow_server is not None and not any(x.servers_apart for x in exchanges):
        # It is on a worker's host.
        work_s.append([machines.slow_server.seconds(x.node_bytes) for x in exchanges])
    round_trip_s = 2 * machines.link.latency_s
    work_s.append([x.stream_bytes / machines.credit_bytes * round_trip_s for x in exchanges])
    return work_s


def _host_work_s(
    exchanges: Sequence[Exchange], machines: Machines, host: Host
) -> tuple[list[float], list[float]]:
    """CPU seconds on a worker's host, and on that of a dedicated server."""
    joined = machines.devices - 1
    own = [
        host.work_s(x.messages, 2 * x.node_bytes, x.summed_bytes + joined * x.device_bytes)
        for x in exchanges
    ]
    servers = [
        host.work_s(x.server_messages, 2 * x.server_bytes, x.server_summed_bytes) for x in exchanges
    ]
    return own, servers


def _device_s(exchange: Exchange, machines: Machines) -> float:
    rebuild_s = exchange.rebuild_flops / machines.flops_per_s if machines.flops_per_s else 0.0
    return rebuild_s + exchange.updated_bytes * machines.update_byte_s
