"""A bare gRPC echo: rank 0 sends every message back, the others send and count.

Nothing of poseidon_tf's transport is in it, only gRPC, with as many connections as a link to a
server has.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from protocol import obey
from transport_member import PATIENCE_S, Arrivals, cpu, task, timed

from poseidon_tf.kv.service import STREAMS_PER_SERVER
from poseidon_tf.launch.memory import keep_freed_memory

ECHO = "/poseidon_tf.Benchmark/Echo"
UNBOUNDED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class EchoStream:
    """One connection with one stream: sends what it is given, counts what comes back."""

    def __init__(self, address: str, arrivals: Arrivals) -> None:
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # Each has a connection of its own, as gRPC lets equal channels share one.
        options = [*UNBOUNDED, ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(address, options)
        self._call = self._channel.stream_stream(ECHO)(
            iter(self._messages.get, None), wait_for_ready=True
        )
        self._arrivals = arrivals
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, message: bytes) -> None:
        """Queue it."""
        self._messages.put(message)

    def close(self) -> None:
        """Send what is queued, and wait for all of it."""
        self._messages.put(None)
        self._reader.join(PATIENCE_S)
        self._channel.close()

    def _read(self) -> None:
        try:
            for _ in self._call:
                self._arrivals.add()
        except grpc.RpcError as failure:
            self._arrivals.lost(failure)


def echo(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    """Send every message back."""
    yield from requests


rank, addresses = task()
arrivals = Arrivals()
streams: list[EchoStream] = []
messages: list[bytes] = []
keep_freed_memory()
server: grpc.Server | None = None


def start(chunk_bytes: int, chunks: int) -> None:
    """Serve, or open as many streams as a link to a server has."""
    global server
    if rank == 0:
        threads = ThreadPoolExecutor(len(addresses) * STREAMS_PER_SERVER)
        server = grpc.server(threads, options=[*UNBOUNDED, ("grpc.so_reuseport", 0)])
        handlers = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
        service = ECHO.split("/")[1]
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        if not server.add_insecure_port(addresses[0]):
            raise RuntimeError(f"{addresses[0]} is in use")
        server.start()
        return
    streams.extend(EchoStream(addresses[0], arrivals) for _ in range(STREAMS_PER_SERVER))
    messages.extend([bytes(chunk_bytes)] * chunks)


def run(steps: int) -> list[float]:
    """Seconds of each step: all messages sent, and all of them back."""

    def step() -> None:
        for index, message in enumerate(messages):
            streams[index % len(streams)].send(message)
        arrivals.take(len(messages))

    return timed(step, steps) if rank else []


def leave() -> None:
    """Close the streams in order; the server stays until its input ends."""
    for stream in streams:
        stream.close()


obey({"start": start, "run": run, "cpu": cpu, "leave": leave})
if server is not None:
    server.stop(1.0).wait()
