"""What the job's tensors travel by: the argument, or else the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from poseidon_tf.errors import ConfigError
from poseidon_tf.transport.connections import Protocol

PROTOCOL = "POSEIDON_PROTOCOL"


def read_protocol(environ: Mapping[str, str], argument: Protocol | None = None) -> Protocol:
    """What `argument` says, or else POSEIDON_PROTOCOL, or else "auto".

    Raises:
      ConfigError: the variable names no protocol.
    """
    if argument is not None:
        return argument
    told = environ.get(PROTOCOL, "") or "auto"
    known: tuple[Protocol, ...] = get_args(Protocol)
    for protocol in known:
        if told == protocol:
            return protocol
    raise ConfigError(f"{PROTOCOL} must be one of {', '.join(known)}, got {told!r}")
