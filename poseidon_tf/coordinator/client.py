"""A member's side of the coordinator: arrive, gather, stop together, report a failure, leave.

How far the member has come, and what it was told, is kept in `presence`; what the job fails of, in
`job_failure`. Both are waited for under the lock of the latter. The callbacks run in the stream's
thread, without that lock, so they must not call anything here that waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, final

from poseidon_tf.coordinator.codec import ATTEND, decode_coordinator_message, encode_member_message
from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.coordinator.messages import (
    Announce,
    Announced,
    Ended,
    Gather,
    Goodbye,
    Join,
    Left,
    MemberFailure,
    MemberMessage,
    Notice,
    Ping,
    Role,
    RosterView,
    StopOffer,
    Told,
)
from poseidon_tf.coordinator.presence import Presence, State, Step
from poseidon_tf.coordinator.stopping import Stopping
from poseidon_tf.errors import PoseidonError, ProtocolError, StartTimeout, StepTimeout
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
      job_failure: gets the coordinator's word on what the job fails of, and its loss, until this
        member leaves; what is reported there is told to the coordinator.
      settings: how the connection behaves.
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
        job_failure: JobFailure,
        settings: ConnectionSettings = ConnectionSettings(),
        on_left: Callable[[int, int], None] = lambda rank, last_step: None,
        on_ended: Callable[[], None] = lambda: None,
        stop_timeout_s: float = 600.0,
        on_announced: Callable[[int, str, bytes], None] = lambda rank, topic, payload: None,
        logger: logging.Logger | None = None,
        clock: Callable[[], float] = time.time,
        notice_period_s: float = 10.0,
    ) -> None:
        self.job_failure = job_failure
        self._name = f"the coordinator (worker rank 0 at {address})"
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
        self._on_left, self._on_ended, self._on_announced = on_left, on_ended, on_announced
        self._stop_timeout_s = stop_timeout_s
        self._changed = job_failure.changed
        self._presence = Presence(
            num_workers=num_workers,
            num_servers=num_servers,
            stopping=Stopping(timeout_s=stop_timeout_s),
        )
        self._channel = Channel(address, settings=settings)
        self._stream: Stream | None = None
        job_failure.ask = self._report
        job_failure.on_set.append(self._stop_connecting)

    @property
    def is_arriving(self) -> bool:
        """Whether this member has yet to see that everyone is here."""
        return self._presence.is_arriving

    @property
    def clock_offset_s(self) -> float:
        """Seconds to add to this process's clock for the coordinator's; known after `join`."""
        return self._presence.clock_offset_s

    @property
    def is_preempted(self) -> bool:
        """Whether the job has ended with workers that were asked to end before they were done."""
        return self._presence.is_preempted

    @property
    def clock_round_trip_s(self) -> float:
        """The fastest round trip; the offset is right within half of it."""
        return self._presence.round_trip_s

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
            if self.job_failure.cause is not None:
                raise self.job_failure.cause
            now_s = time.monotonic()
            if now_s >= deadline_s:
                raise StartTimeout(self._why_not_yet(f" in {timeout_s:g} s"))
            if now_s >= next_notice_s:
                next_notice_s = now_s + self._notice_period_s
                waited = f"{now_s - started_s:.0f} s of {timeout_s:g} s"
                self._log.warning("%s: %s", self._why_not_yet(), waited)

    def _why_not_yet(self, when: str = "") -> str:
        if self._presence.not_now:
            return f"{self._name} began no new run of the job{when}: {self._presence.not_now}"
        error = self._presence.closed_error or self._channel.unready_reason
        reason = f" ({error})" if error else ""
        return f"{self._name} cannot be reached{reason}{when}"

    def _end_attempt(self, deadline_s: float) -> None:
        """Let go of a stream over which there is no joining, and wait a moment."""
        self._end_stream("trying again", timeout_s=GRACE_S)
        with self._changed:
            left_s = deadline_s - time.monotonic()
            self._changed.wait_for(
                lambda: self._presence.is_leaving or self.job_failure.cause is not None,
                min(RETRY_S, max(left_s, 0.0)),
            )
            self._stream = None

    def _attend(self, timeout_s: float, deadline_s: float) -> RosterView | None:
        """Join over a new stream.

        None if what answered is no coordinator, one of an earlier run, or one that ended before
        everyone had arrived.
        """
        presence = self._presence
        with self._changed:
            presence.open()
            self._stream = self._channel.open_stream(ATTEND, self)
            self._send(self._join)
            for num_pings in range(1, NUM_PINGS + 1):
                self._send(Ping(self._clock()))
                self._wait_start(deadline_s, num_pongs=num_pings, everyone=False)
            self._wait_start(deadline_s, num_pongs=NUM_PINGS, everyone=True)
            if self.job_failure.cause is not None:
                raise self.job_failure.cause
            if (presence.has_stream or presence.saw_the_end) and not presence.not_now:
                if presence.view is None:
                    last_notice = f": {presence.last_notice}" if presence.last_notice else ""
                    raise StartTimeout(
                        f"{self._join.key} reached the coordinator at {self._address}, but not "
                        f"everyone arrived in {timeout_s:g} s{last_notice}"
                    )
                presence.take(Step.JOIN)
                return presence.view
            if isinstance(presence.closed_error, ProtocolError):
                raise presence.closed_error
            return None

    def _wait_start(self, deadline_s: float, *, num_pongs: int, everyone: bool) -> None:
        presence = self._presence

        def is_over() -> bool:
            is_here = presence.num_pongs >= num_pongs and not (everyone and presence.view is None)
            is_refused = bool(presence.not_now) or self.job_failure.cause is not None
            return is_here or is_refused or not presence.has_stream

        self._changed.wait_for(is_over, max(deadline_s + GRACE_S - time.monotonic(), 0.0))

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
        gathers = self._presence.open_gathers
        with self._changed:
            if self.job_failure.cause is not None:
                raise self.job_failure.cause
            if self._presence.state is not State.JOINED or name in gathers:
                raise ProtocolError(f"gather {name!r}: open already, or {self._join.key} is out")
            gathers[name] = None
            self._send(Gather(name=name, payload=payload, timeout_s=timeout_s))
            what = f"waited for all workers to {name}"
            try:
                self._wait(lambda: gathers[name] is not None, what, timeout_s)
            finally:
                payloads = gathers.pop(name)
        assert payloads is not None
        return list(payloads)

    @property
    def stopping(self) -> Stopping:
        """Where this worker is; only to be asked, and changed through `advance`."""
        return self._presence.stopping

    def advance(self, event: Callable[[Stopping], StopOffer | None]) -> bool:
        """Tell `stopping` of one of its events; whether all workers stop here.

        Waits where this worker may not go on before it knows what was agreed.

        Raises:
          StepTimeout: some worker did not offer in time; the text names it.
          PoseidonError: whatever else the job failed with meanwhile.
        """
        with self._changed:
            self._wait_agreed()
            if (offer := event(self.stopping)) is not None:
                self._send(offer)
            self._wait_agreed()
            return self.stopping.is_due

    def _wait_agreed(self) -> None:
        what = "a stop of all workers"
        self._wait(lambda: not self.stopping.must_wait, what, self._stop_timeout_s)

    def _wait(self, is_here: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Until the coordinator's answer `is_here`. Raises what `gather` does."""
        self._changed.wait_for(lambda: is_here() or self._end() is not None, timeout_s + GRACE_S)
        if not is_here():
            late = StepTimeout(f"{what}: no word from {self._name} in {timeout_s:g} s")
            raise self._end() or late

    def _end(self) -> PoseidonError | None:
        """Why no answer of the coordinator comes any more, where none does."""
        job_failure = self.job_failure
        if job_failure.cause is not None:
            return job_failure.cause
        if self._presence.is_leaving and job_failure.given_up is not None:
            return job_failure.given_up
        return None if self._presence.has_stream else self._presence.loss(self._name)

    def announce(self, topic: str, payload: bytes) -> bool:
        """Tell the other workers something; see `tell`."""
        return self.tell(Announce(topic, payload))

    def tell(self, message: Told) -> bool:
        """Say what nobody waits for; False if nobody is told: not all are here, or it leaves."""
        # Without the lock: a signal's handler calls this.
        is_in = self._presence.state is State.JOINED
        if is_in:
            self._send(message)
        return is_in

    def goodbye(
        self, last_step: int, *, preempted: bool = False, timeout_s: float = GRACE_S
    ) -> bool:
        """Leave in order after `last_step` (-1: none), or say why not, where this gives up.

        False if it may not have been heard.

        Args:
          preempted: it leaves before it is done, having been asked to.
        """
        self._leave(Goodbye(last_step, preempted))
        if self._stream is None:
            return False
        self._stream.close()
        return self._stream.wait_ended(timeout_s=timeout_s) and self._presence.closed_error is None

    def close(self, *, timeout_s: float = GRACE_S) -> None:
        """End the connection, and say why, where this gives up.

        Without a word of that, and without a goodbye, to the others this is a lost member.
        """
        self._leave()
        self._end_stream("closing", timeout_s=timeout_s)
        self._channel.close()

    def _end_stream(self, why: str, *, timeout_s: float) -> None:
        if self._stream is not None:
            self._stream.close()
            if not self._stream.wait_ended(timeout_s=timeout_s):
                self._stream.abort(why)
                self._stream.wait_ended(timeout_s=timeout_s)

    def _leave(self, goodbye: Goodbye | None = None) -> None:
        """From now on the end of the stream is no surprise. The coordinator hears one last word."""
        job_failure, presence = self.job_failure, self._presence
        with self._changed:
            presence.take(Step.LEAVE)
            if presence.has_told:
                pass  # One failure of a job is enough, and no goodbye follows it.
            elif job_failure.given_up is not None:
                presence.has_told = True
                self._send(MemberFailure(str(job_failure.given_up)))
            elif goodbye is not None and job_failure.cause is None:
                self._send(goodbye)
            self._changed.notify_all()

    def _report(self, error: PoseidonError) -> bool:
        """Tell the coordinator of `error`; False if it will not answer: not everyone has arrived,
        this member is leaving, or is cut off."""
        with self._changed:
            state = self._presence.state
            if state in (State.ARRIVING, State.JOINED):
                self._presence.has_told = True
                self._send(MemberFailure(str(error), type(error)))
            return state is State.JOINED

    def _stop_connecting(self) -> None:
        with self._changed:
            if self._presence.state is State.NEW:
                self._channel.close()  # Nobody is there to tell; `join` waits for that.

    def _send(self, message: MemberMessage) -> None:
        if self._stream is not None:
            self._stream.send(encode_member_message(message))

    def on_message(self, message: bytes) -> None:
        """One message from the coordinator; only the stream's thread calls this.

        Raises:
          ProtocolError: it is none, or of another cluster; then nothing has changed.
        """
        arrived_s = self._clock()
        heard = decode_coordinator_message(message)
        with self._changed:
            result = self._presence.hear(heard, arrived_s)
            if isinstance(result, StopOffer):
                # Under the lock: what this worker does next must not overtake it.
                self._send(result)
            self._changed.notify_all()
        match heard:
            case Notice(text):
                self._log.warning("%s", text)
            case Left():
                self._on_left(heard.rank, heard.last_step)
            case Ended():
                self._on_ended()
            case Announced():
                self._on_announced(heard.rank, heard.topic, heard.payload)
        if isinstance(result, PoseidonError):
            self.job_failure.settle(result)

    def on_closed(self, error: Exception | None) -> None:
        """The stream has ended; only its thread calls this."""
        with self._changed:
            is_surprise = self._presence.end(error)
            self._changed.notify_all()
        if is_surprise:
            self.job_failure.settle(self._presence.loss(self._name))
