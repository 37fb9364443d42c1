"""The status of a job as families of metrics, for prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from poseidon_tf.coordinator.messages import Figures
from poseidon_tf.coordinator.status import Status

# Of every worker: name, what it is, and where it stands in its figures.
_COUNTERS = (
    ("poseidon_steps", "Training steps that the worker has begun.", "steps"),
    ("poseidon_waiting_seconds", "Time in which it waited for sums.", "total_waiting_s"),
    (
        "poseidon_communicating_seconds",
        "Time in which some gradient was on its way.",
        "total_communicating_s",
    ),
    (
        "poseidon_ring_all_reduce_bytes",
        "What it would have sent if a ring had summed the same gradients.",
        "ring_all_reduce_bytes",
    ),
    ("poseidon_reconnections", "Connections that were made again.", "reconnections"),
)
_GAUGES = (
    ("poseidon_step_seconds", "Median time of its last steps.", "step_s"),
    ("poseidon_step_own_seconds", "The part in which it did not wait for sums.", "own_s"),
    ("poseidon_step_waiting_seconds", "The part in which it did.", "waiting_s"),
    (
        "poseidon_step_communicating_seconds",
        "The part in which some gradient was on its way.",
        "communicating_s",
    ),
    ("poseidon_oldest_wait_seconds", "How long it has waited for a sum now.", "oldest_wait_s"),
)
# Of every server.
_SERVER_COUNTERS = (
    ("poseidon_server_sums", "Sums that have left the server.", "sums"),
    (
        "poseidon_server_received_bytes",
        "Contributions that came over the network.",
        "received_bytes",
    ),
    ("poseidon_server_sent_bytes", "Sums that went over the network.", "sent_bytes"),
    ("poseidon_server_summing_seconds", "Time in which it added.", "summing_s"),
)
_SERVER_GAUGES = (
    (
        "poseidon_server_oldest_wait_seconds",
        "How long its oldest unfinished sum has waited now.",
        "oldest_wait_s",
    ),
)


def families(status: Status) -> Iterator[Any]:
    """The status as metrics of prometheus_client; counters get their `_total` from it."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    members = GaugeMetricFamily("poseidon_members", "Members of the job.", labels=["role", "is"])
    for role in ("worker", "server"):
        for presence in ("expected", "here", "left"):
            of = [m for m in status.members if (m.role, m.presence) == (role, presence)]
            members.add_metric([role, presence], len(of))
    yield members
    for name, about, value in (
        ("poseidon_running_seconds", "Time since rank 0 has begun to listen.", status.running_s),
        ("poseidon_restarts", "How often the launcher has started the job anew.", status.restarts),
        ("poseidon_failed", "1 if the job has failed.", bool(status.failure)),
        ("poseidon_waits", "Agreements that workers wait for each other in.", len(status.waits)),
    ):
        yield GaugeMetricFamily(name, about, value=float(value))
    workers = [(str(m.rank), m) for m in status.members if m.role == "worker"]
    told = [(rank, m, m.figures) for rank, m in workers if m.figures is not None]
    for kind, of_kind in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
        for name, about, attribute in of_kind:
            family = kind(name, about, labels=["worker"])
            for rank, _, figures in told:
                family.add_metric([rank], float(getattr(figures, attribute)))
            yield family
    age = GaugeMetricFamily(
        "poseidon_figures_age_seconds", "How old what a worker has told is.", labels=["worker"]
    )
    sent = CounterMetricFamily(
        "poseidon_network_bytes",
        "The worker's share of what all processes have sent, by scheme.",
        labels=["worker", "scheme"],
    )
    for rank, member, figures in told:
        age.add_metric([rank], member.figures_age_s)
        for scheme, num_bytes in _by_scheme(figures).items():
            sent.add_metric([rank, scheme], float(num_bytes))
    yield age
    yield sent
    yield from _of_servers(status)


def _of_servers(status: Status) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for kind, of_kind in (
        (CounterMetricFamily, _SERVER_COUNTERS),
        (GaugeMetricFamily, _SERVER_GAUGES),
    ):
        for name, about, attribute in of_kind:
            family = kind(name, about, labels=["server"])
            for member, figures in status.summing:
                family.add_metric([str(member.rank)], float(getattr(figures, attribute)))
            yield family
    age = GaugeMetricFamily(
        "poseidon_server_figures_age_seconds",
        "How old what a server has told is.",
        labels=["server"],
    )
    late = GaugeMetricFamily(
        "poseidon_server_late_seconds",
        "How much later than all others' the contributions come of the worker that sums wait for.",
        labels=["server", "worker"],
    )
    for member, figures in status.summing:
        age.add_metric([str(member.rank)], member.figures_age_s)
        if figures.last_rank >= 0:
            late.add_metric([str(member.rank), str(figures.last_rank)], figures.late_s)
    yield age
    yield late


def _by_scheme(figures: Figures) -> dict[str, int]:
    return {"ps": figures.ps_bytes, "sfb": figures.sfb_bytes, "rows": figures.rows_bytes}
