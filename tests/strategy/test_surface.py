"""What programs ask of any `tf.distribute.Strategy` gets TensorFlow's own answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

CASES = "identities,reduced,gathered,all_reduced,sparse_reduced,all_gathered,retraced,updated"
# Workers, and replicas of each of them.
LAYOUTS = [
    pytest.param((2, 1), id="2-workers"),
    pytest.param((2, 2), id="2-replicas", marks=pytest.mark.thorough),
    pytest.param((3, 1), id="3-workers", marks=pytest.mark.thorough),
]
Layout = tuple[int, int]


class Mirrored(dict[int, dict[str, Any]]):
    """By number of replicas, what as many of one process find; found when it is asked for."""

    def __missing__(self, count: int) -> dict[str, Any]:
        self[count] = run_alone(
            "surface.py", "mirrored", str(count), f"{CASES},shared,misused", timeout_s=240
        )
        return self[count]


class Workers(dict[Layout, list[dict[str, Any]]]):
    """By layout, what each worker finds; found when it is asked for."""

    def __missing__(self, layout: Layout) -> list[dict[str, Any]]:
        num_workers, count = layout
        with Job("surface.py", "poseidon", str(count), num_workers=num_workers) as job:
            self[layout] = job.results(timeout_s=240)
        return self[layout]


@pytest.fixture(scope="module")
def mirrored() -> Mirrored:
    return Mirrored()


@pytest.fixture(scope="module")
def workers() -> Workers:
    return Workers()


def tensor(shown: Any) -> np.ndarray:
    """The array that a script has shown as dtype, shape and bytes."""
    dtype, shape, data = shown
    array: np.ndarray = np.frombuffer(bytes.fromhex(data), dtype).reshape(shape)
    return array


def share(shown: Any, rank: int, layout: Layout) -> Any:
    """Of what all replicas show in one process, what those of one of the workers would."""
    num_workers, count = layout
    if isinstance(shown, dict):
        return {name: share(each, rank, layout) for name, each in shown.items()}
    is_by_replica = len(shown) == num_workers * count and all(
        isinstance(each, list) and each and isinstance(each[0], str) for each in shown
    )
    if is_by_replica:
        return shown[rank * count : (rank + 1) * count]
    is_tensor = bool(shown) and isinstance(shown[0], str)
    return shown if is_tensor else [share(each, rank, layout) for each in shown]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "case", ["reduced", "gathered", "all_reduced", "sparse_reduced", "all_gathered", "retraced"]
)
def test_values_have_the_bits_that_replicas_of_one_process_find(
    workers: Any, mirrored: Any, case: str, layout: Layout
) -> None:
    """Eagerly and in functions; outside of replicas, in them, nested, sparse and as gradients."""
    for rank, found in enumerate(workers[layout]):
        expected = share(mirrored[math.prod(layout)][case], rank, layout)
        assert_same(found[case], expected, case)


def assert_same(found: Any, expected: Any, where: str) -> None:
    """Equal, naming the place where it is not."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name, value in expected.items():
            assert_same(found[name], value, f"{where}, {name}")
    else:
        assert found == expected, where


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gather_keeps_every_bit_of_every_dtype(workers: Any, layout: Layout) -> None:
    """Minus zero stays, NaN and infinity too, and the ends of the integers' ranges."""
    for found in workers[layout]:
        assert len(found["dtypes"]) == 15
        for dtype, (expected, ways) in found["dtypes"].items():
            assert ways == {"eager": [expected], "function": [expected]}, dtype


