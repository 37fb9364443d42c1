"""Why the job cannot go on, as one of its members knows: set once, for everything that waits.

What this member finds goes to the coordinator by `fail`, and comes back by `settle`: the first
error that the coordinator has heard of, from anybody, is everyone's. What ends this member alone
(`give_up`) is for the others to be told of, as it leaves.

Rule 1: everything is changed under `changed`, which is notified of every change. A wait for
        something else as well keeps that under `changed` too.
Rule 2: nothing is called while `changed` is held: neither `ask` nor `where` nor `on_set`. So they
        may take locks of their own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import final

from poseidon_tf.errors import PoseidonError

_log = logging.getLogger("poseidon_tf")


@final
class JobFailure:
    """One member's.

    Args:
      verdict_s: seconds that the coordinator has to say what the job has failed of.
      where: says where this member is in the job, for the end of the text; empty where nobody
        needs to know.

    Attributes:
      cause: why the job cannot go on, as all members are told; None while it can.
      failure: the same with where this member was.
      reported: what this member has found itself, from when it tells the coordinator.
      given_up: what ends this member alone; the others are told as it leaves.
      changed: notified of every change.
      over: set once there is a failure, or this member leaves.
      ask: tells the coordinator of an error; False if no answer can come.
      on_set: called, with nothing, once there is a failure.
    """

    def __init__(self, *, verdict_s: float = 0.0, where: Callable[[], str] = lambda: "") -> None:
        self._verdict_s, self._where = verdict_s, where
        self.cause: PoseidonError | None = None
        self.failure: PoseidonError | None = None
        self.reported: PoseidonError | None = None
        self.given_up: PoseidonError | None = None
        self.changed = threading.Condition()
        self.over = threading.Event()
        self.ask: Callable[[PoseidonError], bool] = lambda error: False
        self.on_set: list[Callable[[], None]] = []
        self._timers: list[threading.Timer] = []

    @property
    def is_open(self) -> bool:
        """Whether this member still takes part: not once it has said that it cannot go on."""
        return self.cause is None and self.reported is None

    def fail(self, error: PoseidonError, *, unless: Callable[[], bool] | None = None) -> None:
        """The job cannot go on, because of `error`. Of several the first counts. Never blocks.

        What it fails of is the coordinator's to say. Only where that does not answer in
        `verdict_s` seconds it is `error` itself; until then nothing that waits hears of it.

        Args:
          unless: the coordinator may know better what has happened, and has `verdict_s` seconds
            to say so by itself; then `error` counts, unless this says that it is none.
        """
        if unless is not None:
            self._later(lambda: self._fail_unless(unless, error))
            return
        with self.changed:
            if self.over.is_set() or self.reported is not None:
                return
            self.reported = error
        # The others are told the error alone; where they were they know themselves.
        if self.ask(error):
            self._later(lambda: self.settle(error))
        else:
            self.settle(error)

    def _fail_unless(self, is_none: Callable[[], bool], error: PoseidonError) -> None:
        if not is_none():
            self.fail(error)

    def fail_together(self, error: PoseidonError) -> PoseidonError:
        """`fail`; what to raise here, which is the same on all workers.

        Waits for the coordinator's answer; not to be called where that arrives.
        """
        self.fail(error)
        return self.outcome(error)

    def outcome(self, error: PoseidonError) -> PoseidonError:
        """What to raise for `error`, of which `fail` was told; `error` if this member leaves."""
        # Twice `verdict_s`, with `unless`; by then there is a failure of its own accord.
        self.over.wait(3 * self._verdict_s)
        return self.failure or error

    def settle(self, error: PoseidonError) -> None:
        """The job has failed of `error`: the first counts, and none once this member leaves."""
        where, kept = self._where(), error
        if where:
            kept = type(error)(f"{error}; {where}")
            kept.__cause__ = error
        with self.changed:
            if self.over.is_set():
                return
            self.failure, self.cause = kept, error
            self.over.set()
            self.changed.notify_all()
        if where:
            _log.error("%s", kept)
        for callback in self.on_set:
            callback()

    def give_up(self, error: PoseidonError) -> None:
        """This member ends because of `error`, which is its own; the first counts."""
        with self.changed:
            self.given_up = self.given_up or error
            self.changed.notify_all()

    def leave(self) -> None:
        """What breaks from now on is no surprise."""
        if self.reported is not None:
            self.settle(self.reported)  # There is no time left for an answer.
        with self.changed:
            self.over.set()
            self.changed.notify_all()
        for timer in self._timers:
            timer.cancel()

    def _later(self, action: Callable[[], None]) -> None:
        """Call `action` once the coordinator has had its time, unless all is over by then."""
        timer = threading.Timer(self._verdict_s, action)
        timer.daemon = True
        with self.changed:
            if self.over.is_set():
                return
            self._timers.append(timer)
        timer.start()
