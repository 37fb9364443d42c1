"""A session with syncers that only note what they are asked to send."""

import queue
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.errors import PoseidonError
from poseidon_tf.session.deadlines import Deadlines
from poseidon_tf.session.naming import WorkerNames
from poseidon_tf.session.replicas import ReplicaJoin, stacking
from poseidon_tf.session.session import Route, Session
from poseidon_tf.trace import Recorder
from poseidon_tf.wire.dtypes import Array

WAIT_S = 20.0  # Far more than anything here takes.


class NotingSyncer:
    """Sends nothing; a test says when a step is done."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent: list[tuple[int, list[Array]]] = []

    def send(self, step: int, arrays: Sequence[Array]) -> None:
        self.sent.append((step, list(arrays)))

    def payload_bytes(self) -> tuple[int, int]:
        return 0, 0

    def release(self) -> None:
        pass


class FailingSyncer(NotingSyncer):
    def send(self, step: int, arrays: Sequence[Array]) -> None:
        raise OSError("no way out")


class Deliveries:
    """What one route was given, in order."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[int, list[Array], str]] = queue.SimpleQueue()

    def __call__(self, step: int, results: list[Array], error: str) -> None:
        self._queue.put((step, results, error))

    def next(self) -> tuple[int, list[Array], str]:
        return self._queue.get(timeout=WAIT_S)

    def none(self) -> bool:
        return self._queue.empty()


class Bench:
    """One worker's session, its routes, and what it reports.

    Args:
      answer: the error that the coordinator answers a report with; None where it does not.
    """

    def __init__(
        self,
        *,
        describe_missing: Callable[[], str] = lambda: "",
        last_step: Callable[[], int] = lambda: -1,
        answer: Callable[[PoseidonError], PoseidonError | None] = lambda error: error,
        **deadlines: float,
    ) -> None:
        self.reports: list[str] = []
        self._answer = answer
        limits = Deadlines(**deadlines)
        self.job_failure = JobFailure(
            verdict_s=limits.verdict_s, where=lambda: self.session.situation()
        )
        self.job_failure.ask = self._take_report
        self.session = Session(
            rank=3,
            names=WorkerNames([f"10.0.0.{rank}:1" for rank in range(4)]),
            deadlines=limits,
            recorder=Recorder("worker 3", directory=None),
            describe_missing=describe_missing,
            last_step=last_step,
            job_failure=self.job_failure,
        )

    def _take_report(self, error: PoseidonError) -> bool:
        self.reports.append(str(error))
        if (answer := self._answer(error)) is not None:
            self.job_failure.settle(answer)
        return True

    def route(
        self,
        name: str,
        syncer_type: type[NotingSyncer] = NotingSyncer,
        num_replicas: int = 1,
        **names: Any,
    ) -> tuple[Any, Deliveries]:
        """A `Route` whose syncer notes what it is given, and where its results go."""
        deliveries = Deliveries()
        join = ReplicaJoin(num_replicas, stacking)
        return Route(self.session, syncer_type(name), deliveries, join, **names), deliveries


MakeBench: TypeAlias = Callable[..., Bench]
