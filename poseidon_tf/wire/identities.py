"""Tells one process from another that has its address in another run of the job.

Every process draws an identity when it starts, and the roster gives everyone's to all. So whoever
knows the identity of a peer is of the same run, and who was told another one is not.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from poseidon_tf.errors import ProtocolError

# The metadata of a stream that says whom its opener means.
TO = "to"


def new_identity() -> str:
    """An identity that no other process has."""
    return secrets.token_hex(8)


def check_meant(meant: str, own: str, who: str) -> None:
    """Raise ProtocolError unless `meant` is the identity of this process, which is `who`."""
    if meant != own:
        raise ProtocolError(f"this is {who} of another run of the job")


def check_stream(metadata: Mapping[str, str], own: str, who: str) -> None:
    """Raise ProtocolError unless the stream with this metadata is for this process."""
    check_meant(metadata.get(TO, ""), own, who)
