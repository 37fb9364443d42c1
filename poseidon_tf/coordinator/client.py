"""A member's side of the coordinator: arrive, gather, stop together, report a failure, leave.

This file speaks and waits; what comes back is kept in `hearing`. The callbacks run in the
stream's thread, so they must not call anything here that waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, final

from poseidon_tf.coordinator.codec import ATTEND, encode_member_message
from poseidon_tf.coordinator.hearing import Hearing
from poseidon_tf.coordinator.messages import (
    Announce,
    Gather,
    Goodbye,
    Join,
    MemberFailure,
    MemberMessage,
    Ping,
    Role,
    RosterView,
    StopOffer,
)
from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.errors import MemberError, PoseidonError, ProtocolError, StartTimeout, StepTimeout
from poseidon_tf.transport.channel import Channel
from poseidon_tf.transport.connections import ConnectionSettings
from poseidon_tf.transport.streams import Stream

NUM_PINGS = 8
# The coordinator's deadlines end first: it can say who was missing, this side cannot.
GRACE_S = 5.0
RETRY_S = 1.0


@final
class CoordinatorClient:
    """One member's connection to the coordinator, for the life of the job.

    Args:
      address: where worker rank 0 hosts the coordinator.
      role, rank, own_address, info: what the other members get to know; `info` must be JSON.
      num_workers, num_servers: P1 and P2 as this member was told.
      settings: how the connection behaves.
      on_failure: called once, if the job fails after `join` has returned and before this member
        said goodbye or reported a failure itself.
      on_left: called with (rank, last step) when another worker says goodbye.
      on_ended: called when all workers have.
      stop_timeout_s: how long the workers may take to agree on a stop.
      on_announced: called with (rank, topic, payload) of another worker's announcement.
      clock: this process's wall clock, in seconds.
      notice_period_s: seconds between two log lines while the coordinator cannot be reached.
    """

    def __init__(
        self,
        address: str,
        *,
        role: Role,
        rank: int,
        own_address: str,
        info: Mapping[str, Any],
        num_workers: int,
        num_servers: int,
        settings: ConnectionSettings = ConnectionSettings(),
        on_failure: Callable[[PoseidonError], None],
        on_left: Callable[[int, int], None] = lambda rank, last_step: None,
        on_ended: Callable[[], None] = lambda: None,
        stop_timeout_s: float = 600.0,
        on_announced: Callable[[int, str, bytes], None] = lambda rank, topic, payload: None,
        logger: logging.Logger | None = None,
        clock: Callable[[], float] = time.time,
        notice_period_s: float = 10.0,
    ) -> None:
        self._address = address
        self._join = Join(
            role=role,
            rank=rank,
            address=own_address,
            info=info,
            num_workers=num_workers,
            num_servers=num_servers,
        )
        self._clock = clock
        self._notice_period_s = notice_period_s
        self._log = logger or logging.getLogger("poseidon_tf")
        self._hearing = Hearing(
            address,
            num_workers=num_workers,
            num_servers=num_servers,
            on_failure=on_failure,
            on_left=on_left,
            on_ended=on_ended,
            on_offer=self._send,
            stopping=Stopping(timeout_s=stop_timeout_s),
            on_announced=on_announced,
            clock=clock,
            logger=self._log,
        )
        self._stop_timeout_s = stop_timeout_s
        self._channel = Channel(address, settings=settings)
        self._stream: Stream | None = None

    @property
    def clock_offset_s(self) -> float:
        """Seconds to add to this process's clock for the coordinator's; known after `join`."""
        return self._hearing.clock_offset_s

    @property
    def is_preempted(self) -> bool:
        """Whether the job has ended with workers that were asked to end before they were done."""
        return self._hearing.is_preempted

    @property
    def clock_round_trip_s(self) -> float:
        """The fastest round trip; the offset is right within half of it."""
        return self._hearing.round_trip_s

    def join(self, *, timeout_s: float) -> RosterView:
        """Arrive, and wait until everyone has.

        Raises:
          StartTimeout: the coordinator cannot be reached, or someone is missing.
          ConfigError: the coordinator refuses this member, or has another token or certificate.
          PoseidonError: whatever else the job failed with meanwhile.
        """
        started_s = time.monotonic()
        deadline_s = started_s + timeout_s
        next_notice_s = started_s + self._notice_period_s
        while True:
            patience_s = min(deadline_s, next_notice_s) - time.monotonic()
            if self._channel.wait_ready(timeout_s=max(patience_s, 0.0)):
                view = self._attend(timeout_s, deadline_s)
                if view is not None:
                    return view
                self._end_attempt(deadline_s)
            with self._hearing.changed:
                if self._hearing.failure is not None:
                    raise self._hearing.failure
            now_s = time.monotonic()
            if now_s >= deadline_s:
                raise StartTimeout(self._why_not_yet(f" in {timeout_s:g} s"))
            if now_s >= next_notice_s:
                next_notice_s = now_s + self._notice_period_s
                waited = f"{now_s - started_s:.0f} s of {timeout_s:g} s"
                self._log.warning("%s: %s", self._why_not_yet(), waited)

    def _why_not_yet(self, when: str = "") -> str:
        coordinator = f"the coordinator (worker rank 0 at {self._address})"
        if self._hearing.not_now:
            return f"{coordinator} began no new run of the job{when}: {self._hearing.not_now}"
        error = self._hearing.closed_error or self._channel.unready_reason
        reason = f" ({error})" if error else ""
        return f"{coordinator} cannot be reached{reason}{when}"

    def _end_attempt(self, deadline_s: float) -> None:
        """Let go of a stream over which there is no joining, and wait a moment."""
        assert self._stream is not None
        self._stream.close()
        if not self._stream.wait_ended(timeout_s=GRACE_S):
            self._stream.abort("trying again")
            self._stream.wait_ended(timeout_s=GRACE_S)
        with self._hearing.changed:
            left_s = deadline_s - time.monotonic()
            self._hearing.changed.wait_for(
                lambda: self._hearing.is_leaving or self._hearing.failure is not None,
                min(RETRY_S, max(left_s, 0.0)),
            )
            self._stream = None

    def _attend(self, timeout_s: float, deadline_s: float) -> RosterView | None:
        """Join over a new stream.

        None if what answered is no coordinator, one of an earlier run, or one that ended before
        everyone had arrived.
        """
        hearing = self._hearing
        hearing.begin_anew()
        with hearing.changed:
            self._stream = self._channel.open_stream(ATTEND, hearing)
            self._send(self._join)
            for num_pings in range(1, NUM_PINGS + 1):
                self._send(Ping(self._clock()))
                self._wait_start(deadline_s, num_pongs=num_pings, everyone=False)
            self._wait_start(deadline_s, num_pongs=NUM_PINGS, everyone=True)
            if hearing.failure is not None:
                raise hearing.failure
            if not hearing.is_closed and not hearing.not_now:
                if hearing.view is None:
                    last_notice = f": {hearing.last_notice}" if hearing.last_notice else ""
                    raise StartTimeout(
                        f"{self._join.key} reached the coordinator at {self._address}, but not "
                        f"everyone arrived in {timeout_s:g} s{last_notice}"
                    )
                hearing.is_joined = True
                return hearing.view
            if isinstance(hearing.closed_error, ProtocolError):
                raise hearing.closed_error
            return None

    def _wait_start(self, deadline_s: float, *, num_pongs: int, everyone: bool) -> None:
        hearing = self._hearing

        def is_over() -> bool:
            is_here = hearing.num_pongs >= num_pongs and (hearing.view is not None or not everyone)
            is_refused = bool(hearing.not_now) or hearing.failure is not None
            return is_here or is_refused or hearing.is_closed

        hearing.changed.wait_for(is_over, max(deadline_s + GRACE_S - time.monotonic(), 0.0))

    def resume_within(self, resume_s: float) -> None:
        """How long the connection may take to be made again, from now on; after `join`."""
        if self._stream is not None:
            self._stream.resume_within(resume_s)

    def gather(self, name: str, payload: bytes, *, timeout_s: float) -> list[bytes]:
        """Give `payload`, get every worker's in rank order. The name is free again afterwards.

        Args:
          name: what every worker has to do to come here, as in "worker rank 1 has to <name>".

        Raises:
          StepTimeout: a worker did not contribute in `timeout_s` seconds; the text names it.
          PoseidonError: whatever else the job failed with meanwhile.
        """
        hearing = self._hearing
        with hearing.changed:
            if hearing.failure is not None:
                raise hearing.failure
            if not hearing.is_joined or hearing.is_leaving or name in hearing.open_gathers:
                raise ProtocolError(f"gather {name!r}: open already, or {self._join.key} is out")
            hearing.open_gathers[name] = None
            self._send(Gather(name=name, payload=payload, timeout_s=timeout_s))
            hearing.changed.wait_for(
                lambda: hearing.open_gathers[name] or hearing.failure or hearing.is_closed,
                timeout_s + GRACE_S,
            )
            payloads = hearing.open_gathers.pop(name)
            if payloads is not None:
                return list(payloads)
            if hearing.failure is not None:
                raise hearing.failure
            if hearing.is_closed:
                raise hearing.loss()
        raise StepTimeout(
            f"waited for all workers to {name}: no word from the coordinator (worker rank 0 at "
            f"{self._address}) in {timeout_s:g} s"
        )

    @property
    def stopping(self) -> Stopping:
        """Where this worker is; only to be asked, and changed through `advance`."""
        return self._hearing.stopping

    def advance(self, event: Callable[[Stopping], StopOffer | None]) -> bool:
        """Tell `stopping` of one of its events; whether all workers stop here.

        Waits where this worker may not go on before it knows what was agreed.

        Raises:
          StepTimeout: some worker did not offer in time; the text names it.
          PoseidonError: whatever else the job failed with meanwhile.
        """
        with self._hearing.changed:
            self._wait_agreed()
            if (offer := event(self._hearing.stopping)) is not None:
                self._send(offer)
            self._wait_agreed()
            return self._hearing.stopping.is_due

    def _wait_agreed(self) -> None:
        hearing = self._hearing
        if not hearing.stopping.must_wait:
            return

        def is_over() -> bool:
            return not hearing.stopping.must_wait or hearing.is_closed or bool(hearing.failure)

        is_heard = hearing.changed.wait_for(is_over, self._stop_timeout_s + GRACE_S)
        if hearing.failure is not None:
            raise hearing.failure
        if hearing.is_closed:
            raise hearing.loss()
        if not is_heard:
            raise StepTimeout(
                "a stop of all workers: no word from the coordinator (worker rank 0 at "
                f"{self._address}) in {self._stop_timeout_s:g} s"
            )

    def announce(self, topic: str, payload: bytes) -> bool:
        """Tell the other workers, unless this member is leaving; waits for nothing.

        Returns:
          False if nobody was told: not everyone has arrived, or this member is leaving.
        """
        is_in = self._hearing.is_joined and not self._hearing.is_leaving
        if is_in:
            self._send(Announce(topic, payload))
        return is_in

    def give_up(self, error: PoseidonError, *, tell: bool = False) -> bool:
        """End a `join` that waits, with `error`; False if everyone has arrived already.

        Args:
          tell: whether it ends the job for those too who are here already.
        """
        with self._hearing.changed:
            if not self._hearing.is_joined and self._hearing.failure is None:
                self._hearing.failure = error
                if tell:
                    self._send(MemberFailure(str(error), type(error)))
                if self._stream is None:
                    self._channel.close()  # Nobody is there to tell; `join` waits for that.
                self._hearing.changed.notify_all()
            return not self._hearing.is_joined

    def wait_failed(self, *, timeout_s: float) -> bool:
        """Wait until the job has failed, as far as is known here, or this member is leaving."""
        hearing = self._hearing
        with hearing.changed:
            return hearing.changed.wait_for(
                lambda: hearing.failure is not None or hearing.is_leaving, timeout_s
            )

    def report_error(self, error: PoseidonError) -> bool:
        """End the job for everyone with `error`; of all reports the first one counts.

        `on_failure` gets the one that counted, so that all members raise the same.

        Returns:
          False if no answer can come: this member has not arrived, is leaving, or is cut off.
        """
        hearing = self._hearing
        with hearing.changed:
            if hearing.failure is not None:
                return True
            if not hearing.is_joined or hearing.is_leaving or hearing.is_closed:
                return False
        self._send(MemberFailure(str(error), type(error)))
        return True

    def end_waits(self, error: PoseidonError) -> None:
        """Whatever waits here, or will, raises `error`, unless the job has failed otherwise."""
        with self._hearing.changed:
            self._hearing.failure = self._hearing.failure or error
            self._hearing.changed.notify_all()

    def report_failure(self, text: str) -> None:
        """End the job for everyone, as this member has failed: the others raise MemberError.

        The first failure is the one that counts.
        """
        with self._hearing.changed:
            if self._hearing.failure is not None:
                return
            self._hearing.failure = MemberError(text)
            self._hearing.changed.notify_all()
        self._send(MemberFailure(text))

    def goodbye(
        self, last_step: int, *, preempted: bool = False, timeout_s: float = GRACE_S
    ) -> bool:
        """Leave in order after `last_step` (-1: none); False if it may not have been heard.

        Args:
          preempted: it leaves before it is done, having been asked to.
        """
        self._leave()
        if self._stream is None:
            return False
        if self._hearing.failure is None:
            self._send(Goodbye(last_step, preempted))
        self._stream.close()
        return self._stream.wait_ended(timeout_s=timeout_s) and self._hearing.closed_error is None

    def close(self, *, timeout_s: float = GRACE_S) -> None:
        """End the connection. Without a goodbye, to the others this is a lost member."""
        self._leave()
        if self._stream is not None:
            self._stream.close()
            if not self._stream.wait_ended(timeout_s=timeout_s):
                self._stream.abort("closing")
                self._stream.wait_ended(timeout_s=timeout_s)
        self._channel.close()

    def _leave(self) -> None:
        with self._hearing.changed:
            self._hearing.is_leaving = True
            self._hearing.changed.notify_all()

    def _send(self, message: MemberMessage) -> None:
        if self._stream is not None:
            self._stream.send(encode_member_message(message))
