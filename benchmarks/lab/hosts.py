"""Hosts for benchmarks: network namespaces with shaped links, or all on the loopback interface.

A namespace needs root and iproute2. Every host has one link to one switch, shaped both ways. Its
TCP is CUBIC, Linux's own default, whatever this machine's is: BBR takes the burst that a token
bucket lets through for the link's rate, and loses what it sends above that.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, final

_PORT = 5000


class Hosts(Protocol):
    """Where processes run. A context manager: leaving it removes what it made."""

    @property
    def is_shaped(self) -> bool:
        """Whether `set_rate` works."""

    def __enter__(self) -> Hosts: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def addresses(self) -> list[str]:
        """A free "ip:port" on every host, in order."""

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        """`command` as it is started on `host`."""

    def set_rate(self, bits_per_s: float | None, *, only: int | None = None) -> None:
        """Shape every link, or that of one host, both ways; None for as fast as it goes."""

    def link_bytes(self, host: int) -> tuple[int, int]:
        """(out, in) bytes that the link of `host` has carried so far, headers included."""


LARGEST_PACKET_BYTES = 64 * 1024
"""What TCP hands to a link at once, which cuts it. A connection has several in the link's queue."""
QUEUE_MS = 200.0
"""What may wait for a link, as time on it. What is in such a queue cannot be overtaken."""


def make_hosts(
    count: int, *, queue_ms: float = QUEUE_MS, packet_bytes: int = LARGEST_PACKET_BYTES
) -> Hosts:
    """Namespaces where this user may make them, else the loopback interface."""
    if os.geteuid() == 0 and shutil.which("ip") and shutil.which("tc"):
        return NamespaceHosts(count, queue_ms=queue_ms, packet_bytes=packet_bytes)
    return LoopbackHosts(count)


@final
class NamespaceHosts:
    """`count` network namespaces, addresses 10.78.0.1 and up, on one bridge.

    Args:
      packet_bytes: on slow links that stand for fast ones less than the kernel's own, or what
        cannot be overtaken takes longer than on the fast ones.
    """

    is_shaped = True

    def __init__(
        self,
        count: int,
        *,
        queue_ms: float = QUEUE_MS,
        packet_bytes: int = LARGEST_PACKET_BYTES,
    ) -> None:
        self._queue_ms, self._packet_bytes = queue_ms, packet_bytes
        # Of this process alone, so that two benchmarks, or one that was killed, do not meet.
        self._tag = f"{os.getpid() % 46656:x}"
        self._count = count
        self._bridge = f"pb{self._tag}"
        self._next_port = _PORT

    def __enter__(self) -> NamespaceHosts:
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "link", "set", self._bridge, "up")
        for host in range(self._count):
            name, outside = self._name(host), self._outside(host)
            _run("ip", "netns", "add", name)
            _run("ip", "link", "add", outside, "type", "veth", "peer", "eth0", "netns", name)
            _run("ip", "link", "set", outside, "master", self._bridge, "up")
            address = f"10.78.0.{host + 1}"
            _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            if self._packet_bytes < LARGEST_PACKET_BYTES:
                size = ["gso_max_size", str(self._packet_bytes)]
                _run("ip", "-n", name, "link", "set", "eth0", *size)
            _run("ip", "-n", name, "link", "set", "eth0", "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
            route = ["10.78.0.0/24", "dev", "eth0", "proto", "kernel", "scope", "link"]
            _run("ip", "-n", name, "route", "change", *route, "src", address, "congctl", "cubic")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for host in range(self._count):
            subprocess.run(["ip", "netns", "del", self._name(host)], capture_output=True)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True)

    def addresses(self) -> list[str]:
        self._next_port += 1  # The last one may still be closing.
        return [f"10.78.0.{host + 1}:{self._next_port}" for host in range(self._count)]

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self._name(host), *command]

    def set_rate(self, bits_per_s: float | None, *, only: int | None = None) -> None:
        for host in range(self._count) if only is None else [only]:
            inside = ["ip", "netns", "exec", self._name(host)]
            self._shape(inside, "eth0", bits_per_s)
            self._shape([], self._outside(host), bits_per_s)

    def link_bytes(self, host: int) -> tuple[int, int]:
        statistics = f"/sys/class/net/{self._outside(host)}/statistics"
        # What the host sends is what the switch's end receives.
        with open(f"{statistics}/rx_bytes") as out, open(f"{statistics}/tx_bytes") as into:
            return int(out.read()), int(into.read())

    def _shape(self, prefix: list[str], device: str, bits_per_s: float | None) -> None:
        qdisc = [*prefix, "tc", "qdisc"]
        if bits_per_s is None:
            subprocess.run([*qdisc, "del", "dev", device, "root"], capture_output=True)
            return
        # 10 ms of the rate, at least a whole packet, may leave at once; or as little as goes.
        share_s = 0.01 if self._packet_bytes == LARGEST_PACKET_BYTES else 0.001
        burst = max(self._packet_bytes, int(bits_per_s / 8 * share_s))
        limit = ["burst", str(burst), "latency", f"{self._queue_ms:g}ms"]
        rate = ["rate", f"{int(bits_per_s)}bit"]
        _run(*qdisc, "replace", "dev", device, "root", "tbf", *rate, *limit)

    def _name(self, host: int) -> str:
        return f"poseidon-{self._tag}-{host}"

    def _outside(self, host: int) -> str:
        return f"pv{self._tag}-{host}"


@final
class LoopbackHosts:
    """`count` hosts that are all this machine, unshaped."""

    is_shaped = False

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> LoopbackHosts:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def addresses(self) -> list[str]:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(self._count)]
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        for each in sockets:
            each.close()
        return addresses

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        return list(command)

    def set_rate(self, bits_per_s: float | None, *, only: int | None = None) -> None:
        if bits_per_s is not None:
            raise ValueError("the loopback interface is not shaped: run as root with iproute2")

    def link_bytes(self, host: int) -> tuple[int, int]:
        with open("/sys/class/net/lo/statistics/tx_bytes") as counter:
            num_bytes = int(counter.read())
        return num_bytes, num_bytes


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
