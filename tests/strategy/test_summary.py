"""What the summary of a `fit` says, from figures."""

from poseidon_tf.session.step_times import Medians
from poseidon_tf.strategy.summary import FitSummary

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
