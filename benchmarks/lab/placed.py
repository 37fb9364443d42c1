"""Hosts that somebody else keeps, seen in another way by those who run processes on them."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import final

from lab.hosts import Hosts


class Borrowed:
    """`hosts` as they are. Whoever made them keeps them: leaving this one removes nothing."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    @property
    def is_shaped(self) -> bool:
        return self._hosts.is_shaped

    def __enter__(self) -> Borrowed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def addresses(self) -> list[str]:
        return self._hosts.addresses()

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        return self._hosts.command(host, command)

    def set_rate(self, bits_per_s: float | None, *, only: int | None = None) -> None:
        self._hosts.set_rate(bits_per_s, only=only)

    def link_bytes(self, host: int) -> tuple[int, int]:
        return self._hosts.link_bytes(host)


@final
class Placed(Borrowed):
    """More processes than hosts: process i runs on host `places[i]`."""

    def __init__(self, hosts: Hosts, places: Sequence[int]) -> None:
        super().__init__(hosts)
        self._places = places

    def addresses(self) -> list[str]:
        # Asked anew for each: two on one host must not get the same port.
        return [self._hosts.addresses()[place] for place in self._places]

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        return super().command(self._places[host], command)

    def link_bytes(self, host: int) -> tuple[int, int]:
        return super().link_bytes(self._places[host])
