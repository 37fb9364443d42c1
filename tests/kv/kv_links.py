"""A parameter server over real connections, and links to it that keep what they hear."""

import contextlib
import queue
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from poseidon_tf.kv.client import Piece, ServerLink
from poseidon_tf.kv.service import KVService
from poseidon_tf.kv.store import KeySpec
from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.server import Server
from poseidon_tf.transport.shared_memory import SharedMemory
from poseidon_tf.wire.dtypes import Array

WAIT_S = 20.0  # Far more than anything here takes.


class End:
    """A receiver of what comes on one stream, and of its end."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._errors: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def on_message(self, message: bytes) -> None:
        self._messages.put(message)

    def on_closed(self, error: Exception | None) -> None:
        self._errors.put(error)

    def next(self) -> bytes:
        return self._messages.get(timeout=WAIT_S)

    def get(self) -> Exception | None:
        return self._errors.get(timeout=WAIT_S)


class Link:
    """One worker's link; its sums and its loss are read from queues."""

    def __init__(self, address: str, rank: int, **options: Any) -> None:
        self._sums: queue.SimpleQueue[tuple[int, int, memoryview | None]] = queue.SimpleQueue()
        self._lost: queue.SimpleQueue[Exception] = queue.SimpleQueue()
        self.link = ServerLink(
            address,
            rank=rank,
            on_sum=lambda key, step, payload: self._sums.put((key, step, payload)),
            on_lost=self._lost.put,
            **options,
        )

    def register(self, *names: str, dtype: str = "float32", num_elements: int = 4) -> list[int]:
        specs = [KeySpec(name, dtype, num_elements) for name in names]
        return self.link.register(specs, timeout_s=WAIT_S)

    def push(self, step: int, **arrays: Array) -> None:
        pieces = [
            Piece(int(key.removeprefix("k")), array.data.cast("B")) for key, array in arrays.items()
        ]
        self.link.push(pieces, step=step)

    def sum_bytes(self) -> tuple[int, int, memoryview | None]:
        """Key, step, and the bytes; None where the server left them in the shared memory."""
        return self._sums.get(timeout=WAIT_S)

    def sum(self) -> tuple[int, int, list[float]]:
        key, step, payload = self.sum_bytes()
        assert payload is not None
        return key, step, np.frombuffer(payload, np.float32).tolist()

    def lost(self) -> Exception:
        return self._lost.get(timeout=WAIT_S)

    def inspect(self) -> tuple[dict[str, tuple[int, ...]], int]:
        reply = self.link.inspect(timeout_s=WAIT_S)
        return {key.name: tuple(key.contributions) for key in reply.keys}, reply.held_bytes


class Cluster:
    """One server for `num_workers` workers."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        num_workers: int,
        *,
        memory: SharedMemory | None = None,
        memory_rank: int = -1,
        addresses: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self._stack = stack
        self.received: queue.SimpleQueue[tuple[int, str, int]] = queue.SimpleQueue()
        self.server = Server(
            "127.0.0.1:0", max_streams=KVService.streams_needed(num_workers), **options
        )
        self.service = KVService(
            self.server,
            num_workers=num_workers,
            memory=memory,
            memory_rank=memory_rank,
            addresses=addresses,
            on_received=lambda rank, name, step: self.received.put((rank, name, step)),
        )
        self.server.start()
        stack.callback(self.server.stop, grace_s=0.0)

    def link(self, rank: int, **options: Any) -> Link:
        link = Link(self.server.address, rank, **options)
        self._stack.callback(link.link.close, timeout_s=0.1)
        return link

    def channel(self) -> Channel:
        channel = Channel(self.server.address)
        self._stack.callback(channel.close)
        return channel

    def wait_received(self, expected: set[tuple[int, str, int]]) -> None:
        """Wait until the server has taken as many pushes as `expected` names."""
        assert {self.received.get(timeout=WAIT_S) for _ in expected} == expected


MakeCluster: TypeAlias = Callable[..., Cluster]
