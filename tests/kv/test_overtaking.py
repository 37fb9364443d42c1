"""A link that is held back: what was pushed last is summed first, if it is urgent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest

from poseidon_tf.kv.client import Piece
from poseidon_tf.kv.store import key_specs
from poseidon_tf.transport.connections import ConnectionSettings, Protocol
from tests.kv.kv_links import WAIT_S, Cluster, Link
from tests.support.proxies import Proxy

pytestmark = pytest.mark.connections

SIZE = 64 * 1024  # Floats of a pair, which with 256 KiB has a frame of its own.
TOP = key_specs("top", "float32", [SIZE] * 64, priority=9)
BUFFER_BYTES = 128 * 1024  # Of the kernel behind a link that is held back.
BOTTOM = key_specs("bottom", "float32", [SIZE], priority=1)


class HeldLink:
    """Rank 0 of two workers, whose way to the server can be held back; rank 1 has pushed all."""

    def __init__(self, stack: contextlib.ExitStack, protocol: Protocol) -> None:
        settings = ConnectionSettings(protocol=protocol)
        cluster = Cluster(stack, 2, settings=settings)
        self.proxies = [
            stack.enter_context(Proxy(cluster.server.address, buffer_bytes=BUFFER_BYTES))
        ]
        if cluster.server.lanes is not None:
            lane = stack.enter_context(
                Proxy(f"127.0.0.1:{cluster.server.lanes.port}", buffer_bytes=BUFFER_BYTES)
            )
            cluster.server.lanes.port = int(lane.address.rpartition(":")[2])
            self.proxies.append(lane)
        self.taken: list[int] = []  # Keys, as the streams take them.
        options = {"settings": settings, "on_sent": lambda key, step: self.taken.append(key)}
        self.link = Link(self.proxies[0].address, 0, **options)
        stack.callback(self.link.link.close, timeout_s=0.1)
        self.numbers = self.link.link.register([*TOP, *BOTTOM], timeout_s=WAIT_S)
        other = cluster.link(1, settings=settings)
        assert other.link.register([*TOP, *BOTTOM], timeout_s=WAIT_S) == self.numbers
        self.push(self.link, step=0)  # Over both streams, so that both have connected.
        self.push(other, step=0)
        self.push(other, step=1)
        for _ in range(3 * len(self.numbers)):
            cluster.received.get(timeout=WAIT_S)
        for _ in self.numbers:
            self.link.sum_bytes()
        self.taken.clear()

    def push(self, link: Link, step: int) -> None:
        """The top layer's gradient, and then the bottom's."""
        values = np.ones(SIZE, np.float32).data.cast("B")
        pieces = [Piece(key, values) for key in self.numbers]
        link.link.push(pieces[:-1], step=step, priority=9)
        link.link.push(pieces[-1:], step=step, priority=1)


@pytest.fixture(params=["grpc", "grpc+tcp"])
def held(request: pytest.FixtureRequest) -> Iterator[tuple[HeldLink, int]]:
    """The link, and how many pairs of it may be in buffers, where nothing can overtake them.

    Of each of two streams: over a lane some 128 KiB in either kernel, through gRPC up to 4 MiB.
    """
    with contextlib.ExitStack() as stack:
        yield HeldLink(stack, request.param), {"grpc": 40, "grpc+tcp": 8}[request.param]


def test_the_bottom_layers_sum_comes_before_the_top_layers_that_was_pushed_earlier(
    held: tuple[HeldLink, int],
) -> None:
    """All but what buffers hold of the top layer's 16 MiB leaves, and comes back, after it."""
    worker, most_in_buffers = held
    for proxy in worker.proxies:
        proxy.hold()
    worker.push(worker.link, step=1)
    for proxy in worker.proxies:
        proxy.let_go()
    came = [worker.link.sum_bytes()[0] for _ in worker.numbers]
    *top, bottom = worker.numbers
    assert came.index(bottom) <= most_in_buffers
    assert worker.taken.index(bottom) <= most_in_buffers
    for stream in range(2):  # Of what is equal the order stays.
        assert [k for k in came if k % 2 == stream and k != bottom] == top[stream::2]
