"""The largest of everything that members may say to the coordinator, checked before it is kept."""

from __future__ import annotations

from poseidon_tf.coordinator.messages import (
    Announce,
    Figures,
    Gather,
    Join,
    MemberFailure,
    MemberMessage,
    ServerFigures,
)
from poseidon_tf.errors import ProtocolError
from poseidon_tf.transport.base import MAX_MESSAGE_BYTES, shortened

# A host's name has at most 253 characters; then come brackets, a colon and a port.
MAX_ADDRESS_CHARS = 300
# A member's info goes to every other member, all in one message.
MAX_INFO_BYTES = 64 * 1024
# Names are made of variables' paths and places in programs.
MAX_NAME_CHARS = 1024
# Of an error's text: enough for a traceback. Longer ones are cut where they are made.
MAX_TEXT_CHARS = 16 * 1024
# Workers announce counters.
MAX_ANNOUNCE_BYTES = 64 * 1024
# Of one worker in one round of a gather. Longer ones take more time for each byte: whoever gets
# them gets them into memory that it has not used before.
MAX_PIECE_BYTES = 1024 * 1024
# All parts of a round go back in one message, which also holds their names and lengths.
MAX_GATHER_BYTES = MAX_MESSAGE_BYTES - 1024 * 1024
# A worker waits for each of its gathers, so a few threads of it make a few.
MAX_OPEN_GATHERS = 64
# Pings of whoever has not joined: a member sends eight, and every one is answered.
MAX_STRANGER_PINGS = 64


def check(message: MemberMessage) -> None:
    """Raise ProtocolError if a part of `message` is larger than it may be."""
    match message:
        case Join():
            _at_most(len(message.address), MAX_ADDRESS_CHARS, "an address of {} characters")
        case Gather():
            _at_most(len(message.name), MAX_NAME_CHARS, "a gather whose name has {} characters")
            _at_most(len(message.payload), MAX_PIECE_BYTES, "a gather of {} bytes")
        case MemberFailure(text):
            _at_most(len(text), MAX_TEXT_CHARS, "a failure told in {} characters")
        case Announce(topic, payload):
            _at_most(len(topic), MAX_NAME_CHARS, "a topic of {} characters")
            _at_most(len(payload), MAX_ANNOUNCE_BYTES, "an announcement of {} bytes")
        case Figures() | ServerFigures():
            _at_most(len(message.waits_for), MAX_NAME_CHARS, "a wait told in {} characters")


def piece_bytes(num_workers: int) -> int:
    """How much each of the workers may say in one round of a gather."""
    return min(MAX_PIECE_BYTES, MAX_GATHER_BYTES // num_workers)


def cut_text(text: str) -> str:
    """`text`, or its beginning where it is longer than may be sent."""
    return shortened(text, most_chars=MAX_TEXT_CHARS)


def _at_most(size: int, limit: int, what: str) -> None:
    if size > limit:
        raise ProtocolError(f"{what.format(size)}; at most {limit} are allowed")
