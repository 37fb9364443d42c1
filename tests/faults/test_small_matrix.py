"""A few cells of the fault matrix, which `make test-faults` runs whole."""

import pytest

from tests.faults.fault_matrix import Case, run_case, undisturbed_digest

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    "case",
    [
        Case("worker 0", "SIGKILL", "end of data"),
        Case("worker 1", "SIGSTOP", "mid pull"),
        Case("server", "SIGSTOP", "before the first step"),
    ],
    ids=str,
)
def test_a_fault_ends_the_job_for_all(case: Case) -> None:
    """Every survivor raises in time, names who it was, and ends."""
    assert run_case(case, undisturbed="").to_error_s


def test_a_slow_worker_changes_no_bit() -> None:
    """A pause within the deadlines, in the middle of a push, is only a pause."""
    case = Case("worker 1", "slow", "mid push")
    assert run_case(case, undisturbed=undisturbed_digest(num_servers=1)).is_equal
