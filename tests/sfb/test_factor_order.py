"""The order in which a worker's factors leave: over a link that is held back, the urgent first."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator

import numpy as np
import pytest

from poseidon_tf.sfb.exchange import CompleteSet
from poseidon_tf.sfb.factors import RowSpec, pack
from poseidon_tf.sfb.service import FactorService
from poseidon_tf.transport.connections import ConnectionSettings, Protocol
from poseidon_tf.transport.server import Server
from tests.support.proxies import Proxy

pytestmark = pytest.mark.connections

WAIT_S = 20.0  # Far more than anything here takes.
TOP, BOTTOM = 9, 1  # Keys, and priorities.
BUFFER_BYTES = 128 * 1024  # Of the kernel behind a link that is held back.
WIDTH = {TOP: 1024 * 1024, BOTTOM: 64}  # Of either factor.
ROWS = {TOP: 3, BOTTOM: 2}  # So the top's are 24 MiB, in 24 pieces.


def factors(key: int, value: float) -> bytes:
    matrix = np.full((ROWS[key], WIDTH[key]), value, np.float32)
    return pack(matrix, matrix)


class Peer:
    """One of two workers; keeps the sets that are complete."""

    def __init__(self, stack: contextlib.ExitStack, rank: int, protocol: Protocol) -> None:
        self.settings = ConnectionSettings(protocol=protocol)
        self.server = Server("127.0.0.1:0", max_streams=2, settings=self.settings)
        self.complete: queue.SimpleQueue[CompleteSet] = queue.SimpleQueue()
        self.service = FactorService(
            self.server,
            num_workers=2,
            rank=rank,
            on_complete=self.complete.put,
            on_lost=lambda rank, error: None,
        )
        self.server.start()
        stack.callback(self.server.stop, grace_s=0.0)
        stack.callback(self.service.close, timeout_s=WAIT_S)
        for key, width in WIDTH.items():
            spec = RowSpec.factors(str(key), M=width, N=width, dtype="float32")
            self.service.register(key, spec)

    def broadcast(self, key: int, step: int) -> None:
        self.service.broadcast(key, step, ROWS[key], factors(key, step), priority=key)

    def connect(self, addresses: dict[int, str]) -> None:
        self.service.connect(addresses, settings=self.settings, timeout_s=WAIT_S)


@pytest.fixture(params=["grpc", "grpc+tcp"])
def peers(request: pytest.FixtureRequest) -> Iterator[tuple[list[Peer], list[Proxy]]]:
    """Two workers that have done step 0, and proxies that rank 0's factors go through."""
    with contextlib.ExitStack() as stack:
        workers = [Peer(stack, rank, request.param) for rank in range(2)]
        there = workers[1].server
        proxies = [stack.enter_context(Proxy(there.address, buffer_bytes=BUFFER_BYTES))]
        if there.lanes is not None:
            proxies.append(
                stack.enter_context(
                    Proxy(f"127.0.0.1:{there.lanes.port}", buffer_bytes=BUFFER_BYTES)
                )
            )
            there.lanes.port = int(proxies[1].address.rpartition(":")[2])
        addresses = {0: workers[0].server.address, 1: proxies[0].address}
        for worker in workers:
            worker.connect(addresses)
        for worker in workers:
            for key in WIDTH:
                worker.broadcast(key, 0)
        for worker in workers:
            assert {worker.complete.get(timeout=WAIT_S).key for _ in WIDTH} == set(WIDTH)
        yield workers, proxies
        for worker in workers:
            worker.service.leave(1)


def test_the_bottom_layers_factors_overtake_the_pieces_of_the_top_layers(
    peers: tuple[list[Peer], list[Proxy]],
) -> None:
    """They are pushed last, and complete first on the other worker; both are whole."""
    (sender, hearer), proxies = peers
    for key in WIDTH:
        hearer.broadcast(key, 1)
    for proxy in proxies:
        proxy.hold()
    sender.broadcast(TOP, 1)
    sender.broadcast(BOTTOM, 1)
    for proxy in proxies:
        proxy.let_go()
    for key in (BOTTOM, TOP):
        came = hearer.complete.get(timeout=WAIT_S)
        assert (came.key, came.step) == (key, 1)
        assert [bytes(data) for _, data in came.factors] == [factors(key, 1)] * 2


def test_what_is_sent_before_a_goodbye_arrives(peers: tuple[list[Peer], list[Proxy]]) -> None:
    """The goodbye waits for all that has been put, also for what was overtaken."""
    (sender, hearer), _ = peers
    for key in WIDTH:
        sender.broadcast(key, 1)
    sender.service.leave(1)
    for key in WIDTH:
        hearer.broadcast(key, 1)
    assert {hearer.complete.get(timeout=WAIT_S).key for _ in WIDTH} == set(WIDTH)
