"""The migration page's listings, run as they stand there, train the same net."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.findings import assert_close
from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes


def test_the_pages_script_gives_what_it_gave_under_mirrored_strategy() -> None:
    """Two workers against two replicas in one process, from the same seed: history, weights, and
    the checkpoint, which rank 0 alone has written."""
    mirrored: dict[str, Any] = run_alone("migration.py", "MirroredStrategy")
    assert mirrored["replicas"] == 2 and mirrored["steps"] == 8 * 1024 // 64
    with Job("migration.py", "PoseidonStrategy") as job:
        workers = job.results()
    assert [worker["saved"] for worker in workers] == [True, False]
    for worker in workers:
        for what in ("replicas", "steps"):
            assert worker[what] == mirrored[what]
        assert worker["history"] == workers[0]["history"]
        assert worker["weights"] == workers[0]["weights"]
    assert mirrored["history"]["accuracy"][-1] > 0.85
    for what in ("history", "weights", "loaded"):
        assert_close(workers[0][what], mirrored[what], rtol=1e-4, atol=1e-5)
