"""A gradient leaves while the layers below are still being differentiated: shown without timing."""

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    "mode",
    [
        "fit",
        pytest.param("fit mixed", marks=pytest.mark.thorough),
        "loop",
        pytest.param("tape", marks=pytest.mark.thorough),
        "tape eager",
    ],
)
def test_the_top_gradient_reaches_the_server_before_the_bottom_is_differentiated(mode: str) -> None:
    """The bottom's backward pass waits for the server, so the job ends only if pushes overlap."""
    with Job("overlap.py", *mode.split(), num_servers=1, start_servers=False) as job:
        assert [found["steps"] for found in job.results()] == [3, 3]


@pytest.mark.parametrize(
    "mode, harm", [("fit", "chained"), ("loop", "delayed"), ("tape eager", "delayed")]
)
def test_the_proof_fails_when_pushes_are_chained_or_delayed(mode: str, harm: str) -> None:
    """In program order, or after the last gradient, the top's waits for the bottom's: no end."""
    environ = {"PATIENCE_S": "3"}
    arguments = ("overlap.py", *mode.split(), harm)
    with Job(*arguments, num_servers=1, start_servers=False, environ=environ) as job:
        assert all(job.wait())
        assert "the top layer's gradient has not reached the server" in job.workers[0].output()
