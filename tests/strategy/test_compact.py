"""Gradients that travel as factors of any layer and type, or as sparse rows, equal one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes
Found = dict[str, Any]
WIDE = (
    "sequence",
    "einsum",
    "attention",
    "rows sgd",
    "rows momentum",
    "rows adam",
    "rows adagrad",
    "rows clipnorm",
    "few words sgd",
    "few words momentum",
    "few words lion",
    "few words adam",
    "few words clipnorm",
    "eager words",
    "float64",
)
NARROW = (
    "mixed_float16",
    "mixed_bfloat16",
    "mixed_float16 words",
    "mixed_float16 attention",
    "float16",
    "bfloat16",
)
CASES = (*WIDE, *NARROW)
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


@pytest.fixture(
    scope="module",
    # Workers, replicas of each, rows of all together: 4 on every worker.
    params=[
        (2, 1, 8),
        pytest.param((2, 2, 8), marks=pytest.mark.thorough),
        pytest.param((3, 1, 12), marks=pytest.mark.thorough),
    ],
    ids=["2-workers", "2-replicas", "3-workers"],
)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Found]]:
    """The folder with all weights, and what each worker found."""
    num_workers, num_replicas, batch = request.param
    folder = tmp_path_factory.mktemp("compact")
    arguments = (str(batch), str(num_replicas))
    run_alone("compact.py", str(folder), "plain", str(batch), "1")
    with Job("compact.py", str(folder), "compact", *arguments, num_workers=num_workers) as job:
        return folder, job.results(timeout_s=280)


def weights(folder: Path, who: str, case: str, kind: str = "weights") -> list[np.ndarray]:
    with np.load(folder / f"{who}.npz") as file:
        return [file[name] for name in file.files if name.startswith(f"{case}/{kind}/")]


def test_all_workers_have_the_same_bits(trained: tuple[Path, list[Found]]) -> None:
    """All weights of all nets, whatever their type, and after a batch that one had no part of."""
    first = trained[1][0]
    assert set(first["cases"]) == set(CASES)
    for found in trained[1]:
        assert found["digest"] == first["digest"]
        assert found["cases"] == first["cases"]


def test_a_worker_without_rows_changes_nothing_but_its_share(
    trained: tuple[Path, list[Found]],
) -> None:
    """Factors and sparse rows of no rows: the step ends, with numbers, on all workers."""
    assert all(found["finite"] for found in trained[1])


@pytest.mark.parametrize("case", WIDE)
def test_weights_equal_one_process(trained: tuple[Path, list[Found]], case: str) -> None:
    """On the joined batch, whatever the optimizer does with a sparse gradient."""
    folder, _ = trained
    mine, alone = weights(folder, "compact-0", case), weights(folder, "plain-0", case)
    assert mine and len(mine) == len(alone)
    tolerance = 1e-12 if case == "float64" else 1e-5  # Sums in another order.
    before = weights(folder, "compact-0", case, "initial")
    assert not all(np.array_equal(a, b) for a, b in zip(mine, before, strict=True))
    for each, expected in zip(mine, alone, strict=True):
        np.testing.assert_allclose(each, expected, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("case", NARROW)
def test_narrow_weights_are_as_near_as_their_type_allows(
    trained: tuple[Path, list[Found]], case: str
) -> None:
    """One process rounds each product to the type; the rebuilt one is rounded at most once.

    So an update may be off by a few units in the type's last place, and where the variables
    themselves are of the type, every weight by one such unit a step.
    """
    folder, _ = trained
    epsilon = EPSILON["bfloat16" if "bfloat16" in case else "float16"]
    before = weights(folder, "plain-0", case, "initial")
    mine, alone = weights(folder, "compact-0", case), weights(folder, "plain-0", case)
    # Of the whole net: a key's bias has no gradient but for rounding.
    update = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(alone, before, strict=True)))
    assert update > 0
    for each, expected in zip(mine, alone, strict=True):
        allowed = 4 * epsilon * update
        if not case.startswith("mixed"):
            allowed += 3 * epsilon * np.linalg.norm(expected)
        assert np.linalg.norm(each - expected) <= allowed


SCHEMES = {
    "sequence": {"sequence/compact/*": "sfb"},
    "einsum": {"einsum/compact_*": "sfb"},
    "attention": {"compact_*": "sfb", "layer_norm*": "ps"},
    "rows": {"compact/embeddings": "rows", "hidden/*": "sfb"},
    "few words sgd": {"compact/embeddings": "ps"},
    "few words momentum": {"compact/embeddings": "ps"},
    "few words lion": {"compact/embeddings": "ps"},
    "few words adam": {"compact/embeddings": "rows"},
    "few words clipnorm": {"compact/embeddings": "rows"},
    "eager words": {"compact/embeddings": "rows", "hidden/*": "ps"},
    "mixed_float16 words": {"compact/embeddings": "rows", "hidden/*": "sfb"},
    "mixed_float16 attention": {"compact_*": "sfb"},
}
DENSE = {"dense/compact/*": "sfb", "dense/norm/*": "ps"}


@pytest.mark.parametrize("case", CASES)
def test_every_variable_takes_the_scheme_that_pays(
    trained: tuple[Path, list[Found]], case: str
) -> None:
    """By bytes alone; only an optimizer that must see rows gets them where they cost more."""
    found = trained[1][0]["cases"][case]
    family = "rows" if case.startswith("rows") else case
    for pattern, scheme in SCHEMES.get(family, DENSE).items():
        prefix = pattern.rstrip("*")
        taken = {name: got for name, got in found["schemes"].items() if name.startswith(prefix)}
        assert taken and set(taken.values()) == {scheme}, found["reasons"]


@pytest.mark.parametrize("case", CASES)
def test_the_wire_carries_what_the_plan_said(trained: tuple[Path, list[Found]], case: str) -> None:
    """Payload of three steps to the byte, by scheme; factors and rows in the compute type."""
    found = trained[1][0]["cases"][case]
    assert found["moved"] == found["planned"]
    narrow = {
        name for name, dtype in found["dtypes"].items() if dtype is not None and "kernel" in name
    }
    assert bool(narrow) == case.startswith("mixed")
    if case == "mixed_float16 words":
        assert found["dtypes"]["compact/embeddings"] == "float16"


def test_factors_of_mixed_precision_are_half_the_bytes(
    trained: tuple[Path, list[Found]],
) -> None:
    """The same net and batch in float32 factors would move twice as much."""
    cases = trained[1][0]["cases"]
    assert cases["mixed_float16"]["moved"]["sfb"] == cases["mixed_bfloat16"]["moved"]["sfb"]
    assert 4 * cases["mixed_float16"]["moved"]["sfb"] == cases["float64"]["moved"]["sfb"]
