"""How this process's connections behave: one value, handed to every server and channel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """The same for all connections of a process.

    Attributes:
      keepalive_s: seconds of silence after which a peer counts as dead.
    """

    keepalive_s: float = 30.0
