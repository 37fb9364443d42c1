"""How this process's connections behave: one value, handed to every server and channel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """The same for all connections of a process.

    Attributes:
      keepalive_s: seconds of silence after which a connection counts as broken.
      resume_s: seconds for which a stream whose connection broke is taken up again, without loss,
        before its peer counts as lost; 0 for no longer than the connection.
    """

    keepalive_s: float = 30.0
    resume_s: float = 2.0
