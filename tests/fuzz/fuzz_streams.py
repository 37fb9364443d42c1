"""Streams and a server without a socket, and how a refusal is judged.

A target is given bytes, makes events of them, and looks at the state before and after each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from poseidon_tf.errors import PoseidonError, ProtocolError
from poseidon_tf.transport.base import MessageQueue, Traffic
from poseidon_tf.wire.identities import TO

MOST_EVENTS = 64
IDENTITY = "0123456789abcdef"  # Of the process that is fuzzed.
OTHER_IDENTITIES = ("", "fedcba9876543210", IDENTITY + "0", "\0")


class Server:
    """What services ask of a server: it keeps their methods for the target to call."""

    def __init__(self) -> None:
        self.methods: dict[str, Any] = {}

    def add_unary(self, method: str, answer: Callable[[bytes], bytes]) -> None:
        self.methods[method] = answer

    def add_stream(
        self, method: str, accept: Callable[[Any], Any], *, with_lanes: bool = False
    ) -> None:
        self.methods[method] = accept


class Stream:
    """The accepting end of a stream that nobody reads from."""

    peer = "fuzzer"

    def __init__(self, metadata: dict[str, str]) -> None:
        self.metadata = metadata
        self.outgoing: Any = MessageQueue()
        self.traffic = Traffic()
        self.is_closed = False

    def send(self, message: bytes) -> None:
        self.outgoing.put(message)

    def close(self) -> None:
        self.is_closed = True
        self.outgoing.close()

    def abort(self, reason: str) -> None:
        self.close()


@contextlib.contextmanager
def unchanged_if_refused(state: Callable[[], Any]) -> Iterator[None]:
    """What raises has to be a ProtocolError, and must have changed nothing."""
    before = state()
    try:
        yield
    except ProtocolError:
        assert state() == before, f"a refusal changed {before} to {state()}"
        raise


class Streams:
    """Streams that are open, and what may be said on them."""

    def __init__(
        self, service: Any, accept: Callable[[Any], Any], state: Callable[[], Any]
    ) -> None:
        self._accept, self._state = accept, state
        self.open: list[Any] = []
        # Of a frame, what comes before a part that is refused has been taken.
        name = "take_part" if hasattr(service, "take_part") else "take"
        take = getattr(service, name)

        def checked(*args: Any, **options: Any) -> Any:
            with unchanged_if_refused(state):
                return take(*args, **options)

        setattr(service, name, checked)

    def accept(self, metadata: dict[str, str]) -> None:
        """Open one, if the service lets it: those that mean another process it must not let."""
        with contextlib.suppress(ProtocolError), unchanged_if_refused(self._state):
            self.open.append(self._accept(Stream(metadata)))
            assert metadata.get(TO) == IDENTITY, f"{metadata} was let in"

    def at(self, at: int) -> Any:
        """One that is open, if any is."""
        return self.open[at % len(self.open)] if self.open else None

    def say(self, at: int, message: bytes) -> None:
        """As the transport does: an error of the receiver ends its stream."""
        if not self.open:
            return
        receiver = self.open[at % len(self.open)]
        try:
            receiver.on_message(message)
        except ProtocolError as failure:
            self.end(at, failure)

    def end(self, at: int, error: PoseidonError | None) -> None:
        if self.open:
            self.open.pop(at % len(self.open)).on_closed(error)
