"""A session with syncers that only note what they are asked to send."""

import queue

from poseidon_tf.session.deadlines import Deadlines
from poseidon_tf.session.naming import WorkerNames
from poseidon_tf.session.replicas import ReplicaJoin, stacking
from poseidon_tf.session.session import Route, Session
from poseidon_tf.trace import Recorder

WAIT_S = 20.0  # Far more than anything here takes.


class NotingSyncer:
    """Sends nothing; a test says when a step is done."""

    def __init__(self, name) -> None:
        self.name = name
        self.sent = []

    def send(self, step, arrays) -> None:
        self.sent.append((step, list(arrays)))

    def payload_bytes(self):
        return 0, 0


class FailingSyncer(NotingSyncer):
    def send(self, step, arrays):
        raise OSError("no way out")


class Deliveries:
    """What one route was given, in order."""

    def __init__(self) -> None:
        self._queue = queue.SimpleQueue()

    def __call__(self, step, results, error) -> None:
        self._queue.put((step, results, error))

    def next(self):
        return self._queue.get(timeout=WAIT_S)

    def none(self):
        return self._queue.empty()


class Bench:
    """One worker's session, its routes, and what it reports.

    Args:
      answer: the error that the coordinator answers a report with; None where it does not.
    """

    def __init__(
        self,
        *,
        describe_missing=lambda: "",
        last_step=lambda: -1,
        answer=lambda error: error,
        **deadlines,
    ) -> None:
        self.reports = []
        self._answer = answer
        self.session = Session(
            rank=3,
            names=WorkerNames([f"10.0.0.{rank}:1" for rank in range(4)]),
            deadlines=Deadlines(**deadlines),
            recorder=Recorder("worker 3", directory=None),
            describe_missing=describe_missing,
            last_step=last_step,
            report=self._take_report,
        )

    def _take_report(self, error):
        self.reports.append(str(error))
        if (answer := self._answer(error)) is not None:
            self.session.fail(answer, told=True)
        return True

    def route(self, name, syncer_type=NotingSyncer, num_replicas=1, **names):
        deliveries = Deliveries()
        join = ReplicaJoin(num_replicas, stacking)
        return Route(self.session, syncer_type(name), deliveries, join, **names), deliveries
