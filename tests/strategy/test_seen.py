"""What a job shows of itself when `fit` has ended."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes

STEPS = 12  # Of one fit.
ROWS = 4  # Of one worker's share of a batch.
# float32: the kernel and bias of "top", by the server; what the kernel and bias of "big" are.
TOP_BYTES, BIG_BYTES = 4 * (256 * 8 + 8), 4 * (32 * 256 + 256)


class Seen:
    """Two workers and a server: what each worker found and printed."""

    def __init__(self) -> None:
        with Job("seen.py") as job:
            self.found = job.results()
            self.printed = [worker.output() for worker in job.workers]
            self.addresses = [worker.address for worker in job.workers]


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


def summary(printed: str) -> list[str]:
    """The lines of the summaries."""
    lines = printed.splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith("poseidon_tf: ")]
    return [line for at in starts for line in lines[at : at + 4]]


def test_rank_0_alone_sums_up_a_fit_that_prints(seen: Seen) -> None:
    """The fit with verbose=0 prints nothing, and other ranks never do."""
    assert summary(seen.printed[1]) == []
    first, second, sent, last = summary(seen.printed[0])
    assert re.fullmatch(
        rf"poseidon_tf: {STEPS} steps of [\d.e+]+ ms \(median\): [\d.e+]+ ms without waiting, "
        r"[\d.e+]+ ms waiting for sums",
        first,
    )
    assert re.fullmatch(
        r"  communication: [\d.e+]+ ms of each step, \d+ % of it hidden behind computation", second
    )
    assert sent.startswith("  sent per step and worker: 20.6 KiB (ps 16.1 KiB, sfb 4.5 KiB)")
    assert sent.endswith("; a ring all-reduce would have sent 41.0 KiB")
    assert last.endswith("; 0 reconnections")


def test_the_slowest_worker_is_named(seen: Seen) -> None:
    """Rank 1 takes longer for its own part of each step; rank 0 waits for it."""
    last = summary(seen.printed[0])[-1]
    assert f"slowest: worker rank 1 ({seen.addresses[1]}), " in last
    quick, slow = (found["after"]["step_times"] for found in seen.found)
    assert slow["own_s"] > 0.05 > quick["own_s"]
    assert quick["waiting_s"] > slow["waiting_s"]


def test_the_same_is_there_as_data(seen: Seen) -> None:
    for found in seen.found:
        before: dict[str, Any] = found["before"]
        assert (before["steps"], before["ring_all_reduce_bytes"]) == (0, 0)
        after: dict[str, Any] = found["after"]
        assert after["steps"] == STEPS
        assert after["step_times"]["steps"] == STEPS - 1
        assert after["ps"]["network_bytes"] == 2 * STEPS * TOP_BYTES
        assert after["sfb"]["network_bytes"] == STEPS * 4 * ROWS * (32 + 256)
        assert after["sent"] == after["ps"]["network_bytes"] + after["sfb"]["network_bytes"]
        assert after["ring_all_reduce_bytes"] == STEPS * (TOP_BYTES + BIG_BYTES)
        assert 0.0 <= after["hidden"] <= 1.0
        assert 0.0 < after["waiting_s"] <= after["communicating_s"]
