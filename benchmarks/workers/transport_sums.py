"""Sums through one server: rank 0 serves, the others push, and wait for the sums or do not.

For pushes alone the server is told of one worker more, whose share comes last and untimed: until
then no sum is finished and nothing goes back.
"""

from __future__ import annotations

import time

import numpy as np
from protocol import obey
from transport_member import Arrivals, cpu, task, timed

from poseidon_tf.kv.client import Piece, ServerLink
from poseidon_tf.kv.service import KVService
from poseidon_tf.kv.store import KeySpec
from poseidon_tf.launch.memory import keep_freed_memory
from poseidon_tf.transport.connections import ConnectionSettings, Protocol
from poseidon_tf.transport.server import Server

rank, addresses = task()
num_pushing = len(addresses) - 1
received, summed = Arrivals(), Arrivals()
keep_freed_memory()
settings = ConnectionSettings()
server: Server | None = None
link: ServerLink | None = None
keys: list[int] = []
payload = memoryview(b"")
next_step = 0


def serve(alone: bool, protocol: Protocol) -> None:
    """Rank 0 serves; `alone`: for pushes alone."""
    global server, settings
    settings = ConnectionSettings(protocol=protocol)
    if rank == 0:
        num_workers = num_pushing + alone
        server = Server(
            addresses[0],
            max_streams=KVService.streams_needed(num_workers),
            settings=settings,
        )
        KVService(server, num_workers=num_workers, on_received=received.add)
        server.start()


def start(chunk_bytes: int, chunks: int, alone: bool) -> None:
    """Announce the keys; rank 0 is the one worker more, if there is one."""
    global link, payload
    if rank == 0 and not alone:
        return
    as_rank = rank - 1 if rank else num_pushing
    link = ServerLink(
        addresses[0],
        rank=as_rank,
        on_sum=summed.add,
        on_lost=summed.lost,
        settings=settings,
    )
    specs = [KeySpec(f"pair{index}", "float32", chunk_bytes // 4) for index in range(chunks)]
    keys.extend(link.register(specs, timeout_s=30.0))
    payload = np.ones(chunk_bytes // 4, np.float32).view(np.uint8).data


def push_next(steps: int = 1) -> None:
    """This worker's share of the next steps."""
    global next_step
    assert link is not None
    for step in range(next_step, next_step + steps):
        link.push([Piece(key, payload) for key in keys], step=step)
    next_step += steps


def run(steps: int) -> list[float]:
    """Seconds of each step: everything pushed, and all sums back."""

    def step() -> None:
        push_next()
        summed.take(len(keys))

    return timed(step, steps) if rank else []


def push(steps: int) -> float:
    """Steps without their sums: the time when this worker began, or the server had everything."""
    begin_s = time.monotonic()
    if rank == 0:
        received.take(steps * num_pushing * len(keys))
        return time.monotonic()
    push_next(steps)
    return begin_s


def finish(steps: int) -> None:
    """Untimed: the last share of these steps, and the sums to everyone."""
    if rank == 0:
        push_next(steps)
        received.take(steps * len(keys))
    summed.take(steps * len(keys))


def leave() -> None:
    """Say goodbye; the server stays until its input ends."""
    if link is not None:
        link.leave(next_step - 1)
        link.close(timeout_s=5.0)


obey(
    {
        "serve": serve,
        "start": start,
        "run": run,
        "push": push,
        "finish": finish,
        "cpu": cpu,
        "leave": leave,
    }
)
if server is not None:
    server.stop()
