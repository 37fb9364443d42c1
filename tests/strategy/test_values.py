"""All workers start from rank 0's values, and refuse to start with different models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

WAYS = ["fit", "loop"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[Any]]]:
    """By way to train: the folder with rank 0's first values, and each worker's findings."""
    found = {}
    for way in WAYS:
        folder = tmp_path_factory.mktemp(way)
        extra = {1: {"EXTRA_MODEL": "1"}}
        with Job("values.py", str(folder), way, rank_environ=extra) as job:
            found[way] = folder, job.results()
    return found


@pytest.mark.parametrize("way", WAYS)
def test_workers_that_drew_other_values_end_with_the_same_bits(trained: Any, way: str) -> None:
    """Weights and the optimizer's variables are equal although no worker was seeded."""
    first, second = trained[way][1]
    assert first["first"] != second["first"], "the workers drew the same values"
    assert first["last"] == second["last"]
    assert first["velocity"] == second["velocity"]


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_that_built_an_extra_model_before_trains_along(trained: Any, way: str) -> None:
    """Its variables have other names, and that changes nothing."""
    first, second = trained[way][1]
    assert first["names"] != second["names"]
    assert first["last"] == second["last"]


@pytest.mark.parametrize("way", WAYS)
def test_training_starts_from_the_values_of_rank_0(trained: Any, way: str) -> None:
    """One process that starts from rank 0's values ends with the job's weights."""
    folder, (first, _) = trained[way]
    alone = run_alone("values.py", str(folder), "alone")
    assert alone["first"] == first["first"]
    for at, expected in enumerate(alone["weights"]):
        np.testing.assert_allclose(first["weights"][at], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("way", "environ", "differences"),
    [
        ("fit", {"WIDTH": "33"}, ["variable 0 is", "(16, 32) on rank 0", "(16, 33) on rank 1"]),
        ("loop", {"WIDTH": "33"}, ["variable 0 is", "(16, 32) on rank 0", "(16, 33) on rank 1"]),
        ("fit", {"LAYERS": "3"}, ["variable 4 is", "(32, 3) on rank 0", "(32, 32) on rank 1"]),
    ],
    ids=["width in fit", "width in a loop", "one more layer"],
)
def test_another_model_on_one_worker_fails_every_worker(
    tmp_path: Path, way: str, environ: dict[str, str], differences: list[str]
) -> None:
    """Each of them ends with an error that names the first difference."""
    with Job("values.py", str(tmp_path), way, rank_environ={1: environ}) as job:
        codes = job.wait()
        outputs = [worker.output() for worker in job.workers]
    assert all(codes[:2]), codes
    for output in outputs:
        for difference in differences:
            assert difference in output
        assert "the workers have different variables" in output
        assert "RESULT last" not in output
