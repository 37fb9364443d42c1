"""What rank 0's arguments say for servers, which may have none: told as it joins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

from poseidon_tf.errors import ProtocolError


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ToldServers:
    """Part of every worker's info; servers go by that of rank 0.

    Attributes:
      timeline_dir: where each process writes its trace when it ends; None for none.
      keepalive_s, resume_s: of rank 0's `Deadlines`; None where a worker says nothing of them.
    """

    timeline_dir: str | None
    keepalive_s: float | None
    resume_s: float | None

    def as_info(self) -> dict[str, Any]:
        """For a worker's info."""
        return asdict(self)

    @classmethod
    def read(cls, info: Mapping[str, Any]) -> ToldServers:
        """What rank 0 says in its info. Raises ProtocolError where that cannot be."""
        directory = info.get("timeline_dir")
        if not isinstance(directory, str | None):
            raise ProtocolError(f"rank 0's timeline_dir is {directory!r}, not a path")
        return cls(
            timeline_dir=directory,
            keepalive_s=_seconds(info, "keepalive_s"),
            resume_s=_seconds(info, "resume_s"),
        )


def _seconds(info: Mapping[str, Any], name: str) -> float | None:
    told = info.get(name)
    if told is None:
        return None
    is_number = isinstance(told, int | float) and not isinstance(told, bool)
    if not is_number or not 0 <= told < math.inf:
        raise ProtocolError(f"rank 0's {name} is {told!r}, not seconds")
    return float(told)
