"""plan_by="time" in a job: measured, planned alike on all workers, and trained by."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from poseidon_tf.launcher.report.steps import read
from poseidon_tf.planner import Plan, Scheme, make_plan
from poseidon_tf.trace import runs
from tests.strategy.test_fixed_plan import CLUSTER, NET
from tests.support.jobs import Job

pytestmark = pytest.mark.processes


class Found(NamedTuple):
    """By rank what the script has told, rank 0's output, and where its timelines are."""

    workers: list[dict[str, Any]]
    output: str
    timelines: Path


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    timelines = tmp_path_factory.mktemp("timelines")
    with Job("by_time.py", str(timelines)) as job:
        return Found(job.results(), job.workers[0].output(), timelines)


def schemes(text: str) -> list[Scheme]:
    return [variable.scheme for variable in Plan.from_json(text).variables]


def test_what_takes_longest_by_the_rule_travels_otherwise(found: Found) -> None:
    """By bytes "wide" would be rebuilt from factors, on a device that takes 100 s for that."""
    assert [each.scheme for each in make_plan(NET, CLUSTER).variables][:2] == [Scheme.SFB] * 2
    first = found.workers[0]["plan"]
    assert [worker["plan"] for worker in found.workers] == [first, first]
    assert schemes(first) == [Scheme.PS] * 6
    reason = Plan.from_json(first).variables[0].reason
    assert reason.startswith("PS: ") and reason.endswith("by SFB, which has fewer bytes")
    assert "LOG planned by time: " in found.output
    assert "KV pairs of at most 1.0 MiB, small variables together up to 16.0 MiB" in found.output


def test_it_trains_as_a_job_that_was_given_the_plan(found: Found, tmp_path: Path) -> None:
    """The same bytes are sent, and weights have the same bits on all workers of both."""
    path = tmp_path / "plan.json"
    path.write_text(found.workers[0]["plan"])
    with Job("fixed_plan.py", str(path)) as job:
        given = job.results()
    assert given[0]["sent"] == found.workers[0]["sent"]
    assert found.workers[0]["sent"][1] == 0
    assert len({worker["digest"] for worker in [*found.workers, *given]}) == 1


def test_statistics_have_what_all_workers_have_measured(found: Found) -> None:
    first, second = (worker["probe"] for worker in found.workers)
    assert first == second
    for rank, each in enumerate(first):
        assert each["flops_per_s"] == 1e4
        assert each["own_server"] is None
        (server,) = each["servers"]
        assert server[0] > 0 and server[1] > 0
        assert each["workers"][1 - rank][1] > 0
    assert all(worker["probe_took"] < 30 for worker in found.workers)


def test_a_step_that_is_not_traced_is_planned_by_bytes(found: Found) -> None:
    """Nobody knows when its gradients exist; the log says so."""
    assert schemes(found.workers[0]["plans"])[6:] == [Scheme.PS] * 6
    assert "LOG plan_by='time' needs a step that TensorFlow traces" in found.output


def test_shapes_tell_the_rows_where_data_does_not(found: Found) -> None:
    """Of a dataset that a function made for each worker: the net is planned as the first was."""
    assert schemes(found.workers[0]["plans_by_function"])[12:] == [Scheme.PS] * 6
    assert found.output.count("LOG planned by time: ") == 2  # And not for the eager one.


def test_the_probe_is_not_taken_for_a_step(found: Found) -> None:
    """A timeline has the steps of training, from the first on."""
    (run,) = runs(sorted(found.timelines.glob("*.trace.json")))
    seen = read(run.merged())
    assert [step.number for step in seen.steps][:4] == [0, 1, 2, 3]
    units = {
        unit.unit for step in seen.steps for worker in step.workers for unit in worker.exchanges
    }
    assert units and not any("probe" in name for name in units)
