"""A bare gRPC echo: rank 0 sends every message back, the others send and count."""

from __future__ import annotations

from protocol import obey
from transport_member import Arrivals, cpu, task, timed

from poseidon_tf.kv.service import STREAMS_PER_SERVER
from poseidon_tf.launch.memory import keep_freed_memory
from poseidon_tf.transport.over_grpc import Channel, Server
from poseidon_tf.transport.streams import Stream

ECHO = "/poseidon_tf.Benchmark/Echo"


class EchoReceiver:
    """Sends every message back."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def on_message(self, message: bytes) -> None:
        self._stream.send(message)

    def on_closed(self, error: Exception | None) -> None:
        self._stream.close()


class CountReceiver:
    """Counts what comes back."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals

    def on_message(self, message: bytes) -> None:
        self._arrivals.add()

    def on_closed(self, error: Exception | None) -> None:
        if error is not None:
            self._arrivals.lost(error)


rank, addresses = task()
arrivals = Arrivals()
channels: list[Channel] = []
streams: list[Stream] = []
messages: list[bytes] = []
keep_freed_memory()
server = Server(addresses[0], max_streams=len(addresses) * STREAMS_PER_SERVER) if not rank else None


def start(chunk_bytes: int, chunks: int) -> None:
    """Serve, or open as many streams as a link to a server has."""
    if server is not None:
        server.add_stream(ECHO, EchoReceiver)
        server.start()
        return
    channels.extend(Channel(addresses[0]) for _ in range(STREAMS_PER_SERVER))
    receiver = CountReceiver(arrivals)
    streams.extend(channel.open_stream(ECHO, receiver) for channel in channels)
    messages.extend([bytes(chunk_bytes)] * chunks)


def run(steps: int) -> list[float]:
    """Seconds of each step: all messages sent, and all of them back."""

    def step() -> None:
        for index, message in enumerate(messages):
            streams[index % len(streams)].send(message)
        arrivals.take(len(messages))

    return timed(step, steps) if server is None else []


def leave() -> None:
    """Close the streams in order; the server stays until its input ends."""
    for stream in streams:
        stream.close()
    for stream in streams:
        stream.wait_ended(timeout_s=5.0)
    for channel in channels:
        channel.close()


obey({"start": start, "run": run, "cpu": cpu, "leave": leave})
if server is not None:
    server.stop()
