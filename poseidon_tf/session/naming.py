"""How workers are named in errors and reports: role, rank and address."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final


@final
class WorkerNames:
    """The workers of one job.

    Args:
      addresses: by rank; () or "" where unknown.
    """

    def __init__(self, addresses: Sequence[str] = ()) -> None:
        self._addresses = tuple(addresses)

    def learn(self, addresses: Sequence[str]) -> None:
        """Everybody's address, known from now on."""
        self._addresses = tuple(addresses)

    def one(self, rank: int) -> str:
        """Worker `rank`, with its address."""
        address = self._addresses[rank] if 0 <= rank < len(self._addresses) else ""
        return f"worker rank {rank}" + (f" ({address})" if address else "")

    def all_of(self, ranks: Iterable[int]) -> str:
        """Each of `ranks`, in their order."""
        return ", ".join(map(self.one, ranks))
