"""Several strategies in one process, one after the other, and what each says of its cluster."""

import socket
from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes


JobAndFound: TypeAlias = tuple[Job, dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def job() -> Iterator[JobAndFound]:
    """The job, ended, with a chief and one worker, and what each found."""
    with socket.create_server(("127.0.0.1", 0)) as test:
        test.settimeout(90.0)
        job = Job("once_more.py", f"127.0.0.1:{test.getsockname()[1]}", num_servers=0)
        first, second = job.cluster["worker"]
        job.cluster = {"chief": [first], "worker": [second]}
        with job:
            job.workers += [job.start("chief", 0)]
            calls: dict[bytes, socket.socket] = {}

            def wait_for(*words: bytes) -> None:
                while not set(words) <= set(calls):
                    call = test.accept()[0]
                    calls[call.recv(16)] = call

            # One after the other: their attempts must not meet.
            wait_for(b"failed ", b"ready ")
            called = calls.pop(b"failed ")
            calls[b"ready "].sendall(b"!")
            wait_for(b"failed ")
            for call in (called, *calls.values()):
                call.close()
            worker, chief = job.results()
            yield job, chief, worker


def test_a_strategy_can_be_constructed_after_one_whose_construction_failed(
    job: JobAndFound,
) -> None:
    """Nothing of the first is left: its port is free, and the others do not wait for it."""
    _, chief, worker = job
    assert chief["failed"].startswith("StartTimeout: ")
    assert worker["failed"] == "KeyboardInterrupt: "
    assert chief["trained"] == worker["trained"]
    assert chief["trained"][0] == 3


def test_a_worker_that_is_interrupted_after_all_have_arrived_leaves_the_job(
    job: JobAndFound,
) -> None:
    """Nobody has a strategy whose `shutdown` could be called; the others hear why it left."""
    ended, chief, worker = job
    assert chief["interrupted"] == "KeyboardInterrupt: "
    name = f"worker rank 0 ({ended.cluster['chief'][0]})"
    assert f"{name} failed: KeyboardInterrupt" in worker["interrupted"]


def test_a_second_strategy_is_told_that_the_first_is_there(job: JobAndFound) -> None:
    """Not that the port is in use; and what to do."""
    ended, chief, worker = job
    for rank, found in enumerate((chief, worker)):
        address = (ended.cluster["chief"] + ended.cluster["worker"])[rank]
        assert found["second"] == (
            f"ConfigError: this process is worker rank {rank} ({address}) already, by a "
            "PoseidonStrategy that it constructed before; use that one, or call its shutdown() "
            "before another is constructed"
        )


def test_after_shutdown_another_strategy_trains_alike(job: JobAndFound) -> None:
    """In the next run of the job, which leaves nothing behind either."""
    _, chief, worker = job
    assert chief["trained_again"] == worker["trained_again"] == chief["trained"]
    assert chief["threads"] == worker["threads"] == []
    assert chief["hook"] and worker["hook"], "sys.excepthook is not Python's own again"


def test_the_cluster_resolver_is_of_the_cluster_that_was_joined(job: JobAndFound) -> None:
    """As TF_CONFIG had it, also after a script has taken that away."""
    ended, chief, worker = job
    assert chief["resolver"] == ["chief", 0, ended.cluster]
    assert worker["resolver"] == ["worker", 0, ended.cluster]
    assert chief["is_resolver"] and worker["is_resolver"]


@pytest.mark.parametrize(
    "config",
    [
        "",
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "evaluator", "index": "0"}}',
    ],
)
def test_a_lone_resolver_is_that_of_tensorflows_own_strategy(config: str) -> None:
    """MultiWorkerMirroredStrategy's, where it can be constructed; else TF_CONFIG as it is."""
    found = run_alone("lone_resolver.py", environ={"TF_CONFIG": config})
    assert found["ours"] == found["tensorflow's"]
