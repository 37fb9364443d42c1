"""Which sums a worker waits for from one server, by the numbers of their keys."""

from __future__ import annotations

from typing import final

from poseidon_tf.errors import ProtocolError
from poseidon_tf.session.syncers import Pair, ServerSyncer


@final
class ExpectedSums:
    """What comes from one server, on its way to the units that it belongs to.

    Args:
      who: the server, with its address.
    """

    def __init__(self, who: str) -> None:
        self.who = who
        self._units: dict[int, tuple[ServerSyncer, Pair]] = {}

    def add(self, syncer: ServerSyncer, pair: Pair) -> None:
        """Sums of this pair are the syncer's from now on."""
        self._units[pair.key] = (syncer, pair)

    def drop(self, syncer: ServerSyncer) -> None:
        """No more sums of this syncer's pairs are expected."""
        self._units = {key: each for key, each in self._units.items() if each[0] is not syncer}

    def unit(self, key: int) -> str:
        """The name of the unit that the key is of."""
        return self._units[key][0].name

    def room(self, key: int, step: int, num_bytes: int) -> memoryview | None:
        """Where a sum belongs; see `ServerSyncer.room`."""
        if key not in self._units:
            return None
        syncer, pair = self._units[key]
        return syncer.room(pair, step, num_bytes)

    def receive(self, key: int, step: int, payload: memoryview | None) -> None:
        """Take a sum; see `ServerSyncer.receive`.

        Raises:
          ProtocolError: no such sum is due; nothing has changed.
        """
        if key not in self._units:
            raise ProtocolError(
                f"{self.who} sent a sum of key number {key}, which this worker does not wait for"
            )
        syncer, pair = self._units[key]
        syncer.receive(pair, step, payload)
