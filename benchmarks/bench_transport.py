"""How fast do sums go through one server, against a bare gRPC echo of equal chunks and streams?

    make bench-transport

Both sides run in the same go on the loopback interface. The table gives bytes per second each
way as one worker sees it, the CPU seconds that all processes together spend per GB moved (both
ways added), and the ratio to the echo. iperf3 is added where it is installed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from tabulate import tabulate

from poseidon_tf.kv.client import ServerLink
from poseidon_tf.kv.service import STREAMS_PER_SERVER, KVService
from poseidon_tf.kv.store import KeySpec
from poseidon_tf.launch.memory import keep_freed_memory
from poseidon_tf.transport.over_grpc import Channel, Server, Stream

WARM_UP_STEPS = 3
ECHO = "/poseidon_tf.Benchmark/Echo"
_spawn = multiprocessing.get_context("spawn")


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

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)

    def on_message(self, message: bytes) -> None:
        self.arrived.release()

    def on_closed(self, error: Exception | None) -> None:
        if error is not None:
            print(f"stream ended: {error}", file=sys.stderr)


def serve(parent: Connection, kind: str, num_workers: int) -> None:
    """Serve echoes or sums until the parent says otherwise."""
    keep_freed_memory()
    server = Server("127.0.0.1:0", max_streams=num_workers * STREAMS_PER_SERVER)
    if kind == "echo":
        server.add_stream(ECHO, EchoReceiver)
    else:
        KVService(server, num_workers=num_workers)
    server.start()
    parent.send(server.address)
    parent.recv()
    server.stop()


def echo(parent: Connection, address: str, rank: int, chunk: int, chunks: int, steps: int) -> None:
    """Send `chunks` messages a step over as many streams as a server link has."""
    keep_freed_memory()
    channels = [Channel(address) for _ in range(STREAMS_PER_SERVER)]
    receiver = CountReceiver()
    streams = [channel.open_stream(ECHO, receiver) for channel in channels]
    message = bytes(chunk)

    def step(number: int) -> None:
        for index in range(chunks):
            streams[index % len(streams)].send(message)
        for _ in range(chunks):
            receiver.arrived.acquire()

    parent.send(timed(step, steps))
    for stream in streams:
        stream.close()
    for stream in streams:
        stream.wait_ended(timeout_s=5.0)
    for channel in channels:
        channel.close()


def push_pull(
    parent: Connection, address: str, rank: int, chunk: int, chunks: int, steps: int
) -> None:
    """Push `chunks` KV pairs a step and wait for their sums."""
    keep_freed_memory()
    arrived = threading.Semaphore(0)
    link = ServerLink(
        address,
        rank=rank,
        on_sum=lambda key, step, payload: arrived.release(),
        on_lost=lambda error: print(f"stream ended: {error}", file=sys.stderr),
    )
    specs = [KeySpec(f"pair{index}", "float32", chunk // 4) for index in range(chunks)]
    keys = link.register(specs, timeout_s=30.0)
    payload = memoryview(np.ones(chunk // 4, np.float32).view(np.uint8))

    def step(number: int) -> None:
        link.push([(key, payload) for key in keys], step=number)
        for _ in keys:
            arrived.acquire()

    parent.send(timed(step, steps))
    link.leave(steps)
    link.close(timeout_s=5.0)


def timed(step: Callable[[int], None], steps: int) -> list[float]:
    """Seconds of each step after the warm-up."""
    seconds = []
    for number in range(WARM_UP_STEPS + steps):
        begin_s = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - begin_s)
    return seconds[WARM_UP_STEPS:]


def measure(kind: str, num_workers: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row: all processes start anew, so that none profits from the one before."""
    chunk, chunks = options.pair_kib * 1024, options.mib * 1024 // options.pair_kib
    cpu_before_s = cpu_seconds()
    to_server, from_parent = _spawn.Pipe()
    server = _spawn.Process(target=serve, args=(from_parent, kind, num_workers))
    server.start()
    address = to_server.recv()
    pipes, workers = [], []
    for rank in range(num_workers):
        mine, theirs = _spawn.Pipe()
        work = echo if kind == "echo" else push_pull
        arguments = (theirs, address, rank, chunk, chunks, options.steps)
        workers.append(_spawn.Process(target=work, args=arguments))
        workers[-1].start()
        pipes.append(mine)
    seconds = [pipe.recv() for pipe in pipes]
    for worker in workers:
        worker.join()
    to_server.send("stop")
    server.join()
    moved_gb = 2 * num_workers * chunk * chunks * (WARM_UP_STEPS + options.steps) / 1e9
    median_s = statistics.median(value for each in seconds for value in each)
    return {
        "what": "bare gRPC echo" if kind == "echo" else "push-pull",
        "workers": num_workers,
        "GB/s each way": chunk * chunks / median_s / 1e9,
        "CPU s/GB": (cpu_seconds() - cpu_before_s) / moved_gb,
    }


def cpu_seconds() -> float:
    """Of the processes that have ended, importing included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def iperf3() -> dict[str, Any] | None:
    """The loopback interface itself, one way; None where iperf3 is not installed."""
    if shutil.which("iperf3") is None:
        return None
    port = "5797"
    server = subprocess.Popen(["iperf3", "-s", "-1", "-p", port], stdout=subprocess.DEVNULL)
    try:
        client = ["iperf3", "-c", "127.0.0.1", "-p", port, "-t", "3", "-J"]
        done = subprocess.run(client, capture_output=True, text=True, check=True, timeout=30)
    finally:
        server.wait(timeout=10)
    bits_per_s = json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]
    return {"what": "iperf3, one way", "workers": 1, "GB/s each way": bits_per_s / 8e9}


def main() -> None:
    """Measure, print one table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=40, help="gradient of one worker, in MiB")
    parser.add_argument("--pair-kib", type=int, default=512, help="KV pair, in KiB")
    parser.add_argument("--steps", type=int, default=20, help="steps that count")
    parser.add_argument("--json", help="file to write the rows to")
    options = parser.parse_args()
    rows = [
        measure(kind, num_workers, options)
        for num_workers in (1, 2)
        for kind in ("echo", "push-pull")
    ]
    for row in rows:
        base = next(r for r in rows if r["workers"] == row["workers"])
        row["ratio to echo"] = row["GB/s each way"] / base["GB/s each way"]
    rows += [row for row in (iperf3(),) if row is not None]
    print(f"{options.mib} MiB a step in {options.pair_kib} KiB pairs, {os.cpu_count()} CPUs")
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"options": vars(options), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
