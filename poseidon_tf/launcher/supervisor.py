"""Decides who of a local job may go on, who is told to end, and what the exit code is."""

from __future__ import annotations

import math
import queue
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, final

from poseidon_tf.launcher.blame import Blame, End
from poseidon_tf.launcher.members import Events, LocalMember


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long members may take to end by themselves, in seconds."""

    after_failure_s: float = 10.0  # Time for the others to say themselves who died.
    after_workers_s: float = 30.0  # For servers, once the last worker has ended.
    after_sigterm_s: float = 5.0
    grace_s: float = 30.0  # For workers to save, when the launcher was asked to stop.


class Ending(NamedTuple):
    """How one try of a job has ended.

    Attributes:
      code: 0, or that of the member that failed first, or 128 + signal if the launcher was stopped
        or asked for more workers.
      is_stopped: whether the launcher was asked to stop.
      blame: why it has failed, if it has.
      killed: workers that a signal has ended which the launcher did not send, and its number.
      wants_more: whether the launcher was asked to go on with more workers.
      is_resized: whether that is why it has ended.
    """

    code: int
    is_stopped: bool
    blame: Blame
    killed: tuple[tuple[str, int], ...] = ()
    wants_more: bool = False
    is_resized: bool = False

    @property
    def is_failure(self) -> bool:
        """Whether a member has failed, and nobody wanted the job to end."""
        return self.code != 0 and not self.is_stopped and not self.is_resized


@final
class Supervisor:
    """Of one try of a job.

    Args:
      say: prints a line of the launcher's own.
      then: what is said behind the line about the member that failed first.
      may_grow: whether more workers could be started than there are.
    """

    def __init__(
        self,
        members: Iterable[LocalMember],
        events: Events,
        say: Callable[[str], None],
        patience: Patience,
        *,
        then: str = "",
        may_grow: bool = False,
    ) -> None:
        self._members = list(members)
        self._alive = set(self._members)
        self._ends: dict[LocalMember, End] = {}  # Of members that have failed by themselves.
        self._events, self._say, self._patience, self._then = events, say, patience, then
        self._may_grow = may_grow
        self._code = 0
        self._is_ending = self._is_stopped = self._is_named = False
        self._wants_more = self._is_resizing = self._is_unfinished = False
        self._deadline_s, self._at_deadline = math.inf, self._kill

    def wait_ended(self) -> Ending:
        """Return when every member has ended."""
        while self._alive:
            left_s = self._deadline_s - time.monotonic()
            try:
                event = self._events.get(timeout=None if left_s == math.inf else max(0.0, left_s))
            except queue.Empty:
                self._at_deadline()
                continue
            if event is signal.SIGUSR1:
                self._on_more()
            elif isinstance(event, signal.Signals):
                self._on_stop(event)
            elif event[0] in self._alive:  # Not one of an earlier try.
                self._on_end(*event)
        self._settle_code()
        if self._ends and not self._is_named and self._then:
            self._say(self._then.removeprefix("; "))
        if self._is_resizing and not self._is_stopped:
            # Who has come to the end of the script in time is done.
            self._code = 128 + signal.SIGUSR1 if self._is_unfinished else 0
        killed = [(each.label, each.killed_by) for each in self._ends if each.is_worker]
        return Ending(
            self._code,
            self._is_stopped,
            Blame(self._members, self._ends),
            killed=tuple(sorted(each for each in killed if each[1])),
            wants_more=self._wants_more,
            is_resized=self._is_resizing,
        )

    def _on_more(self) -> None:
        """End the try, so that the next one has all workers, unless it ends already."""
        if not self._may_grow and not self._ends:
            return self._say("SIGUSR1: all workers run already")
        self._wants_more = True
        if not self._is_ending and not self._ends:
            self._is_resizing = True
            self._ask_workers(signal.SIGUSR1)

    def _on_stop(self, signum: signal.Signals) -> None:
        is_only_resizing = self._is_resizing and not self._is_stopped
        is_asked_again, self._is_stopped = self._is_stopped or self._is_ending, True
        if is_asked_again and not is_only_resizing:
            return self._kill()  # No more patience.
        self._settle_code()
        self._code = self._code or 128 + signum
        if is_only_resizing:  # They have been asked.
            return self._say(f"{signum.name}: not starting again")
        self._ask_workers(signum)

    def _ask_workers(self, signum: signal.Signals) -> None:
        self._is_ending = True
        # Workers first: what they save at the end may need the servers.
        asked = [each for each in self._alive if each.is_worker] or list(self._alive)
        self._say(f"{signum.name}: sending SIGTERM to {_labels(asked)}")
        for member in asked:
            member.signal_leader(signal.SIGTERM)
        self._set_deadline(self._patience.grace_s, self._kill)

    def _on_end(self, member: LocalMember, code: int) -> None:
        self._alive.discard(member)
        is_last_worker = member.is_worker and not any(each.is_worker for each in self._alive)
        self._is_unfinished |= member.is_worker and code != 0
        if (self._is_stopped or self._is_resizing) and is_last_worker:
            self._signal(signal.SIGTERM)
            self._set_deadline(self._patience.after_sigterm_s, self._kill)
        if self._is_ending:
            return
        if code:
            self._ends[member] = End(time.monotonic(), code)
            if len(self._ends) == 1:
                self._terminate_after(self._patience.after_failure_s)
            self._name_culprit()
        elif is_last_worker and not self._ends:
            self._terminate_after(self._patience.after_workers_s)

    def _name_culprit(self) -> None:
        """Once, when whoever has failed first has ended: its code is the job's."""
        culprit = Blame(self._members, self._ends).culprit
        if not self._code and culprit in self._ends:
            self._code = self._ends[culprit].code
            self._say(f"{culprit.label} ended with code {self._code}{self._then}")
            self._is_named = True

    def _settle_code(self) -> None:
        """Who has failed first may not have ended by itself: then the first that did counts."""
        if not self._code and self._ends:
            self._code = min(self._ends.values()).code

    def _terminate_after(self, after_s: float) -> None:
        reason = f"warning: still running after {after_s:g} s"
        self._set_deadline(after_s, lambda: self._terminate(reason))

    def _terminate(self, reason: str) -> None:
        self._is_ending = True
        self._say(f"{reason}: sending SIGTERM to {_labels(self._alive)}")
        self._signal(signal.SIGTERM)
        self._set_deadline(self._patience.after_sigterm_s, self._kill)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._set_deadline(math.inf, self._kill)  # The kernel's word: nothing is left to try.

    def _signal(self, signum: signal.Signals) -> None:
        for member in self._alive:
            member.signal_group(signum)

    def _set_deadline(self, after_s: float, action: Callable[[], None]) -> None:
        self._deadline_s, self._at_deadline = time.monotonic() + after_s, action


def _labels(members: Iterable[LocalMember]) -> str:
    return ", ".join(sorted(member.label for member in members))
