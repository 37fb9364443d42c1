"""Hosts that are far apart: every packet between two of them takes its time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import final

# The switch of the tests: not every kernel has netem, which delays packets too.
sys.path.append(str(Path(__file__).resolve().parents[2]))
from tests.support.network import Network, Trouble

_PORT = 5000


@final
class FarHosts:
    """`count` hosts on a switch that is a thread of this process, and carries some 100 Mbit/s.

    Their TCP is CUBIC, as that of `NamespaceHosts`: BBR sends no faster than it has been asked to
    before, so that a few packets now and then take another way there and back.

    Args:
      delay_s: of every packet.
    """

    is_shaped = False

    def __init__(self, count: int, *, delay_s: float) -> None:
        self._network = Network(count)
        self._network.set_trouble(Trouble(delay_s=delay_s))
        self._next_port = _PORT

    def __enter__(self) -> FarHosts:
        self._network.__enter__()
        for name, address in zip(self._network.namespaces, self._network.addresses, strict=True):
            route = ["10.79.0.0/24", "dev", "eth0", "proto", "kernel", "scope", "link"]
            command = ["ip", "-n", name, "route", "change", *route, "src", address]
            subprocess.run([*command, "congctl", "cubic"], check=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._network.__exit__(kind, error, traceback)

    def addresses(self) -> list[str]:
        self._next_port += 1  # The last one may still be closing.
        return [f"{address}:{self._next_port}" for address in self._network.addresses]

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self._network.namespaces[host], *command]

    def set_rate(self, bits_per_s: float | None, *, only: int | None = None) -> None:
        if bits_per_s is not None:
            raise ValueError("links between far hosts are not shaped")

    def link_bytes(self, host: int) -> tuple[int, int]:
        raise NotImplementedError("nothing counts the bytes of links between far hosts")
