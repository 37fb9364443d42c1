"""One worker's communication for the life of a job: routes, steps, waits.

Every way to lose a step ends here: what the job fails of is handed to everything that waits and to
everything that will, together with where this worker was. A wait that nobody ends is ended by the
watch, which looks at the oldest wait and names who owes the contribution.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Protocol, final

from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.errors import NumericsError, PeerLost, PoseidonError, StepTimeout
from poseidon_tf.session import numerics
from poseidon_tf.session.deadlines import Deadlines
from poseidon_tf.session.naming import WorkerNames
from poseidon_tf.session.replicas import ReplicaJoin
from poseidon_tf.session.step_times import Medians, StepTimes, medians
from poseidon_tf.session.syncers import Syncer
from poseidon_tf.session.waits import OtherWait, StallReports, awaited, lasting, listed, situation
from poseidon_tf.trace import Recorder
from poseidon_tf.wire.dtypes import Array

_log = logging.getLogger("poseidon_tf")


class Deliver(Protocol):
    """Where results go. Called on a reading thread; must not block."""

    def __call__(self, step: int, results: list[Array], error: str) -> None: ...


@final
class Route:
    """One unit's way through the session; its step is the first one plus the pushes so far.

    Args:
      join: what the worker's replicas contribute becomes one contribution of the worker.
      variables: whose gradients travel this way; () for what belongs to none.
      contents: what each array of a contribution is, in words.
      is_gradient: whether its steps are those of the training.
      first_step: as `join` has it.
    """

    def __init__(
        self,
        session: Session,
        syncer: Syncer,
        deliver: Deliver,
        join: ReplicaJoin,
        *,
        variables: Sequence[str] = (),
        contents: Sequence[str] = (),
        is_gradient: bool = True,
        first_step: int = 0,
    ) -> None:
        self.is_gradient = is_gradient
        self.variables = tuple(variables) or (syncer.name,)
        self._contents = tuple(contents)
        self.syncer = syncer
        self.deliver = deliver
        self.first_step = self.next_step = first_step
        self._checked: set[int] = set()  # Steps that wait for a sum that is looked at.
        self._session, self._join = session, join
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.syncer.name

    @property
    def num_pushes(self) -> int:
        """Steps that have begun on it."""
        return self.next_step - self.first_step

    def push(
        self, arrays: Sequence[Array], replica: int | None = None, *, check: bool = False
    ) -> int:
        """Contribute; the result or the session's failure is delivered later. Never blocks.

        The wait begins with the first replica's contribution; the last one completes the worker's.

        Args:
          replica: whose contribution it is; None where it stands for all of this worker's.
          check: fail the session instead if a number in it is not finite; and if one in its sum is
            not, where the sum's type is so small that it may overflow.
        """
        with self._lock:
            step, is_first, joined = self._join.add(replica, arrays)
            if is_first:
                self.next_step = step + 1
                is_open = self._session.begin(self, step)
            else:
                is_open = self._session.is_open
            if is_open and check and (fault := self._fault(arrays)):
                which = f", replica {replica}" * (replica is not None)
                self._session.fail(
                    NumericsError(f"{self._session.name}{which}, step {step}: {fault}")
                )
            elif is_open and joined is not None:
                if check:
                    self._checked.add(step)
                try:
                    self.syncer.send(step, joined)
                except Exception as failure:
                    self._session.fail(PoseidonError(f"push of {self.name!r}: {failure!r}"))
        return step

    def _fault(self, arrays: Sequence[Array]) -> str:
        """What is not finite in `arrays`; empty if everything is."""
        for at, array in enumerate(arrays):
            if fault := numerics.fault(array):
                known = at < len(self._contents)
                what = self._contents[at] if known else f"the contribution to {self.name!r}"
                return f"{what} is not finite: {fault}{numerics.advice(array)}"
        return ""

    def overflow(self, step: int, results: Sequence[Array]) -> str:
        """What is not finite in the results of finite contributions; empty if nobody asked."""
        if step not in self._checked:
            return ""
        self._checked.discard(step)
        for array in results:
            if numerics.may_overflow(array) and (fault := numerics.fault(array)):
                what = f"the sum over all workers for {listed(self.variables)}"
                return f"{what} is not finite: {fault}{numerics.advice(array)}"
        return ""

    def missing_replicas(self) -> dict[int, list[int]]:
        """By step: the replicas of this worker that others wait for."""
        with self._lock:
            return self._join.missing()


@final
class Session:
    """Routes of one worker.

    Args:
      rank: this worker's.
      names: of all workers.
      describe_missing: says who owes contributions now, for reports; empty if unknown.
      last_step: the last step that this worker has begun; -1 before the first.
      job_failure: why this worker cannot go on, if it cannot; its text ends with `situation`.

    Attributes:
      name: this worker's, with its address.
      fail, fail_together: those of `job_failure`.
      on_left: called with the rank of a worker that has said goodbye.
    """

    def __init__(
        self,
        *,
        rank: int,
        deadlines: Deadlines,
        recorder: Recorder,
        names: WorkerNames,
        describe_missing: Callable[[], str] = lambda: "",
        last_step: Callable[[], int] = lambda: -1,
        job_failure: JobFailure,
    ) -> None:
        self.rank, self.name = rank, names.one(rank)
        self.recorder = recorder
        self.deadlines = deadlines
        self.job_failure = job_failure
        self.fail, self.fail_together = job_failure.fail, job_failure.fail_together
        self._describe_missing = describe_missing
        self._last_step = last_step
        self._lock = threading.Lock()
        self._left: set[int] = set()
        self._waiting: dict[tuple[Route, int], float] = {}
        self._other_waits: list[OtherWait] = []
        self._times = StepTimes()
        self._closing = threading.Event()
        self.on_left: list[Callable[[int], None]] = []
        self._watch_thread = threading.Thread(
            target=self._watch, name="poseidon-watch", daemon=True
        )
        self._watch_thread.start()
        job_failure.on_set.append(self._end_waits)

    @property
    def failure(self) -> PoseidonError | None:
        """Why this worker cannot go on, if it cannot."""
        return self.job_failure.failure

    @property
    def waited_s(self) -> float:
        """Seconds in which all gradients of a step were sent and some sum was still missing."""
        with self._lock:
            return self._times.waiting_s

    @property
    def communicated_s(self) -> float:
        """Seconds in which some gradient was on its way."""
        with self._lock:
            return self._times.communicating_s

    @property
    def steps(self) -> int:
        """How many training steps this worker has begun, of all its models."""
        with self._lock:
            return self._times.steps

    def interrupt_steps(self) -> None:
        """The next gradient begins another step; the time until it is no step's."""
        with self._lock:
            self._times.interrupt()

    def contributed_s(self) -> Mapping[Hashable, float]:
        """By route: how long after a step's first gradient it contributed in the last steps."""
        with self._lock:
            return self._times.contributed_s()

    def step_times(self, most_steps: int | None = None) -> Medians:
        """Of the last `most_steps` steps, and of the last 1000 at most."""
        with self._lock:
            recent = self._times.recent
        return medians(recent if most_steps is None else recent[max(0, len(recent) - most_steps) :])

    @property
    def oldest_wait_s(self) -> float:
        """For how many seconds this worker has waited for its oldest sum; 0 if for none."""
        with self._lock:
            return time.monotonic() - min(self._waiting.values()) if self._waiting else 0.0

    @property
    def is_open(self) -> bool:
        """Whether contributions may leave: not once this worker has said that it gives up.

        They would be those of steps that never came to an end here, and others would take them
        for the contributions that they still wait for.
        """
        return self.job_failure.is_open

    def begin(self, route: Route, step: int) -> bool:
        """A push of `route` begins; False if it must not be sent, and an error is delivered.

        At once if the session failed, else when it is known what the job failed of.
        """
        self.recorder.event("gradient ready", route.name, step)
        with self._lock:
            failure, is_open = self.failure, self.is_open
            if failure is None:
                now_s = self._waiting[route, step] = time.monotonic()
                if route.is_gradient:
                    self._times.begin(route, now_s)
        if failure is not None:
            route.deliver(step, [], str(failure))
        return is_open

    def done(self, route: Route, step: int, results: list[Array]) -> None:
        """The results of `route` for `step` are complete."""
        self.recorder.event("received", route.name, step)
        if overflow := route.overflow(step, results):
            self.fail(NumericsError(f"{self.name}, step {step}: {overflow}"))
            return
        with self._lock:
            was_waiting = self._waiting.pop((route, step), None)
            if was_waiting is not None and route.is_gradient:
                self._times.end(time.monotonic())
        if was_waiting is not None:
            route.deliver(step, results, "")

    @contextlib.contextmanager
    def waiting_for(self, what: str, owing: Callable[[], str] | None = None) -> Iterator[None]:
        """Within: this worker waits for `what`, which is not the sum of a route.

        Args:
          owing: who lets it wait, for the watch's reports; None where somebody else reports it.
        """
        deadlines = self.deadlines
        wait = OtherWait(
            what,
            owing,
            since_s=time.monotonic(),
            first_s=deadlines.stall_report_s,
            repeat_s=deadlines.stall_repeat_s,
        )
        with self._lock:
            self._other_waits.append(wait)
        try:
            yield
        finally:
            with self._lock:
                self._other_waits.remove(wait)

    def situation(self) -> str:
        """Where this worker is, and what it waits for, in words."""
        return situation(self.rank, self._last_step(), *self._waits())

    def last_events(self, why: str) -> str:
        """Writes this worker's last events; where they are, as the end of a text, or ""."""
        path = self.recorder.dump(why)
        return f"; its last events are in {path}" if path is not None else ""

    def waits_for(self) -> str:
        """What this worker waits for, in words; empty if for nothing."""
        return awaited(*self._waits())

    def _waits(self) -> tuple[list[str], list[str]]:
        with self._lock:
            names = [name for route, _ in self._waiting for name in route.variables]
            others = [wait.what for wait in self._other_waits]
        return list(dict.fromkeys(names)), others

    def _end_waits(self) -> None:
        with self._lock:
            waiting, self._waiting = list(self._waiting), {}
        for route, step in waiting:
            route.deliver(step, [], str(self.failure))

    def lost(self, peer: int | None, error: Exception, *, who: str) -> None:
        """A stream broke (of worker `peer`, or of a server); the coordinator may know why.

        A refusal fails at once. A broken connection waits a moment for the coordinator, which
        sees who died; a peer that has said goodbye may close its connections.

        Args:
          who: the peer's role, rank and address.
        """
        named = (
            type(error)(f"{who}: {error}")
            if isinstance(error, PoseidonError)
            else PoseidonError(f"{who}: {error!r}")
        )
        named.__cause__ = error
        is_excused = (
            functools.partial(self._has_left, peer) if isinstance(named, PeerLost) else None
        )
        self.job_failure.fail(named, unless=is_excused)

    def _has_left(self, peer: int | None) -> bool:
        return peer is not None and peer in self._left

    def peer_left(self, rank: int) -> None:
        """Worker `rank` has said goodbye."""
        with self._lock:
            self._left.add(rank)
        for callback in self.on_left:
            callback(rank)

    def close(self) -> None:
        """Stop watching; what breaks from now on is no surprise."""
        self.job_failure.leave()
        self._closing.set()
        self._watch_thread.join()

    def _watch(self) -> None:
        deadlines = self.deadlines
        stalls = StallReports(
            first_s=deadlines.stall_report_s,
            repeat_s=deadlines.stall_repeat_s,
            end_s=deadlines.step_s,
        )
        while not self._closing.wait(min(1.0, deadlines.step_s / 4)):
            with self._lock:
                waiting = sorted(self._waiting.items(), key=lambda item: item[1])
                others = list(self._other_waits)
            now_s = time.monotonic()
            for other in others:
                if text := other.report(now_s):
                    _log.warning("%s has waited %s%s", self.name, text, self.last_events(text))
            since_s = waiting[0][1] if waiting else None
            due = stalls.look(since_s, now_s)
            if since_s is None or due == "wait":
                continue
            step = waiting[0][0][1]
            names = [name for (route, of), _ in waiting if of == step for name in route.variables]
            waited = f"{lasting(now_s - since_s)} for {listed(names)} of step {step}"
            owing = self._owing()
            if due == "report":
                text = f"{waited}; {owing}"
                _log.warning("%s has waited %s%s", self.name, text, self.last_events(text))
            else:
                self.fail(StepTimeout(f"{self.name} waited {waited}{': ' * bool(owing)}{owing}"))

    def _owing(self) -> str:
        try:
            return self._describe_missing()
        except Exception as failure:  # The wait has to end, whoever can be named.
            return f"who owes it is unknown: {failure!r}"
