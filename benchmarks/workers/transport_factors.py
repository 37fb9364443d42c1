"""Two workers that send each other factors, through nothing but their factor services."""

from __future__ import annotations

from protocol import obey
from transport_member import Arrivals, cpu, task, timed

from poseidon_tf.launch.memory import keep_freed_memory
from poseidon_tf.sfb.factors import RowSpec
from poseidon_tf.sfb.service import FactorService
from poseidon_tf.transport.connections import ConnectionSettings, Protocol
from poseidon_tf.transport.server import Server

# A row of both factors together: 1 KiB of float32.
M = N = 128

rank, addresses = task()
complete = Arrivals()
keep_freed_memory()
settings = ConnectionSettings()
server: Server
service: FactorService
next_step = num_keys = num_rows = 0
packed = b""


def serve(protocol: Protocol) -> None:
    """Be there for the peer."""
    global server, service, settings
    settings = ConnectionSettings(protocol=protocol)
    server = Server(
        addresses[rank],
        max_streams=FactorService.streams_needed(len(addresses)),
        settings=settings,
    )
    service = FactorService(
        server,
        num_workers=len(addresses),
        rank=rank,
        on_complete=complete.add,
        on_lost=complete.lost,
    )
    server.start()


def start(factor_kib: int, count: int) -> None:
    """Register `count` kernels with factors of `factor_kib` KiB each, and find the peer."""
    global num_keys, num_rows, packed
    num_keys, num_rows, packed = count, factor_kib, bytes(factor_kib * 1024)
    for key in range(count):
        service.register(key, RowSpec.factors(f"kernel{key}", M=M, N=N, dtype="float32"))
    service.connect(dict(enumerate(addresses)), settings=settings, timeout_s=60.0)


def run(steps: int) -> list[float]:
    """Seconds of each step: all factors sent, and all of the peer's here."""

    def step() -> None:
        global next_step
        for key in range(num_keys):
            service.broadcast(key, next_step, num_rows, packed)
        complete.take(num_keys)
        next_step += 1

    return timed(step, steps)


def leave() -> None:
    """Say goodbye to the peer."""
    service.leave(next_step - 1)
    service.close(timeout_s=5.0)


obey({"serve": serve, "start": start, "run": run, "cpu": cpu, "leave": leave})
server.stop()
