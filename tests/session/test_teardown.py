"""Whatever is raised in a member's process, every part of it that was there is ended.

That no thread is left is looked at after every test.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from poseidon_tf.coordinator.client import CoordinatorClient
from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.coordinator.messages import Role
from poseidon_tf.coordinator.service import CoordinatorService
from poseidon_tf.errors import ConfigError, MemberError, PoseidonError
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.join import Membership, join
from poseidon_tf.launch.server_main import ServerProcess
from poseidon_tf.transport.server import Server
from tests.session.jobs_in_process import DEADLINES, InProcess
from tests.session.session_bench import WAIT_S
from tests.support.ports import free_addresses

pytestmark = pytest.mark.connections


def is_free(address: str) -> bool:
    """Whether another process could listen there now."""
    Server(address, max_streams=1).stop()
    return True


def shared_memories() -> set[int]:
    """The inodes of those that are open in this process."""
    links = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    links = [link for link in links if link.is_symlink()]  # Not the one that listed them.
    return {os.stat(link).st_ino for link in links if "memfd:poseidon_tf" in os.readlink(link)}


def test_a_server_that_cannot_arrive_gives_its_port_back() -> None:
    """Its address was good; that of the coordinator is not."""
    (address,) = free_addresses(1)
    config = ClusterConfig(workers=("nonsense",), servers=(address,), role="server")
    with pytest.raises(ConfigError, match="nonsense"):
        ServerProcess(config, index=0, address=address).serve()
    assert is_free(address)


def test_a_worker_that_cannot_arrive_keeps_no_port_and_no_memory() -> None:
    """The same, with the memory that it would have shared with its own server."""
    (address,) = free_addresses(1)
    before, config = shared_memories(), ClusterConfig(workers=("nonsense", address), rank=1)
    with pytest.raises(ConfigError, match="nonsense"):
        join(config, arithmetic={}, deadlines=DEADLINES)
    assert shared_memories() <= before  # Other tests' may be let go meanwhile.
    assert is_free(address)


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "too many files"), KeyboardInterrupt()])
def test_a_rank_0_that_gets_no_memory_or_is_interrupted_leaves_nothing(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its coordinator nor its port; the error is the system's, or the user's."""

    def refuse(name: str) -> None:
        raise error

    addresses = tuple(free_addresses(2))
    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(type(error)):
        join(ClusterConfig(workers=addresses, rank=0), arithmetic={}, deadlines=DEADLINES)
    assert is_free(addresses[0])


def test_who_still_connects_hears_that_the_job_has_failed() -> None:
    """Rank 1 fails when all have arrived: rank 0 does not wait for it until `start_s`."""
    first, other, server = free_addresses(3)

    def attend(role: Role, address: str, then: Callable[[CoordinatorClient], object]) -> None:
        client = CoordinatorClient(
            first,
            role=role,
            rank=1 if role == "worker" else 0,
            own_address=address,
            info={"identity": role},
            num_workers=2,
            num_servers=1,
            job_failure=JobFailure(),
        )
        with contextlib.suppress(PoseidonError):  # It may hear of the failure as it arrives.
            client.join(timeout_s=WAIT_S)
            then(client)
        client.close()

    def give_up(client: CoordinatorClient) -> None:
        client.job_failure.give_up(MemberError("no data"))

    config = ClusterConfig(workers=(first, other), servers=(server,), rank=0)
    with ThreadPoolExecutor(3) as pool:
        joining = pool.submit(
            join, config, arithmetic={}, deadlines=replace(DEADLINES, start_s=3600.0)
        )
        others = [
            pool.submit(attend, "server", server, lambda client: joining.exception(WAIT_S)),
            pool.submit(attend, "worker", other, give_up),
        ]
        with pytest.raises(MemberError, match=r"worker rank 1 \(.*\) failed: no data"):
            joining.result(WAIT_S)
        for each in others:
            each.result(WAIT_S)
    assert is_free(first)


def test_a_goodbye_that_is_interrupted_still_ends_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by Ctrl-C while rank 0 waits for the others to leave."""
    close = CoordinatorService.close

    def interrupted(service: CoordinatorService, *, timeout_s: float) -> None:
        monkeypatch.setattr(CoordinatorService, "close", close)
        raise KeyboardInterrupt

    def work(member: Membership) -> None:
        monkeypatch.setattr(CoordinatorService, "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            member.leave()
        assert is_free(member.config.address)

    job = InProcess(1, 1)
    assert job.run(work) == ([None], [0])
