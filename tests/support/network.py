"""Hosts with addresses of their own, on a switch that can spoil what it carries.

Each host is a network namespace with one link. The switch is a thread here: it sees every packet
and delays, loses, doubles, reorders or corrupts it as a seed decides; netem does the same, but not
every kernel has it. Needs root, iproute2 and /dev/net/tun.

The kernel computes checksums for such links and checks them on arrival: nothing is offloaded, so a
corrupted packet reaches the other host's TCP as a network card would hand it over.
"""

from __future__ import annotations

import collections
import fcntl
import heapq
import itertools
import os
import random
import selectors
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from types import TracebackType

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_MAX_PACKET_BYTES = 65536
_IP_HEADER_BYTES = 20


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What happens to packets; shares are of all packets, 0 to 1.

    Attributes:
      delay_s, jitter_s: each packet is late by `delay_s` plus or minus up to `jitter_s` seconds.
      reorder: share of packets that are not late, and so overtake others.
      corrupt: share of packets of which one bit after the IP header is turned over.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0


class Network:
    """`num_hosts` hosts; a context manager that leaves nothing of them.

    Attributes:
      namespaces, addresses: of the hosts, in order.
      counts: what has happened to packets so far, by kind.
      captured: every packet that a host has sent from now on; None while nobody wants them.
    """

    def __init__(self, num_hosts: int, *, seed: int = 0) -> None:
        tag = f"{os.getpid() % 46656:x}"
        self.namespaces = [f"pt-{tag}-{host}" for host in range(num_hosts)]
        self.addresses = [f"10.79.0.{host + 1}" for host in range(num_hosts)]
        self.counts: collections.Counter[str] = collections.Counter()
        self.captured: list[bytes] | None = None
        self._trouble = Trouble()
        self._rng = random.Random(seed)
        self._deaf: set[int] = set()
        self._mute: set[int] = set()
        self._links: list[int] = []
        self._late: list[tuple[float, int, int, bytes]] = []  # Due, order, host, packet.
        self._order = itertools.count()
        self._is_over = False
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="poseidon-switch", daemon=True)

    def __enter__(self) -> Network:
        try:
            for host, name in enumerate(self.namespaces):
                _run("ip", "netns", "add", name)
                self._links.append(self._plug_in(host, name))
        except BaseException:
            self._remove()
            raise
        self._thread.start()
        return self

    def _plug_in(self, host: int, name: str) -> int:
        link = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(link, _TUNSETIFF, request)
        _run("ip", "link", "set", name, "netns", name)
        _run("ip", "-n", name, "link", "set", name, "name", "eth0")
        _run("ip", "-n", name, "addr", "add", f"{self.addresses[host]}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        return link

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over = True
        os.write(self._woken, b"!")
        self._thread.join()
        self._remove()

    def _remove(self) -> None:
        for each in (*self._links, self._wake, self._woken):
            os.close(each)
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def set_trouble(self, trouble: Trouble) -> None:
        """From now on this happens to packets of all links."""
        self._trouble = trouble

    def set_deaf(self, host: int, is_deaf: bool = True) -> None:
        """Drop every packet to `host`."""
        (self._deaf.add if is_deaf else self._deaf.discard)(host)

    def set_mute(self, host: int, is_mute: bool = True) -> None:
        """Drop every packet from `host`."""
        (self._mute.add if is_mute else self._mute.discard)(host)

    def set_link(self, host: int, *, is_up: bool) -> None:
        """Take the interface of `host` down, or up again."""
        _run("ip", "-n", self.namespaces[host], "link", "set", "eth0", "up" if is_up else "down")

    def reset_connections(self, host: int) -> int:
        """End every TCP connection of `host` with a reset; how many there were."""
        inside = ["ip", "netns", "exec", self.namespaces[host]]
        done = subprocess.run(
            [*inside, "ss", "--tcp", "--no-header", "--kill", "state", "established"],
            check=True,
            capture_output=True,
            text=True,
        )
        return len(done.stdout.splitlines())

    def tcp_count(self, host: int, name: str) -> int:
        """One of the kernel's counters of TCP on `host`, such as "InCsumErrors"."""
        inside = ["ip", "netns", "exec", self.namespaces[host]]
        done = subprocess.run(
            [*inside, "cat", "/proc/net/snmp"], check=True, capture_output=True, text=True
        )
        names, values = (ln.split() for ln in done.stdout.splitlines() if ln.startswith("Tcp:"))
        return int(values[names.index(name)])

    def _carry(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            for host, link in enumerate(self._links):
                selector.register(link, selectors.EVENT_READ, host)
            while not self._is_over:
                for key, _ in selector.select(self._patience_s()):
                    if key.data is not None:
                        self._take_all(key.data)
                now_s = time.monotonic()
                while self._late and self._late[0][0] <= now_s:
                    _, _, host, packet = heapq.heappop(self._late)
                    self._hand_over(host, packet)

    def _patience_s(self) -> float | None:
        return max(0.0, self._late[0][0] - time.monotonic()) if self._late else None

    def _take_all(self, host: int) -> None:
        while True:
            try:
                packet = os.read(self._links[host], _MAX_PACKET_BYTES)
            except OSError:  # Nothing more, or the host's interface is down.
                return
            if self.captured is not None:
                self.captured.append(packet)
            is_ipv4 = packet[0] >> 4 == 4
            to = packet[_IP_HEADER_BYTES - 1] - 1
            if is_ipv4 and to < len(self._links) and host not in self._mute:
                self._spoil(to, packet)

    def _spoil(self, to: int, packet: bytes) -> None:
        trouble, rng = self._trouble, self._rng
        self.counts["packets"] += 1
        if rng.random() < trouble.loss:
            self.counts["lost"] += 1
            return
        if rng.random() < trouble.corrupt:
            self.counts["corrupted"] += 1
            spoilt = bytearray(packet)
            spoilt[rng.randrange(_IP_HEADER_BYTES, len(packet))] ^= 1 << rng.randrange(8)
            packet = bytes(spoilt)
        copies = 1
        if rng.random() < trouble.duplicate:
            self.counts["doubled"] += 1
            copies = 2
        late_s = max(0.0, trouble.delay_s + rng.uniform(-1.0, 1.0) * trouble.jitter_s)
        if rng.random() < trouble.reorder:
            self.counts["reordered"] += 1
            late_s = 0.0
        for _ in range(copies):
            if late_s:
                due_s = time.monotonic() + late_s
                heapq.heappush(self._late, (due_s, next(self._order), to, packet))
            else:
                self._hand_over(to, packet)

    def _hand_over(self, to: int, packet: bytes) -> None:
        if to in self._deaf:
            return
        try:
            os.write(self._links[to], packet)
        except OSError:  # Its interface is down, or its queue is full: lost, as on a wire.
            self.counts["refused"] += 1


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
