"""Whoever does not belong to the job is refused at every door, and the job goes on."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest

from poseidon_tf.coordinator.client import CoordinatorClient
from poseidon_tf.coordinator.codec import ATTEND, encode_member_message
from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.coordinator.messages import Join, MemberFailure, MemberMessage
from poseidon_tf.coordinator.roster import Roster
from poseidon_tf.coordinator.service import CoordinatorService
from poseidon_tf.errors import ConfigError, StartTimeout
from poseidon_tf.kv.client import Piece, ServerLink
from poseidon_tf.kv.service import EXCHANGE, INSPECT, REGISTER, KVService
from poseidon_tf.kv.store import KeySpec
from poseidon_tf.sfb.factors import RowSpec, pack
from poseidon_tf.sfb.service import BROADCAST, FactorService
from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.security import Security
from poseidon_tf.transport.server import Server
from poseidon_tf.wire.frame_pb2 import Key, KeyNumbers, KeyTable
from tests.faults.faults_streams import WAIT_S, Heard
from tests.support.certificates import Authority
from tests.support.jobs import Job
from tests.support.ports import free_addresses

pytestmark = pytest.mark.connections

TOKEN = "the job's own"
ROWS = pack(np.ones((2, 3), "f"), np.ones((2, 5), "f"))


def coordinator_on(server: Server, *, num_workers: int, num_servers: int) -> CoordinatorService:
    """A coordinator whose clock stands still: nobody is late."""
    roster = Roster(
        num_workers=num_workers,
        num_servers=num_servers,
        data_seed=0,
        incarnation=0,
        start_timeout_s=WAIT_S,
        started_s=0.0,
    )
    return CoordinatorService(server, roster, clock=lambda: 0.0)


class Everything:
    """All that listens in a job of two workers and a server, here in one process on one port.

    The test is rank 1.
    """

    def __init__(self, security: Security) -> None:
        self.settings = ConnectionSettings(security=security)
        self.server = Server("127.0.0.1:0", max_streams=8, settings=self.settings)
        self.address = self.server.address
        self.coordinator = coordinator_on(self.server, num_workers=2, num_servers=0)
        KVService(self.server, num_workers=1)
        self.complete: queue.Queue[Any] = queue.Queue()
        self.lost: queue.Queue[Any] = queue.Queue()
        self.sums: queue.Queue[Any] = queue.Queue()
        self.factors = FactorService(
            self.server,
            num_workers=2,
            rank=0,
            on_complete=self.complete.put,
            on_lost=lambda rank, error: self.lost.put((rank, error)),
        )
        self.factors.register(0, RowSpec.factors("fc/kernel", M=3, N=5, dtype="float32"))
        self._closing: list[Callable[[], object]] = []

    def __enter__(self) -> Everything:
        self.server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for close in self._closing:
            close()
        self.coordinator.close(timeout_s=0.0)
        self.server.stop(grace_s=0.0)

    def member(self, settings: ConnectionSettings, rank: int) -> CoordinatorClient:
        client = CoordinatorClient(
            self.address,
            role="worker",
            rank=rank,
            own_address="here:1",
            info={},
            num_workers=2,
            num_servers=0,
            settings=settings,
            job_failure=JobFailure(),
        )
        self._closing.append(lambda: client.close(timeout_s=0.1))
        return client

    def channel(self, security: Security) -> Channel:
        channel = Channel(self.address, settings=ConnectionSettings(security=security))
        self._closing.append(channel.close)
        return channel

    def server_of_peer(self) -> Server:
        """Of rank 1, whom nobody calls."""
        server = Server("127.0.0.1:0", max_streams=1)
        self._closing.append(lambda: server.stop(grace_s=0.0))
        return server

    def goes_on(self) -> bool:
        """The members join, a sum and a set of factors are made, and nobody else was heard."""
        assert self.coordinator.failure is None
        link = ServerLink(
            self.address,
            rank=0,
            on_sum=lambda key, step, view: self.sums.put((key, step, bytes(view or b""))),
            on_lost=self.sums.put,
            settings=self.settings,
        )
        self._closing.append(lambda: link.close(timeout_s=0.1))
        assert not link.inspect(timeout_s=WAIT_S).keys
        assert link.register([KeySpec("w", "float32", 1)], timeout_s=WAIT_S) == [0]
        link.push([Piece(0, memoryview(b"\0\0\x80\x3f"))], step=0)
        assert self.sums.get(timeout=WAIT_S) == (0, 0, b"\0\0\x80\x3f")
        assert self.lost.empty() and self.complete.empty()
        peer = FactorService(
            self.server_of_peer(),
            num_workers=2,
            rank=1,
            on_complete=lambda complete: None,
            on_lost=lambda rank, error: None,
        )
        peer.register(0, RowSpec.factors("fc/kernel", M=3, N=5, dtype="float32"))
        peer.connect({0: self.address}, settings=self.settings, timeout_s=WAIT_S)
        self._closing.append(lambda: peer.close(timeout_s=0.1))
        peer.broadcast(0, 0, 2, ROWS)
        self.factors.broadcast(0, 0, 2, ROWS)
        assert self.complete.get(timeout=WAIT_S).step == 0
        return True


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pem"))


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("token", ["another", None])
def test_a_stranger_with_the_wrong_token_changes_nothing_anywhere(
    authority: Authority, tls: bool, token: str | None
) -> None:
    """At every method of coordinator, server and peer it hears why; then the job runs as ever."""
    security = authority.security(token=TOKEN) if tls else Security(token=TOKEN)
    wrong = authority.security(token=token) if tls else Security(token=token)
    with Everything(security) as job:
        channel = job.channel(wrong)
        for method in (REGISTER, INSPECT):
            with pytest.raises(ConfigError, match="another job's token, or none"):
                channel.call(method, b"", timeout_s=WAIT_S)
        join = Join(role="worker", rank=1, address="x:1", info={}, num_workers=2, num_servers=0)
        says: dict[str, list[MemberMessage]] = {
            ATTEND: [join, MemberFailure("stop")],
            EXCHANGE: [],
            BROADCAST: [],
        }
        for method, messages in says.items():
            heard = Heard()
            stream = channel.open_stream(method, heard, metadata={"rank": "1", "stream": "0"})
            for message in messages:
                stream.send(encode_member_message(message))
            error = heard.error()
            assert isinstance(error, ConfigError) and "another job's token" in str(error)
        with pytest.raises(ConfigError, match="another job's token, or none"):
            job.member(ConnectionSettings(security=wrong), 1).join(timeout_s=3600.0)
        assert job.goes_on()


def test_a_stranger_without_a_certificate_does_not_come_in(
    authority: Authority, tmp_path: Path
) -> None:
    """Nor one without TLS, nor one of another authority, although each knows the token."""
    other = Authority(tmp_path, "other")
    with Everything(authority.security(token=TOKEN)) as job:
        for stranger in (
            Security(token=TOKEN),
            authority.security(mutual=False, token=TOKEN),
            other.security(ca=authority.ca, token=TOKEN),
        ):
            member = job.member(ConnectionSettings(security=stranger), 1)
            with pytest.raises(StartTimeout, match=r"cannot be reached \(.*closed the connection"):
                member.join(timeout_s=0.3)
        assert job.goes_on()


def test_a_worker_is_told_at_once_which_peer_or_server_does_not_know_it() -> None:
    """Before the first step, and not when a first contribution does not come."""
    with Everything(Security(token=TOKEN)) as job:
        wrong = ConnectionSettings(security=Security(token="another"))
        peer = FactorService(
            job.server_of_peer(),
            num_workers=2,
            rank=1,
            on_complete=lambda complete: None,
            on_lost=lambda rank, error: None,
        )
        with pytest.raises(ConfigError, match=f"{job.address} refused this process"):
            peer.connect({0: job.address}, settings=wrong, timeout_s=3600.0)
        peer.close(timeout_s=WAIT_S)
        link = ServerLink(
            job.address,
            rank=0,
            on_sum=lambda *each: job.sums.put(each),
            on_lost=lambda error: None,
            settings=wrong,
        )
        with pytest.raises(ConfigError, match=f"{job.address} refused this process"):
            link.reach(timeout_s=3600.0)
        link.close(timeout_s=WAIT_S)
        assert job.goes_on()


@pytest.mark.processes
def test_a_server_of_its_own_serves_over_tls_as_its_environment_says(authority: Authority) -> None:
    """It joins, sums, ends with the job, and never shows the token."""
    files = authority.member("127.0.0.1", name="server")
    security = Security(ca=authority.ca, **files, token=TOKEN)
    settings = ConnectionSettings(security=security)
    coordinator_server = Server("127.0.0.1:0", max_streams=8, settings=settings)
    coordinator = coordinator_on(coordinator_server, num_workers=1, num_servers=1)
    coordinator_server.start()
    cluster = {"worker": [coordinator_server.address], "ps": free_addresses(1)}
    config = {"cluster": cluster, "task": {"type": "ps", "index": 0}}
    process = subprocess.Popen(
        [sys.executable, "-m", "poseidon_tf", "server"],
        env={
            **os.environ,
            "TF_CONFIG": json.dumps(config),
            "POSEIDON_TLS_CA": authority.ca,
            "POSEIDON_TLS_CERTIFICATE": files["certificate"],
            "POSEIDON_TLS_KEY": files["key"],
            "POSEIDON_TOKEN": TOKEN,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    client = CoordinatorClient(
        coordinator_server.address,
        role="worker",
        rank=0,
        own_address=coordinator_server.address,
        info={"timeline_dir": None},
        num_workers=1,
        num_servers=1,
        settings=settings,
        job_failure=JobFailure(),
    )
    try:
        (server,) = client.join(timeout_s=WAIT_S).servers
        address = server.address
        channel = Channel(address, settings=settings)
        key = Key(name="w", dtype="float32", num_elements=1)
        keys = KeyTable(rank=0, keys=[key], to=server.identity)
        reply = channel.call(REGISTER, keys.SerializeToString(), timeout_s=WAIT_S)
        assert KeyNumbers.FromString(reply).numbers == [0]
        channel.close()
        stranger = Channel(address, settings=ConnectionSettings(security=Security(token=TOKEN)))
        assert not stranger.wait_ready(timeout_s=0.1)
        stranger.close()
        assert client.goodbye(-1)
        output, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, output
        assert TOKEN not in output
    finally:
        process.kill()
        process.communicate()
        client.close(timeout_s=0.1)
        coordinator.close(timeout_s=0.0)
        coordinator_server.stop(grace_s=0.0)


Knocked: TypeAlias = tuple[list[Any], list[dict[str, Any]], list[str]]


@pytest.fixture(scope="module")
def secure_job(authority: Authority) -> Iterator[Knocked]:
    """A real job over mutual TLS with a token; strangers knock while it trains."""
    files = authority.member("127.0.0.1", name="real")
    environ = {
        "POSEIDON_TLS_CA": authority.ca,
        "POSEIDON_TLS_CERTIFICATE": files["certificate"],
        "POSEIDON_TLS_KEY": files["key"],
    }
    refusals: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as test:
        test.settimeout(90.0)
        address = f"127.0.0.1:{test.getsockname()[1]}"
        with Job(
            "secure.py",
            *(address, authority.ca, files["certificate"], files["key"]),
            num_servers=0,
            environ={name: os.environ.get(name, "") for name in environ}
            | {"POSEIDON_TOKEN": TOKEN},
            rank_environ={1: environ},
        ) as job:
            training = [test.accept()[0] for _ in job.workers]
            for worker in job.workers:
                security = Security(ca=authority.ca, **files, token="a guess")
                refusals += knocked(worker.address, security)
            for each in training:
                each.sendall(b"!")
                each.close()
            yield refusals, job.results(), [worker.output() for worker in job.workers]


def knocked(address: str, security: Security) -> list[Any]:
    """What strangers hear: with a certificate and a wrong token, and without TLS."""
    channel = Channel(address, settings=ConnectionSettings(security=security))
    heard = []
    for method in (ATTEND, BROADCAST):
        end = Heard()
        channel.open_stream(method, end, metadata={"rank": "1"})
        heard.append(type(end.error()))
    channel.close()
    with grpc.insecure_channel(address) as plain, pytest.raises(grpc.RpcError) as raised:
        plain.unary_unary(ATTEND)(b"", timeout=WAIT_S, metadata=[("poseidon-token", TOKEN)])
    return [*heard, raised.value.code()]


@pytest.mark.processes
def test_a_job_over_mutual_tls_trains_to_equal_weights(secure_job: Knocked) -> None:
    """Both schemes, servers beside their workers, files by argument and by the environment."""
    _, results, _ = secure_job
    first, second = results
    assert first["trained"] == second["trained"] != first["first"]
    assert first["statistics"] == second["statistics"] == [8, 8]


@pytest.mark.processes
def test_strangers_at_a_job_that_trains_are_refused(secure_job: Knocked) -> None:
    """At the coordinator's port and at both workers'; the job has ended in order all the same."""
    refusals, _, _ = secure_job
    assert refusals == [ConfigError, ConfigError, grpc.StatusCode.UNAVAILABLE] * 2


@pytest.mark.processes
def test_no_member_prints_the_token(secure_job: Knocked) -> None:
    """Nor the digest that travels."""
    _, _, outputs = secure_job
    assert not any(TOKEN in output or "poseidon-token" in output for output in outputs)
