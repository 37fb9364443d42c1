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
    # The thread that waits for the main one's end has nothing left to do, and stays until then.
    assert first["threads"] == second["threads"] == ["poseidon-leave"]
