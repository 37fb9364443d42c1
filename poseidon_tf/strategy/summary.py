"""What rank 0 shows when `fit` has ended: how its steps went, in a few lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from poseidon_tf.coordinator.messages import ServerFigures
from poseidon_tf.coordinator.status import Status
from poseidon_tf.planner.table import human_bytes
from poseidon_tf.session.statistics import Statistics, hidden_part
from poseidon_tf.session.step_times import Medians


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FitSummary:
    """Of the steps of one `fit`.

    Attributes:
      times: medians of its last steps on this worker, 1000 at most; without the first one.
      is_deferred: whether sums were still on their way while the next step was computed. Then only
        bounds are known of what was waited for.
      predicted_s: what the model of a step says of one, from its computation and what links and
        hosts were measured to do; 0 if they were not.
      network_bytes: by scheme, this worker's share of what all have sent over the network.
      ring_bytes: what it would have sent of the same gradients in a ring.
      slowest: the worker with the longest own part of a step, in words; empty if they are alike.
      reconnections: of all workers, since they have joined.
      busiest_server: what the server did that summed for the longest time, in words; empty if no
        server has told.
    """

    steps: int
    times: Medians
    is_deferred: bool = False
    predicted_s: float = 0.0
    network_bytes: dict[str, int] = field(default_factory=dict)
    ring_bytes: int = 0
    slowest: str = ""
    reconnections: int = 0
    busiest_server: str = ""

    def text(self) -> str:
        """The lines that are shown."""
        lines = [f"poseidon_tf: {self.steps} step{'s' * (self.steps != 1)}"]
        times = self.times
        if times.steps:
            least, most = ("at least ", "at most ") if self.is_deferred else ("", "")
            lines[0] += (
                f" of {_ms(times.step_s)} (median): {least}{_ms(times.own_s)} without waiting, "
                f"{most}{_ms(times.waiting_s)} waiting for sums"
            )
            hidden = hidden_part(times.communicating_s, times.waiting_s)
            lines.append(
                f"communication: {_ms(times.communicating_s)} of each step, "
                f"{least}{100 * hidden:.0f} % of it hidden behind computation"
            )
            if self.predicted_s:
                lines.append(
                    f"a step was predicted to take {_ms(self.predicted_s)}, from its computation "
                    f"and the links; it took {_ms(times.step_s)}"
                )
        sent = {scheme: count for scheme, count in self.network_bytes.items() if count}
        by_scheme = ", ".join(f"{scheme} {self._a_step(sent[scheme])}" for scheme in sent)
        lines.append(
            f"sent per step and worker: {self._a_step(sum(sent.values()))}"
            f"{f' ({by_scheme})' * bool(sent)}; a ring all-reduce would have sent "
            f"{self._a_step(self.ring_bytes)}"
        )
        slowest = self.slowest or "no worker is noticeably slower than another"
        many = self.reconnections != 1
        lines.append(f"{slowest}; {self.reconnections} reconnection{'s' * many}")
        if self.busiest_server:
            lines.append(self.busiest_server)
        return "\n  ".join(lines)

    def _a_step(self, num_bytes: int) -> str:
        return human_bytes(round(num_bytes / self.steps))


def step_figures(before: Statistics, after: Statistics, times: Medians) -> dict[str, float]:
    """What a step was like between two looks at this worker's statistics, by the names there.

    Times are in ms, `hidden` is a part of 1, bytes are of a step; no times where `times` has none.
    """
    steps = after.steps - before.steps
    figures: dict[str, float] = {}
    if times.steps:
        figures["step_ms"] = 1000 * times.step_s
        figures["own_ms"] = 1000 * times.own_s
        figures["waiting_ms"] = 1000 * times.waiting_s
        figures["communicating_ms"] = 1000 * times.communicating_s
        figures["hidden"] = hidden_part(times.communicating_s, times.waiting_s)
    if steps > 0:
        ring_bytes = after.ring_all_reduce_bytes - before.ring_all_reduce_bytes
        figures["network_bytes"] = (after.network_bytes - before.network_bytes) / steps
        figures["ring_all_reduce_bytes"] = ring_bytes / steps
    return figures


def summary_of(
    before: Statistics, after: Statistics, times: Medians, status_before: Status, status: Status
) -> FitSummary | None:
    """Of what has happened between two looks at this worker's statistics; None if no step has.

    Args:
      times: of the steps between them.
      status_before, status: of the job, before and after them.
    """
    steps = after.steps - before.steps
    if steps <= 0:
        return None
    slowest = ""
    if status.slowest is not None:
        member, ratio = status.slowest
        slowest = f"slowest: {member.name}, {ratio:.1f} times the fastest without waiting"
    known = [member.figures for member in status.members if member.figures is not None]
    return FitSummary(
        steps=steps,
        times=times,
        is_deferred=after.updates.deferred > before.updates.deferred,
        network_bytes={
            "ps": after.ps.network_bytes - before.ps.network_bytes,
            "sfb": after.sfb.network_bytes - before.sfb.network_bytes,
            "rows": after.rows.network_bytes - before.rows.network_bytes,
        },
        ring_bytes=after.ring_all_reduce_bytes - before.ring_all_reduce_bytes,
        slowest=slowest,
        reconnections=sum(figures.reconnections for figures in known),
        busiest_server=_busiest_server(status_before, status),
    )


def _busiest_server(before: Status, after: Status) -> str:
    """Of those that have told of sums between the two."""
    known = {member.rank: (member, figures) for member, figures in before.summing}
    found = []
    for member, figures in after.summing:
        told_s = after.running_s - member.figures_age_s
        member_before, figures_before = known.get(member.rank, (member, ServerFigures()))
        lasted_s = told_s - before.running_s
        if member.rank in known:
            lasted_s += member_before.figures_age_s
        summing_s = figures.summing_s - figures_before.summing_s
        if figures.sums > figures_before.sums and lasted_s > 0.0:
            received = figures.received_bytes - figures_before.received_bytes
            sent = figures.sent_bytes - figures_before.sent_bytes
            found.append((summing_s / lasted_s, member, figures, received, sent))
    if not found:
        return ""
    part, member, figures, received, sent = max(found, key=lambda each: each[0])
    text = (
        f"busiest server: {member.name}, which summed in {100 * part:.1f} % of the time; "
        f"{human_bytes(received)} came in and {human_bytes(sent)} went out"
    )
    if figures.last_rank >= 0:
        text += (
            f"; of its last sums {100 * figures.last_part:.0f} % waited for "
            f"{after.name_of_worker(figures.last_rank)}, for {_ms(figures.late_s)}"
        )
    return text


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
