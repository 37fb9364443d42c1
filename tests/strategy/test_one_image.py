"""One script for all roles: the same state everywhere, lone reads, a clean end."""

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes


def test_every_role_runs_the_same_script_and_ends_with_code_0() -> None:
    """Servers serve; workers agree on weights, moving statistics and history; nothing is left."""
    with Job("one_image.py", num_workers=2, num_servers=2, servers_run_script=True) as job:
        first, second = job.results()
        assert not any(server.results() for server in job.servers), "a server went on to train"
    assert first["digest"] == second["digest"]
    assert first["history"] == second["history"]
    assert first["has_moved"] and first["frozen"]
    assert first["threads"] == second["threads"] == []


def test_workers_whose_arithmetic_differs_use_the_parameter_server() -> None:
    """Without oneDNN on one of them products would differ in their last bits: none is rebuilt."""
    other = {1: {"TF_ENABLE_ONEDNN_OPTS": "0"}}
    with Job("one_image.py", num_servers=1, rank_environ=other) as job:
        first, second = job.results()
    assert first["schemes"] == second["schemes"]
    (kernel,) = [entry for entry in first["schemes"] if entry[0].endswith("fc/kernel")]
    assert (
        kernel[1] == "ps" and "TF_ENABLE_ONEDNN_OPTS is unset on rank 0, 0 on rank 1" in kernel[2]
    )
