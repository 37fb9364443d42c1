"""A job that cannot start: every process ends with an error that says what to mend."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.faults_jobs import first_ended, outputs, thread_errors, training
from tests.support import warm
from tests.support.jobs import Job, Member, script_named
from tests.support.ports import free_addresses

pytestmark = pytest.mark.processes
END_S = 40.0


@contextlib.contextmanager
def started(
    kind: str, index: int, cluster: dict[str, list[str]], *, start_s: float = 3.0
) -> Iterator[Member]:
    """One process of `cluster`, and nobody else."""
    config = json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})
    environ = {
        **os.environ,
        "TF_CONFIG": config,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    with tempfile.NamedTemporaryFile() as output:
        if kind == "ps":
            process = warm.start_server(environ, output)
        else:
            script, args = script_named("bad_start.py"), [str(start_s)]
            process = warm.start(script, args, environ, output, rank=index)
        try:
            yield Member(kind, index, cluster[kind][index], process, Path(output.name))
        finally:
            process.kill()
            process.wait(timeout=END_S)


def ended(member: Member) -> tuple[int, str]:
    """Its exit code and what it printed."""
    code, output = member.process.wait(timeout=END_S), member.output()
    assert "Exception in thread" not in output and "Exception ignored" not in output
    return code, output


def test_a_member_that_never_comes_is_named_with_its_address() -> None:
    """Rank 0 ends with StartTimeout, and the server that waited with it ends as well."""
    workers, servers = free_addresses(2), free_addresses(1)
    cluster = {"worker": workers, "ps": servers}
    with started("ps", 0, cluster) as server, started("worker", 0, cluster) as worker:
        code, output = ended(worker)
        assert code == 1
        missing = f"2 of 3 members arrived; waiting for worker rank 1 ({workers[1]})"
        assert f"StartTimeout: {missing}" in output, output
        code, output = ended(server)
        assert code == 1 and missing in output and "Traceback" not in output


def test_a_coordinator_that_never_comes_is_named_with_its_address() -> None:
    """A worker that finds nobody at rank 0's address says where it looked; so does a server."""
    workers = free_addresses(2)
    with started("worker", 1, {"worker": workers}) as worker:
        code, output = ended(worker)
        assert code == 1
        at = re.escape(workers[0])
        pattern = rf"StartTimeout: the coordinator \(worker rank 0 at {at}\) cannot be reached"
        assert re.search(pattern, output), output


def test_a_port_in_use_is_a_config_error() -> None:
    """A worker whose port belongs to another program says so at once, with the address."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with started("worker", 0, {"worker": [taken, *free_addresses(1)]}) as worker:
            code, output = ended(worker)
    assert code == 1
    assert f"ConfigError: cannot listen on {taken}: the port is in use" in output, output


def test_two_servers_cannot_share_an_address() -> None:
    """The second of two servers with one task ends with one line instead of splitting traffic."""
    cluster = {"worker": free_addresses(2), "ps": free_addresses(1)}
    with started("ps", 0, cluster) as first, started("ps", 0, cluster) as second:
        code, output = ended(first_ended([first, second], timeout_s=END_S))
        assert code == 2
        assert f"error: cannot listen on {cluster['ps'][0]}: the port is in use" in output, output


def test_malformed_cluster_text_is_one_line() -> None:
    """A server with a TF_CONFIG that is no JSON ends with the mistake and an example."""
    done = subprocess.run(
        [sys.executable, "-m", "poseidon_tf", "server"],
        env={**os.environ, "TF_CONFIG": "{'cluster': 1}"},
        capture_output=True,
        text=True,
        timeout=END_S,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: TF_CONFIG must be JSON, got \"{'cluster': 1}\"")
    assert "TF_CONFIG looks like" in done.stderr and "Traceback" not in done.stderr


def test_a_rank_that_is_taken_is_refused_and_the_job_goes_on() -> None:
    """A second process with rank 1, at its address or at another, ends; the first one trains.

    At another address it could be there for the next run of the job: it waits until its deadline.
    """

    def intrude(job: Job) -> None:
        same, other = job.cluster, {**job.cluster, "worker": list(job.cluster["worker"])}
        (other["worker"][1],) = free_addresses(1)
        with started("worker", 1, same) as first, started("worker", 1, other) as second:
            code, output = ended(first)
            assert code == 1
            assert f"cannot listen on {same['worker'][1]}: the port is in use" in output, output
            code, output = ended(second)
            assert code == 1
            assert "StartTimeout: " in output, output
            assert f"worker rank 1 ({other['worker'][1]}) is not of the run" in output, output
            assert f"that one has that rank already, at {same['worker'][1]}" in output, output

    with training("finish", meanwhile=intrude) as job:
        assert not any(job.wait()), outputs(job)
        assert not thread_errors(job), outputs(job)
