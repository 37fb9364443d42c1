"""A whole job whose every connection is reset again and again: its results are the same bits."""

import contextlib
import logging
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from poseidon_tf.launch import server_main, worker_parts
from poseidon_tf.launch.join import Membership
from poseidon_tf.session.statistics import Statistics
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.server import Server
from tests.session.jobs_in_process import SIZES, InProcess, Training
from tests.session.session_bench import WAIT_S
from tests.support.ports import free_addresses
from tests.support.proxies import Proxy

pytestmark = pytest.mark.connections

NUM_STEPS = 20


def limits(seed: int) -> Iterator[int]:
    """Bytes after which connections break; more than any message that the job sends."""
    rng = random.Random(seed)
    while True:
        yield rng.randrange(300_000, 900_000)


@pytest.fixture(params=["grpc", "grpc+tcp"])
def proxied(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[InProcess, list[Proxy], list[Proxy]]]:
    """An `InProcess` job and its proxies: members listen elsewhere than the cluster says.

    Those of calls, one for each member, and those of lanes, as many or none.
    """
    with contextlib.ExitStack() as stack:
        # The server's own resume_s counts until it serves; then it is rank 0's.
        job = InProcess(2, 1, settings=ConnectionSettings(resume_s=0.0))
        listening = free_addresses(3)
        proxies = [stack.enter_context(Proxy(to, limits(n))) for n, to in enumerate(listening)]
        job.workers = tuple(proxy.address for proxy in proxies[:2])
        job.servers = (proxies[2].address,)
        behind = {proxy.address: proxy.target for proxy in proxies}

        of_lanes: list[Proxy] = []

        def listen(address: str, **options: Any) -> Server:
            options["settings"] = replace(options["settings"], protocol=request.param)
            server = Server(behind[address], **options)
            server.address = address
            if server.lanes is not None:
                target = f"127.0.0.1:{server.lanes.port}"
                proxy = stack.enter_context(Proxy(target, limits(10 + len(of_lanes))))
                of_lanes.append(proxy)
                server.lanes.port = int(proxy.address.rpartition(":")[2])
            return server

        monkeypatch.setattr(worker_parts, "Server", listen)
        monkeypatch.setattr(server_main, "Server", listen)
        yield job, proxies, of_lanes


class Serving(logging.Handler):
    """Notes that the server has begun to serve."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.has_begun = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("server 0 serves on"):
            self.has_begun.set()


@pytest.fixture
def serving(caplog: pytest.LogCaptureFixture) -> Iterator[threading.Event]:
    handler, logger = Serving(), logging.getLogger("poseidon_tf")
    logger.addHandler(handler)
    with caplog.at_level(logging.INFO, logger="poseidon_tf"):
        yield handler.has_begun
    logger.removeHandler(handler)


def test_twenty_steps_have_the_same_bits_though_every_connection_breaks(
    proxied: tuple[InProcess, list[Proxy], list[Proxy]], serving: threading.Event
) -> None:
    """Sums, factors, rows and gathers: each connection breaks every few hundred KB, and all of
    them in the middle of each step. Nothing is counted twice. The server itself was given no time
    to take connections up again: rank 0's is the job's."""
    job, proxies, of_lanes = proxied

    def work(member: Membership) -> Statistics:
        worker = member.worker
        assert serving.wait(WAIT_S)
        training = Training(member, 2, 1)
        for step in range(NUM_STEPS):
            if worker.rank == 0:
                # Lanes and calls in turns, where there are both.
                for proxy in of_lanes if of_lanes and step % 2 else proxies:
                    proxy.reset()
            training.step(step)
            payload = bytes([worker.rank, step])
            assert worker.gather(f"step {step}", payload) == [bytes([0, step]), bytes([1, step])]
        assert worker.session.failure is None
        return worker.statistics()

    statistics, codes = job.run(work)
    assert codes == [0]
    for each in statistics:
        assert (each.steps, each.ps.exchanges) == (NUM_STEPS, NUM_STEPS * len(SIZES))
        assert each.ps.sent_bytes == each.ps.received_bytes == NUM_STEPS * 4 * sum(SIZES.values())
    # Each is asked to in every step, or in every second one; what is being connected again just
    # then, because it has carried its bytes, has nothing to reset.
    num_resets = NUM_STEPS // 4 if of_lanes else NUM_STEPS
    assert all(proxy.num_resets >= num_resets for proxy in [*proxies, *of_lanes])
    assert proxies[2].num_connections > num_resets
