"""More processes than hosts: says on which host each of them runs."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import final

from lab.hosts import Hosts


@final
class Placed:
    """`hosts` as `Members` sees them, where process i runs on host `places[i]`.

    Whoever made `hosts` keeps them: leaving this one removes nothing.
    """

    def __init__(self, hosts: Hosts, places: Sequence[int]) -> None:
        self._hosts, self._places = hosts, places

    @property
    def is_shaped(self) -> bool:
        return self._hosts.is_shaped

    def __enter__(self) -> Placed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def addresses(self) -> list[str]:
        # Asked anew for each: two on one host must not get the same port.
        return [self._hosts.addresses()[place] for place in self._places]

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        return self._hosts.command(self._places[host], command)

    def set_rate(self, bits_per_s: float | None) -> None:
        self._hosts.set_rate(bits_per_s)

    def link_bytes(self, host: int) -> tuple[int, int]:
        return self._hosts.link_bytes(self._places[host])
