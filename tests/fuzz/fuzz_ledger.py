"""What holds for one end of a stream, whatever the other end says about what has come."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

from fuzz_choices import Choices
from fuzz_streams import MOST_EVENTS, unchanged_if_refused

from poseidon_tf.errors import ProtocolError
from poseidon_tf.transport.resuming import Ledger

_COUNT = struct.Struct("<Q")


def ledger(data: bytes) -> None:
    """One end; of the other one only what it says is known."""
    choices, end = Choices(data), Ledger()
    added: list[bytes] = []  # As they travel.
    num_heard = num_confirmed = 0

    def state() -> Any:
        return {
            name: list(value) if name in ("_unacknowledged", "_unsent") else value
            for name, value in vars(end).items()
        }

    for _ in range(MOST_EVENTS):
        if not choices:
            break
        match choices.of((*["hear"] * 8, "add", "add", "take", "take", "reconnect", "end")):
            case "hear":
                message = _message(choices, end)
                with contextlib.suppress(ProtocolError), unchanged_if_refused(state):
                    payload = end.hear(message)
                    if payload is not None:
                        assert payload == message.removeprefix(b"\0\0")
                    num_heard += payload is not None or message == b"\0e"
            case "add" if not end.has_ended:
                payload = choices.of((b"", b"\0", b"\0e", b"\0a12345678", b"x", b"frame"))
                added.append(b"\0\0" + payload if payload[:1] == b"\0" else payload)
                end.add(payload)
            case "take":
                taken = end.take()
                if isinstance(taken, bytes) and taken[:2] == b"\0a":
                    assert _COUNT.unpack(taken[2:]) == (num_heard,)
                else:
                    assert taken is None or taken in added
            case "reconnect":
                end.reconnect()
            case "end" if not end.has_ended:
                added.append(b"\0e")
                end.end()
        # Everything that was added is confirmed or still there, in order; nothing is counted twice.
        assert end.num_received == num_heard
        assert num_confirmed <= end.num_acknowledged <= len(added)
        num_confirmed = end.num_acknowledged
        assert list(end._unacknowledged) == added[num_confirmed:]
        unsent = list(end._unsent)
        assert unsent == added[len(added) - len(unsent) :]


def _message(choices: Choices, end: Ledger) -> bytes:
    match choices.of(("payload", "payload", "count", "count", "end", "garbage")):
        case "payload":
            return choices.of((b"", b"\1", b"\0\0", b"\0\0\0e", b"frame", b"\0x", b"\0"))
        case "count":
            sent = end._sent() if end.is_resumed else end._num_sent
            last = end.num_acknowledged
            count = choices.of((last, sent, last + 1, sent + 1, max(last - 1, 0), 2**64 - 1))
            return choices.mutated(b"\0a" + _COUNT.pack(count))
        case "end":
            return choices.mostly(b"\0e", b"\0e\0")
        case _:
            return choices.bytes(40)


TARGETS = {"ledger": ledger}
