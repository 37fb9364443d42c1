"""How long anything may take: what a user may set."""

from __future__ import annotations

from dataclasses import dataclass

from poseidon_tf.transport.connections import ConnectionSettings, Protocol
from poseidon_tf.transport.security import Security


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long anything may take, in seconds.

    Attributes:
      start_s: until every member has arrived, and until all workers agree on a plan.
      step_s: until a contribution that is waited for must have come.
      stall_report_s: until it is first reported who owes one.
      stall_repeat_s: from each such report to the next.
      verdict_s: how long a lost stream waits for the coordinator to say who died, and any other
        error for the one that all workers raise. Longer than `resume_s` and a third of
        `keepalive_s`: the coordinator's own stream to the dead member is lost that much later.
      leave_s: at the end, until the others have said goodbye.
      keepalive_s: silence after which a connection counts as broken; a third longer at the end that
        cannot make it again.
      resume_s: how long a broken connection may take to be made again, without loss, before the
        member at its other end counts as dead; 0 for not at all.
    """

    start_s: float = 120.0
    step_s: float = 600.0
    stall_report_s: float = 30.0
    stall_repeat_s: float = 60.0
    verdict_s: float = 15.0
    leave_s: float = 600.0
    keepalive_s: float = 30.0
    resume_s: float = 2.0

    def connections(
        self,
        security: Security = Security(),
        protocol: Protocol = "auto",
        ports: tuple[int, int] | None = None,
    ) -> ConnectionSettings:
        """How this process's connections behave, with these deadlines.

        Raises:
          ConfigError: TLS and `protocol` exclude each other.
        """
        return ConnectionSettings(
            keepalive_s=self.keepalive_s,
            resume_s=self.resume_s,
            security=security,
            protocol=protocol,
            lane_ports=ports,
        )
