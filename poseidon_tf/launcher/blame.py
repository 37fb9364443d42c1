"""Which member of a local job has failed first, and what the launcher says of it at the end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, final

from poseidon_tf.launcher.members import LocalMember

# Python's code for an exception, and that of `abort`: both come with a word on stderr.
_SAYS_WHY = (1, 128 + signal.SIGABRT)


class End(NamedTuple):
    """A member ended by itself, with a code that is not 0.

    Attributes:
      at_s: when the launcher heard of it, by the machine's monotonic clock.
    """

    at_s: float
    code: int


@final
class Blame:
    """What is known of a failure.

    Args:
      members: all of the job; what they have reported is read now.
      ends: of those that have failed by themselves.
    """

    def __init__(self, members: Iterable[LocalMember], ends: Mapping[LocalMember, End]) -> None:
        read = {member: member.report.read() for member in members}
        self._ends = dict(ends)
        self._reports = {member: report for member, report in read.items() if report is not None}

    @property
    def culprit(self) -> LocalMember | None:
        """Whose script has failed first, or who has ended first without a word.

        None if everyone has only heard of the failure, as where somebody was waited for in vain.
        """
        failed_s = {member: end.at_s for member, end in self._ends.items()}
        for member, report in self._reports.items():
            failed_s.pop(member, None)
            if report.is_own:
                failed_s[member] = report.at_s
        return min(failed_s, key=lambda member: failed_s[member], default=None)

    def lines(self, last_error: Callable[[LocalMember], str]) -> list[str]:
        """The cause, for people; empty if no more is known than the culprit's name and code.

        Args:
          last_error: the last line that a member has written to stderr.
        """
        culprit = self.culprit
        if culprit in self._reports:
            return list(self._reports[culprit].lines)
        if culprit is None:
            return self._heard()
        code, details = self._ends[culprit].code, []
        if code in _SAYS_WHY and (text := last_error(culprit)):
            details.append(f"its last line on stderr: {text}")
        if heard := self._heard():
            details += [f"the others say: {heard[0]}", *heard[1:]]
        return [f"{culprit.label} {_ending(code)}", *details] if details else []

    def _heard(self) -> list[str]:
        def is_servers_at_s(member: LocalMember) -> tuple[bool, float]:
            return not member.is_worker, self._reports[member].at_s

        # A worker knows in which step it was.
        first = min(self._reports, key=is_servers_at_s, default=None)
        return [] if first is None else list(self._reports[first].lines)


def _ending(code: int) -> str:
    try:
        return f"was killed by {signal.Signals(code - 128).name}"
    except ValueError:  # A code of its own choice.
        return f"ended with code {code}"
