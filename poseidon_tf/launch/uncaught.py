"""What a worker prints and tells when an exception ends its script."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Mapping, Sequence

from poseidon_tf.errors import MemberError
from poseidon_tf.launch import failure_text
from poseidon_tf.launch.reports import tell_launcher
from poseidon_tf.session.session import Session


def on_uncaught(
    session: Session,
    *,
    when: Callable[[], str],
    environ: Mapping[str, str],
) -> Callable[[], None]:
    """Hook into `sys.excepthook`.

    A script's own exception is printed as Python does. One that only tells of the job's failure
    would be a second copy of what has been logged, within TensorFlow's nodes: a line stands for it.
    Where no `poseidon-tf run` prints the cause at the end of the job, this process does at its own.

    Args:
      when: which step this worker has come to, in words.
      environ: of this process.

    Returns:
      Takes the hook out again, to be called when this worker has left: what happens in the process
      afterwards is not the job's.
    """
    previous, is_over = sys.excepthook, threading.Event()

    def hook(
        kind: type[BaseException],
        error: BaseException,
        trace: types.TracebackType | None,
    ) -> None:
        if is_over.is_set():  # Somebody else has hooked in since, and calls this one.
            previous(kind, error, trace)
            return
        cause = session.job_failure.cause
        if cause is None:
            why = f"{own_reason(error, trace)} ({when()})"
            session.job_failure.give_up(MemberError(why))
            block = failure_text.own_block(session.name, when(), error, trace)
            is_launched = tell_launcher(environ, block, is_own=True)
            previous(kind, error, trace)
        elif previous is sys.__excepthook__ and failure_text.is_told_by(error, cause):
            places = failure_text.places_in(trace)
            at = f" at {places[-1]}" if places else ""
            print(f"{session.name} stops{at}: the job has failed", file=sys.stderr, flush=True)
            block = failure_text.told_by(session.job_failure)
            is_launched = tell_launcher(environ, block, is_own=False)
        else:  # What the script has made of it, or somebody else's way to print it.
            previous(kind, error, trace)
            return
        if not is_launched:
            _print_block(block)

    def unhook() -> None:
        is_over.set()
        if sys.excepthook is hook:
            sys.excepthook = previous

    sys.excepthook = hook
    return unhook


def own_reason(error: BaseException, trace: types.TracebackType | None) -> str:
    """What the other members hear of an exception of this worker's script."""
    places = failure_text.places_of(error, trace)
    at = f", at {places[-1]}" if places else ""
    return f"{failure_text.in_one_line(error)}{at}"


def _print_block(lines: Sequence[str]) -> None:
    print("\n  ".join([f"the job failed: {lines[0]}", *lines[1:]]), file=sys.stderr, flush=True)
