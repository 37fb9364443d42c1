"""What the summary of a `fit` says, from figures."""

from poseidon_tf.coordinator.messages import ServerFigures
from poseidon_tf.coordinator.status import MemberStatus, Status
from poseidon_tf.session.statistics import Statistics
from poseidon_tf.session.step_times import Medians
from poseidon_tf.strategy.summary import FitSummary, summary_of

TIMES = Medians(steps=9, step_s=0.1, own_s=0.075, waiting_s=0.025, communicating_s=0.05)


def text(*, is_deferred: bool) -> list[str]:
    summary = FitSummary(
        steps=10,
        times=TIMES,
        is_deferred=is_deferred,
        network_bytes={"ps": 20480, "sfb": 0},
        ring_bytes=40960,
    )
    return summary.text().splitlines()


def test_times_bytes_and_who_is_slow() -> None:
    assert text(is_deferred=False) == [
        "poseidon_tf: 10 steps of 100 ms (median): 75 ms without waiting, 25 ms waiting for sums",
        "  communication: 50 ms of each step, 50 % of it hidden behind computation",
        "  sent per step and worker: 2.0 KiB (ps 2.0 KiB); "
        "a ring all-reduce would have sent 4.0 KiB",
        "  no worker is noticeably slower than another; 0 reconnections",
    ]


def test_where_sums_come_during_the_next_step_only_bounds_are_known() -> None:
    """Nobody sees whether its forward pass waits for one of them."""
    first, second, *_ = text(is_deferred=True)
    assert first.endswith("at least 75 ms without waiting, at most 25 ms waiting for sums")
    assert second.endswith("at least 50 % of it hidden behind computation")


def test_a_prediction_is_compared_with_what_was_measured() -> None:
    summary = FitSummary(steps=10, times=TIMES, predicted_s=0.095)
    assert summary.text().splitlines()[2] == (
        "  a step was predicted to take 95 ms, from its computation and the links; it took 100 ms"
    )


def told(running_s: float, *servers: ServerFigures | None) -> Status:
    """What two workers' servers have said a second ago."""
    members = [
        MemberStatus(role="worker", rank=rank, address=f"w{rank}:1", presence="here")
        for rank in range(2)
    ]
    members += [
        MemberStatus(
            role="server",
            rank=rank,
            address=f"s{rank}:1",
            presence="here",
            figures_age_s=1.0,
            server_figures=figures,
        )
        for rank, figures in enumerate(servers)
    ]
    return Status(members=tuple(members), running_s=running_s)


def last_line(before: Status, after: Status) -> str:
    summary = summary_of(Statistics(), Statistics(steps=10), TIMES, before, after)
    assert summary is not None
    return summary.text().splitlines()[-1]


def test_the_server_that_sums_longest_is_named_with_whom_it_waits_for() -> None:
    """Of this fit alone: what it told when it began is taken away."""
    before = told(11.0, ServerFigures(sums=50, summing_s=9.0), ServerFigures(sums=50))
    quick = ServerFigures(sums=90, summing_s=9.5)
    busy = ServerFigures(
        sums=90,
        summing_s=2.0,
        received_bytes=2**20,
        sent_bytes=2**21,
        last_rank=1,
        last_part=0.75,
        late_s=0.05,
    )
    assert last_line(before, told(31.0, quick, busy)) == (
        "  busiest server: server 1 (s1:1), which summed in 10.0 % of the time; 1.0 MiB came in "
        "and 2.0 MiB went out; of its last sums 75 % waited for worker rank 1 (w1:1), for 50 ms"
    )


def test_where_no_server_has_told_of_sums_nothing_is_said_of_them() -> None:
    """A fit that is over before they have."""
    same = ServerFigures(sums=50, summing_s=9.0)
    for servers in ([None, None], [same, same]):
        found = last_line(told(11.0, *servers), told(12.0, *servers))
        assert found.endswith("; 0 reconnections")
