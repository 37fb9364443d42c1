"""Every process writes what happened when, by one clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from poseidon_tf.trace import merge
from tests.support.jobs import Job

pytestmark = pytest.mark.processes
# Half a round trip on the loopback interface of a busy machine, and the promised millisecond.
SLACK_US = 4_000.0


def times(trace: dict[str, Any], kind: str, variable: str) -> dict[int, list[float]]:
    """Per step, when `kind` happened to what begins with `variable`."""
    found: dict[int, list[float]] = {}
    for event in trace["traceEvents"]:
        if event["name"] == kind and event["args"]["variable"].startswith(variable):
            found.setdefault(event["args"]["step"], []).append(event["ts"])
    return found


def test_events_are_in_causal_order_although_one_clock_is_ahead(tmp_path: Path) -> None:
    """Ready, sent, released, received, applied: in this order over processes, in every step."""
    with Job("timeline.py", str(tmp_path), rank_environ={1: {"AHEAD_S": "5"}}) as job:
        job.results()
    names = ("worker-0", "worker-1", "server-0")
    traces = {n: json.loads((tmp_path / f"{n}.trace.json").read_text()) for n in names}
    released = times(traces["server-0"], "released", "0/sequential/top/kernel")
    assert sorted(released) == [0, 1, 2]
    for worker in ("worker-0", "worker-1"):
        trace = traces[worker]
        for step in range(3):
            top = "0/sequential/top/kernel"
            ready = min(times(trace, "gradient ready", top)[step])
            sent = max(times(trace, "sent", top)[step])
            received = max(times(trace, "received", top)[step])
            applied = max(times(trace, "applied", "sequential/top/kernel")[step])
            assert ready <= sent <= max(released[step]) + SLACK_US
            assert min(released[step]) <= received + SLACK_US
            assert received <= applied
            assert set(times(trace, "sent", "sequential/big/kernel")) == {0, 1, 2}
    merged = merge(sorted(tmp_path.glob("*.trace.json")))
    stamps = [event["ts"] for event in merged["traceEvents"] if event["name"] == "released"]
    assert max(stamps) - min(stamps) < 5e6, "the shifted clock shows"
