"""What a forward pass reads first comes back first: shown by the order of events."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.strategy.test_timeline import times
from tests.support.jobs import Job

pytestmark = pytest.mark.processes


def test_the_bottom_layers_sum_comes_before_the_top_layers_whose_gradient_was_there_earlier(
    tmp_path: Path,
) -> None:
    """Over a link that was held back until both were waiting, in every step."""
    with Job("priorities.py", str(tmp_path), num_servers=1, start_servers=False) as job:
        job.results()
    trace = json.loads((tmp_path / "worker-0.trace.json").read_text())
    top, bottom = "0/sequential/top/kernel", "0/sequential/bottom/kernel"
    for step in (1, 2):
        ready = [min(times(trace, "gradient ready", name)[step]) for name in (top, bottom)]
        assert ready == sorted(ready)
        received = [max(times(trace, "received", name)[step]) for name in (bottom, top)]
        assert received == sorted(received)
        last_sent = [max(times(trace, "sent", name)[step]) for name in (bottom, top)]
        assert last_sent == sorted(last_sent)
