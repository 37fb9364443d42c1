"""How workers are named in errors and reports: role, rank and address."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final


@final
class WorkerNames:
    """The workers of one job.

    Args:
      addresses: by rank; () where unknown.
    """

    def __init__(self, addresses: Sequence[str] = ()) -> None:
        self._addresses = tuple(addresses)

    def one(self, rank: int) -> str:
        """Worker `rank`, with its address."""
        known = 0 <= rank < len(self._addresses)
        return f"worker rank {rank}" + (f" ({self._addresses[rank]})" if known else "")

    def all_of(self, ranks: Iterable[int]) -> str:
        """Each of `ranks`, in their order."""
        return ", ".join(map(self.one, ranks))
