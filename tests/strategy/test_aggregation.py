"""Variables that replicas assign their own values to, against as many replicas in one process."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

AGGREGATIONS = ["NONE", "SUM", "MEAN", "ONLY_FIRST_REPLICA"]
KINDS = ["eager", "traced"]
NUM_WORKERS = 2


@pytest.fixture(
    scope="module",
    params=[1, pytest.param(2, marks=pytest.mark.thorough)],
    ids=["1-replica", "2-replicas"],
)
def found(request: pytest.FixtureRequest) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What two workers find, and what TensorFlow's strategy does with as many replicas."""
    num_replicas = NUM_WORKERS * request.param
    reference = run_alone("aggregation.py", "mirrored", str(num_replicas))
    with Job("aggregation.py", "poseidon", str(request.param)) as job:
        return job.results(timeout_s=200), reference


def joined(workers: list[dict[str, Any]], case: str) -> tuple[Any, Any]:
    """What all replicas saw in each step and what they hold, in the order of their ids."""
    cases = [worker[case] for worker in workers]
    inside = [
        [list(itertools.chain(*when)) for when in zip(*steps, strict=True)]
        for steps in zip(*(case["inside"] for case in cases), strict=True)
    ]
    return inside, list(itertools.chain(*(case["components"] for case in cases)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aggregation", ["SUM", "MEAN", "ONLY_FIRST_REPLICA"])
def test_assigned_values_are_aggregated_over_all_replicas(
    found: Any, aggregation: str, kind: str
) -> None:
    """Inside the step, so that all replicas hold the same and a read waits for nobody."""
    workers, reference = found
    case = f"AUTO/{aggregation}/{kind}"
    expected = reference[case]
    assert joined(workers, case) == (expected["inside"], expected["components"])
    for worker in workers:
        assert worker[case]["read"] == worker[case]["numpy"] == expected["read"]
        assert worker[case]["asked"] == expected["asked"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_keeps_its_own_value_without_aggregation(found: Any, kind: str) -> None:
    """As under TensorFlow's own; a read outside of replicas gives this worker's first."""
    workers, reference = found
    case = f"AUTO/NONE/{kind}"
    expected = reference[case]
    assert joined(workers, case) == (expected["inside"], expected["components"])
    for worker in workers:
        first = worker[case]["components"][0]
        assert worker[case]["read"] == worker[case]["numpy"] == first


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_on_read_a_worker_sees_what_its_own_replicas_hold(
    found: Any, aggregation: str, kind: str
) -> None:
    """A lone read waits for nobody; what all hold is there for all who ask for it together."""
    workers, reference = found
    case = f"ON_READ/{aggregation}/{kind}"
    expected = reference[case]
    assert joined(workers, case) == (expected["inside"], expected["components"])
    of_own: dict[str, Callable[[Any], Any]] = {
        "SUM": np.sum,
        "MEAN": np.mean,
        "ONLY_FIRST_REPLICA": lambda values: values[0],
    }
    for worker in workers:
        assert worker[case]["asked"] == expected["asked"]
        if aggregation != "NONE":
            own = of_own[aggregation](worker[case]["components"])
            assert worker[case]["read"] == worker[case]["numpy"] == own


@pytest.mark.parametrize(
    ("synchronization", "aggregation"),
    # TensorFlow cannot read what is neither one value nor made into one.
    [
        each
        for each in itertools.product(["AUTO", "ON_READ"], AGGREGATIONS)
        if each != ("ON_READ", "NONE")
    ],
)
def test_an_assignment_outside_of_replicas_sets_all_of_them(
    found: Any, synchronization: str, aggregation: str
) -> None:
    """Each holds its part of a sum that is made on read, and the value itself otherwise."""
    workers, reference = found
    case = f"{synchronization}/{aggregation}/across"
    components, value = reference[case]
    assert list(itertools.chain(*(worker[case][0] for worker in workers))) == components
    part = len(workers) if (synchronization, aggregation) == ("ON_READ", "SUM") else 1
    assert [worker[case][1] for worker in workers] == [value / part] * len(workers)


def test_counters_count_and_a_mean_of_integers_is_refused(found: Any) -> None:
    """Once per step, or once per replica, as TensorFlow's own; and its own sentence."""
    workers, reference = found
    num_replicas = len(reference["AUTO/NONE/eager"]["components"])
    assert reference["counted"][:2] == [2, 2 * sum(range(1, num_replicas + 1))]
    assert "non-floating dtype is not supported" in reference["counted"][2]
    assert all(worker["counted"] == reference["counted"] for worker in workers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["bool", "int8", "float16"])
def test_the_first_replicas_value_of_any_type_is_everybodys(
    found: Any, dtype: str, kind: str
) -> None:
    """Types that servers cannot sum too."""
    workers, reference = found
    case = f"first/{dtype}/{kind}"
    assert len(set(reference[case])) == 1
    assert list(itertools.chain(*(worker[case] for worker in workers))) == reference[case]


def test_a_first_replicas_text_is_refused(found: Any) -> None:
    """Nothing could send it; the sentence says what to do."""
    workers, _ = found
    for worker in workers:
        assert "a string variable with aggregation ONLY_FIRST_REPLICA" in worker["text"]
        assert "assign it outside of strategy.run" in worker["text"]
