"""Processes that know their rank, their number and rank 0's address find each other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest

from poseidon_tf.transport.address import Address
from tests.support.certificates import Authority
from tests.support.jobs import Job, run_alone
from tests.support.ports import free_addresses

pytestmark = pytest.mark.processes
Found: TypeAlias = tuple[str, range, list[dict[str, Any]]]


def job(*args: str, **environ: Any) -> Job:
    """Two workers; a value of `environ` that is a list has one for each."""
    by_rank = [
        {name: each[rank] if isinstance(each, list) else each for name, each in environ.items()}
        for rank in range(2)
    ]
    return Job(
        "joined.py",
        *args,
        num_servers=0,
        rank_environ={rank: {"TF_CONFIG": "", **each} for rank, each in enumerate(by_rank)},
    )


def slurm(nodes: str) -> dict[str, Any]:
    return {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "3",
        "SLURM_PROCID": ["0", "1"],
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NODELIST": nodes,
    }


@pytest.fixture(scope="module")
def by_our_variables(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Found]:
    """Rank 0's address, the ports that they may use, and what the workers have found.

    Over TLS, with certificates for the host that a worker has found out by itself.
    """
    authority = Authority(tmp_path_factory.mktemp("tls"))
    files = authority.member("::1")
    (first,) = free_addresses(1, "::1")
    port = Address.parse(first).port
    ports = range(port, min(port + 40, 65536))
    started = job(
        POSEIDON_RANK=["0", "1"],
        POSEIDON_WORLD_SIZE="2",
        POSEIDON_COORDINATOR=first,
        PORTS=json.dumps([ports[0], ports[-1]]),
        POSEIDON_TLS_CA=authority.ca,
        POSEIDON_TLS_CERTIFICATE=files["certificate"],
        POSEIDON_TLS_KEY=files["key"],
    )
    with started:
        yield first, ports, started.results()


def test_two_processes_join_by_our_variables(by_our_variables: Found) -> None:
    first, _, found = by_our_variables
    assert [each["rank"] for each in found] == [0, 1]
    assert [each["replicas"] for each in found] == [2, 2]
    assert found[0]["digest"] == found[1]["digest"]
    line = f"2 workers from POSEIDON_RANK and POSEIDON_WORLD_SIZE, coordinator {first}"
    assert [each["found"] for each in found] == [[line], []]


def test_a_worker_chooses_one_of_the_ports_and_leaves_rank_0_its_own(
    by_our_variables: Found,
) -> None:
    first, ports, found = by_our_variables
    (workers,) = {tuple(each["cluster"]["worker"]) for each in found}
    assert workers[0] == first and [each["task"] for each in found] == [
        ["worker", r] for r in (0, 1)
    ]
    second = Address.parse(workers[1])
    assert second.host == "::1" and second.port in ports[1:]


def test_an_exception_in_a_with_statement_is_told_to_the_others(by_our_variables: Found) -> None:
    """And the job, which ended in order before, has begun anew under the same address."""
    _, _, (chief, worker) = by_our_variables
    assert worker["error"] == "ArithmeticError: no more"
    assert "worker rank 1 (" in chief["error"] and "ArithmeticError: no more" in chief["error"]
    assert "joined.py" in chief["error"]


def test_the_tasks_of_a_step_of_slurm_join() -> None:
    with job("once", **slurm("localhost")) as started:
        chief, worker = started.results()
    assert chief["digest"] == worker["digest"]
    (line,) = chief["found"]
    assert line.startswith(f"2 workers from Slurm step {os.getpid()}.3, coordinator localhost:2")
    assert all(address.startswith("localhost:") for address in worker["cluster"]["worker"])


def test_a_cluster_resolver_describes_the_cluster() -> None:
    """Whatever the scheduler says of its tasks."""
    addresses = free_addresses(2)
    resolver = [json.dumps([addresses, rank]) for rank in (0, 1)]
    started = job("resolver", RESOLVER=resolver, SLURM_PROCID="0", SLURM_STEP_ID="0")
    with started:
        chief, worker = started.results()
    assert chief["digest"] == worker["digest"]
    assert worker["cluster"] == {"worker": addresses} and worker["task"] == ["worker", 1]
    assert chief["found"] == [f"2 workers from SimpleClusterResolver, coordinator {addresses[0]}"]


def test_who_is_to_train_alone_reads_nothing() -> None:
    environ = {name: each if isinstance(each, str) else "1" for name, each in slurm("a").items()}
    found = run_alone("joined.py", "alone", environ={**environ, "PMIX_RANK": "1"})
    assert (found["rank"], found["replicas"], found["found"]) == (0, 1, [])
    assert (found["cluster"], found["task"]) == ({}, [None, None])


def test_mpi_on_several_hosts_ends_at_once_and_says_what_to_set() -> None:
    """Within seconds, and not after the deadline for everyone to arrive."""
    started = job(PMI_RANK=["0", "1"], PMI_SIZE="2", MPI_LOCALNRANKS="1")
    with started:
        codes = started.wait()
        found = [worker.results() for worker in started.workers]
        outputs = [worker.output() for worker in started.workers]
    assert codes == [1, 1]
    for rank, output in enumerate(outputs):
        assert f"says worker rank {rank} of 2, but not where rank 0 is" in output
        assert "POSEIDON_COORDINATOR" in output
    assert all(each.keys() == {"refused_s"} and each["refused_s"] < 10.0 for each in found)
