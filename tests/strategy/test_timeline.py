"""Every process writes what happened when, by one clock."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from poseidon_tf.launcher.cli import main
from poseidon_tf.trace import Recorder, runs
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job of two workers and a server has left."""
    folder = tmp_path_factory.mktemp("timeline")
    with Job("timeline.py", str(folder), rank_environ={1: {"AHEAD_S": "5"}}) as job:
        job.results()
    return folder


def test_the_report_shows_a_step_and_the_plan(folder: Path, tmp_path: Path) -> None:
    """One file that asks for nothing else."""
    path = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["timeline", str(folder), "--html", str(path)])
    assert done.exit_code == 0, done.output
    assert done.output == f"3 traces in {path}; open it in a browser\n"
    text = path.read_text()
    assert not re.search(r"(?:src|href)=|url\(|@import|<script", text)
    assert re.search(r"<h2>Step [012], of median length: [\d.e+]+ ms</h2>", text)
    for rank in (0, 1):
        assert f"worker rank {rank}: backward, " in text
        assert re.search(rf"<li>worker rank {rank} waited [\d.e+]+ ms, at last for ", text)
        assert f"<tr><td>worker {rank}</td><td>3</td>" in text
    ((sums, came_in, went_out),) = re.findall(
        r"<tr><td>server 0</td><td>(\d+)</td><td>[\d.e+]+ ms</td><td>(.*?)</td><td>(.*?)</td>", text
    )
    assert int(sums) >= 3 and came_in == went_out != "0 B"
    assert "sequential/big/kernel (sfb): " in text
    assert "0/sequential/top/kernel" in text and " (ps): " in text
    assert text.count('class="notch"') >= 2, "the server's sums are not in it"
    assert "as planned: " in text and "P1 = 2 workers" in text


def test_after_a_restart_the_report_is_of_the_last_run(folder: Path, tmp_path: Path) -> None:
    """And has a list of those before, which can be asked for. All processes of a job know its
    number."""
    (run,) = runs(folder.glob("*.trace.json"))
    assert run.number > 1e18, "it is the time of its beginning, in nanoseconds"
    earlier = Recorder("worker 2", directory=tmp_path)
    earlier.about["run"] = run.number - 60 * 10**9
    earlier.event("sent", "a/kernel", 0)
    assert earlier.dump("worker <rank> 0 is gone") is not None
    for path in folder.glob("*.trace.json"):
        shutil.copy(path, tmp_path)
    report = tmp_path / "report.html"

    def shown(*options: str) -> str:
        done = CliRunner().invoke(
            main, ["timeline", str(tmp_path), "--html", str(report), *options]
        )
        assert done.exit_code == 0 and "of 2, counted back from the last" in done.output
        return report.read_text()

    last = shown()
    assert "worker rank 1: backward, " in last and "<td>1 (this report)</td>" in last
    assert "<td>worker 2</td><td>worker &lt;rank&gt; 0 is gone</td>" in last
    assert "worker rank 2" not in last
    before = shown("--run", "2")
    assert "<td>2 (this report)</td>" in before and "worker rank 1: backward" not in before
    done = CliRunner().invoke(main, ["timeline", str(tmp_path), "--run", "3"])
    assert done.exit_code == 2 and "has the traces of 2 run(s)" in done.output


def test_events_are_in_causal_order_although_one_clock_is_ahead(folder: Path) -> None:
    """Ready, sent, released, received, applied: in this order over processes, in every step."""
    names = ("worker-0", "worker-1", "server-0")
    traces = {n: json.loads((folder / f"{n}.trace.json").read_text()) for n in names}
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
    (run,) = runs(sorted(folder.glob("*.trace.json")))
    merged = run.merged()
    stamps = [event["ts"] for event in merged["traceEvents"] if event["name"] == "released"]
    assert max(stamps) - min(stamps) < 5e6, "the shifted clock shows"
