"""What a worker prints and tells when an exception ends its script."""

from __future__ import annotations

import logging
import sys
import threading
import types
from collections.abc import Callable, Mapping, Sequence

from poseidon_tf.errors import MemberError
from poseidon_tf.launch import failure_text
from poseidon_tf.launch.reports import tell_launcher
from poseidon_tf.session.session import Session

_log = logging.getLogger("poseidon_tf")


def on_uncaught(
    session: Session,
    *,
    when: Callable[[], str],
    environ: Mapping[str, str],
    leave: Callable[[], None],
) -> Callable[[], None]:
    """Hook into `sys.excepthook`, and into `threading.excepthook` for the thread that calls this.

    A script's own exception is printed as Python does. One that only tells of the job's failure
    would be a second copy of what has been logged, within TensorFlow's nodes: a line stands for it.
    Where no `poseidon-tf run` prints the cause at the end of the job, this process does at its own.

    Args:
      when: which step this worker has come to, in words.
      environ: of this process.
      leave: called when such a thread has ended; with the main thread the process ends anyhow.

    Returns:
      Takes the hooks out again, to be called when this worker has left: what happens in the process
      afterwards is not the job's.
    """
    previous, previous_of_threads = sys.excepthook, threading.excepthook
    thread, is_over = threading.current_thread(), threading.Event()

    def uncaught(
        error: BaseException,
        trace: types.TracebackType | None,
        show: Callable[[], None],
        *,
        is_shown_by_python: bool,
    ) -> None:
        cause = session.job_failure.cause
        if cause is None:
            why = f"{own_reason(error, trace)} ({when()})"
            session.job_failure.give_up(MemberError(why))
            block = failure_text.own_block(session.name, when(), error, trace)
            log_last_events(session, why)
            is_launched = tell_launcher(environ, block, is_own=True)
            show()
        elif is_shown_by_python and failure_text.is_told_by(error, cause):
            places = failure_text.places_in(trace)
            at = f" at {places[-1]}" if places else ""
            print(f"{session.name} stops{at}: the job has failed", file=sys.stderr, flush=True)
            block = failure_text.told_by(session.job_failure)
            is_launched = tell_launcher(environ, block, is_own=False)
        else:  # What the script has made of it, or somebody else's way to print it.
            show()
            return
        if not is_launched:
            _print_block(block)

    def hook(
        kind: type[BaseException],
        error: BaseException,
        trace: types.TracebackType | None,
    ) -> None:
        def show() -> None:
            previous(kind, error, trace)

        if is_over.is_set():  # Somebody else has hooked in since, and calls this one.
            show()
        else:
            uncaught(error, trace, show, is_shown_by_python=previous is sys.__excepthook__)

    def hook_of_threads(args: threading.ExceptHookArgs) -> None:
        def show() -> None:
            previous_of_threads(args)

        error = args.exc_value
        if is_over.is_set() or args.thread is not thread or error is None:
            show()
        elif isinstance(error, SystemExit):  # In order, as in the main thread.
            show()
            leave()
        else:
            is_pythons = previous_of_threads is threading.__excepthook__
            uncaught(error, args.exc_traceback, show, is_shown_by_python=is_pythons)
            leave()

    def unhook() -> None:
        is_over.set()
        if sys.excepthook is hook:
            sys.excepthook = previous
        if threading.excepthook is hook_of_threads:
            threading.excepthook = previous_of_threads

    sys.excepthook, threading.excepthook = hook, hook_of_threads
    return unhook


def log_last_events(session: Session, why: str) -> None:
    """Writes this worker's last events, if there are any, and logs where they are."""
    path = session.recorder.dump(why)
    if path is not None:
        _log.error("the last events of %s are in %s", session.name, path)


def own_reason(error: BaseException, trace: types.TracebackType | None) -> str:
    """What the other members hear of an exception of this worker's script."""
    places = failure_text.places_of(error, trace)
    at = f", at {places[-1]}" if places else ""
    return f"{failure_text.in_one_line(error)}{at}"


def _print_block(lines: Sequence[str]) -> None:
    print("\n  ".join([f"the job failed: {lines[0]}", *lines[1:]]), file=sys.stderr, flush=True)
