"""The wire carries what the plan said."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from poseidon_tf.planner import Plan, Scheme
from tests.support.jobs import Job

pytestmark = pytest.mark.processes
STEPS = 20
Found = dict[str, Any]


def moved(found: Found, group: str, count: str) -> int:
    """What `count` of `group` grew by from the end of step 1 to the end of step 21."""
    return int(found["step_21"][group][count] - found["step_1"][group][count])


def payload(found: Found, group: str) -> int:
    return moved(found, group, "sent_bytes") + moved(found, group, "received_bytes")


def planned(plan: Plan, scheme: Scheme) -> int:
    return STEPS * sum(v.worker_bytes for v in plan.variables if v.scheme is scheme)


def carries_what_was_planned(found: Found, plan: Plan) -> bool:
    """Whether the tensor payload of 20 steps is the plan's, to the byte."""
    return payload(found, "ps") == planned(plan, Scheme.PS) and payload(found, "sfb") == planned(
        plan, Scheme.SFB
    )


@pytest.mark.parametrize(
    "scheme, dtype, num_servers",
    [
        ("ps", "float32", 2),
        ("ps", "bfloat16", 0),
        ("sfb", "float32", 0),
        pytest.param("ps", "float32", 0, marks=pytest.mark.thorough),
        pytest.param("sfb", "float32", 2, marks=pytest.mark.thorough),
        pytest.param("sfb", "float16", 2, marks=pytest.mark.thorough),
    ],
)
def test_payload_is_the_plans_and_framing_is_small(
    scheme: str, dtype: str, num_servers: int
) -> None:
    """20 steps of 5 M parameters: payload to the byte, framing within 2 % of it.

    In 16 bits that is half of what it is in 32.
    """
    with Job("wire.py", scheme, dtype, num_workers=2, num_servers=num_servers) as job:
        for rank, found in enumerate(job.results()):
            plan = Plan.from_json(found["plan"])
            assert {variable.sent_dtype for variable in plan.variables} == {dtype}
            if scheme == "ps":
                width = 4 if dtype == "float32" else 2
                assert payload(found, "ps") == STEPS * 2 * found["parameters"] * width
            assert found["parameters"] > 5_000_000
            assert found["step_21"]["steps"] - found["step_1"]["steps"] == STEPS
            assert found["step_21"]["all_reduce"] == found["step_1"]["all_reduce"]
            assert carries_what_was_planned(found, plan)
            shortened = dataclasses.replace(plan, variables=plan.variables[:-1])
            assert not carries_what_was_planned(found, shortened), "the check cannot fail"

            loads = plan.server_loads()
            # What the own server sums goes through memory; the connection to it carries headers.
            own_share = loads[rank] / sum(loads) if num_servers == 0 else 0.0
            leaving = payload(found, "ps") * (1 - own_share)
            assert leaving < payload(found, "servers") <= 1.02 * leaving
            assert (payload(found, "own_server") > 0) == (num_servers == 0)
            assert payload(found, "own_server") <= 0.02 * payload(found, "ps")
            among_workers = payload(found, "workers")
            assert payload(found, "sfb") <= among_workers <= 1.02 * payload(found, "sfb")
            assert (among_workers > 0) == (scheme == "sfb")