@pytest.mark.parametrize("layout", LAYOUTS)
def test_replicas_know_who_they_are(workers: Any, layout: Layout) -> None:
    """Ids go on from worker to worker, and local results are this worker's."""
    num_workers, count = layout
    for rank, found in enumerate(workers[layout]):
        own = list(range(rank * count, (rank + 1) * count))
        assert found["identities"] == {
            "num_replicas": num_workers * count,
            "in_run": num_workers * count,
            "values": own,
            "ids": [own, own],
            "a plain value": [7],
            "outside of replicas": [True, True],
        }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_variables_are_assigned_what_replicas_of_one_process_assign(
    workers: Any, mirrored: Any, layout: Layout
) -> None:
    """By sum and by mean, in replicas; and outside of them."""
    for rank, found in enumerate(workers[layout]):
        expected = share(mirrored[math.prod(layout)]["updated"], rank, layout)
        assert_same(found["updated"], expected, "updated")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_branches_and_loops_may_sum_and_assign(workers: Any, layout: Layout) -> None:
    """Two branches that nothing orders do not take each other's sums, on any replica."""
    num_replicas = math.prod(layout)
    total = np.array([[4 * i, 4 * i + 1] for i in range(num_replicas)], "f").sum(axis=0)
    for found in workers[layout]:
        for way in ("eager", "function"):
            first, second, assigned, looped = found["branches"][way]
            for shown, expected in (
                (first, total),
                (second, 2 * total),
                (assigned, total),
                (looped, total / num_replicas),
            ):
                assert len(shown) == layout[1]
                for each in shown:
                    np.testing.assert_array_equal(tensor(each), expected)


def test_a_tensor_that_all_replicas_of_a_lone_worker_share_counts_once(mirrored: Any) -> None:
    """As MirroredStrategy has it; in eager mode and in a function, as a gradient too."""
    assert run_alone("surface.py", "poseidon", "2", "shared")["shared"] == mirrored[2]["shared"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_among_workers_a_tensor_that_replicas_share_counts_for_each(
    workers: Any, layout: Layout
) -> None:
    """In eager mode as in a function, where each replica contributes by itself."""
    num_replicas = math.prod(layout)
    shared = np.arange(3, 7, dtype="float32").reshape(2, 2)
    rows = np.zeros((6, 2), "float32")
    rows[[4, 1]] = num_replicas * shared
    for found in workers[layout]:
        for way in ("eager", "function"):
            for shown, expected in zip(
                found["shared"]["reduced"][way], (num_replicas * shared, shared, rows), strict=True
            ):
                for each in shown:
                    np.testing.assert_array_equal(tensor(each), expected)
            for each in found["shared"][way]:
                np.testing.assert_array_equal(tensor(each), -num_replicas * shared)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_misuse_gets_tensorflows_own_errors(workers: Any, mirrored: Any, layout: Layout) -> None:
    """Of the same type and with the same words; reductions work afterwards."""
    reference = mirrored[math.prod(layout)]["misused"]
    for rank, found in enumerate(workers[layout]):
        errors = dict(found["misused"])
        assert errors.pop("afterwards") == share(reference["afterwards"], rank, layout)
        assert errors.keys() == reference.keys() - {"afterwards"}
        for name, (kind, words) in errors.items():
            assert kind not in ("nothing", "ConfigError"), name
            # What follows names the strategy or a place in the code.
            assert [kind, words.partition(":")[0]] == [
                reference[name][0],
                reference[name][1].partition(":")[0],
            ]


@pytest.mark.parametrize(
    "name, kind, words",
    [
        ("quantized", "ConfigError", "gather of a qint8 tensor: only numbers, bool and text"),
        ("scalar", "ValueError", "gather along axis 0 of a tensor of shape ()"),
        ("axis", "ValueError", "gather along axis 1 of a tensor of shape (1,)"),
        ("int8", "ConfigError", "all_reduce of a int8 tensor: only bfloat16, float16"),
        ("session", "ConfigError", "not in a tf.Graph that a session runs; make a tf.function"),
        ("uneven", "InvalidArgumentError", "tensors differ in more than their length along"),
        ("uneven in a function", "InvalidArgumentError", "differ in more than their length"),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_cannot_be_done_is_refused_on_every_worker(
    workers: Any, layout: Layout, name: str, kind: str, words: str
) -> None:
    """One sentence each, and the next gather works."""
    num_replicas = math.prod(layout)
    for found in workers[layout]:
        assert found["refused"][name][0] == kind
        assert words in found["refused"][name][1]
        everything = [["int8", [num_replicas], "01" * num_replicas]]
        assert found["refused"]["afterwards"] == {"eager": everything, "function": everything}
