"""A job whose plan is in a file trains by it, against what the planner would have chosen."""

from __future__ import annotations

from typing import Any

import pytest

from poseidon_tf.planner import ClusterSpec, Plan, Scheme, VariableSpec, make_plan
from tests.support.jobs import Job

pytestmark = pytest.mark.processes

CLUSTER = ClusterSpec(num_workers=2, num_servers=1, co_located=False)
ROWS, STEPS = 4, 4


def dense(name: str, num_inputs: int, num_outputs: int) -> list[VariableSpec]:
    kernel = VariableSpec(
        name=f"net/{name}/kernel",
        shape=(num_inputs, num_outputs),
        dtype="float32",
        factors=(num_inputs, num_outputs),
        rows=ROWS,
    )
    bias = VariableSpec(
        name=f"net/{name}/bias", shape=(num_outputs,), dtype="float32", bias_of=kernel.name
    )
    return [kernel, bias]


NET = [*dense("wide", 256, 512), *dense("narrow", 512, 64), *dense("top", 64, 2)]


@pytest.fixture(scope="module")
def given() -> Plan:
    return make_plan(
        NET,
        CLUSTER,
        schemes={"*/wide/*": "ps", "*/top/*": "sfb"},
        wire_dtype={"*/wide/*": "bfloat16"},
    )


@pytest.fixture(scope="module")
def found(given: Plan, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_text(given.to_json())
    with Job("fixed_plan.py", str(path)) as job:
        return job.results()


def test_every_variable_travels_as_the_file_says(given: Plan, found: list[dict[str, Any]]) -> None:
    chosen = [(each.scheme, each.wire_dtype) for each in given.variables]
    by_rule = make_plan(NET, CLUSTER).variables
    assert by_rule[0].scheme is Scheme.SFB and by_rule[4].scheme is Scheme.PS
    for worker in found:
        plan = Plan.from_json(worker["plan"])
        assert [(each.scheme, each.wire_dtype) for each in plan.variables] == chosen
        assert plan.pairs == given.pairs
    assert found[0]["digest"] == found[1]["digest"]


def test_its_bytes_are_on_the_wire(given: Plan, found: list[dict[str, Any]]) -> None:
    """Of one worker: half of what it sends and receives, in each of its steps."""
    planned = {
        scheme: sum(v.worker_bytes for v in given.variables if v.scheme is scheme) // 2 * STEPS
        for scheme in (Scheme.PS, Scheme.SFB)
    }
    for worker in found:
        assert worker["sent"] == [planned[Scheme.PS], planned[Scheme.SFB]]
