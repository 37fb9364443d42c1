"""What SIGTERM does to a process that watches for it, and what a second one does."""

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

PROGRAM = """
import signal, sys, threading
from poseidon_tf.launch import sigterm

def say(text):
    print(text, flush=True)

{before}
sigterm.on_first_sigterm(lambda: say("noticed") or {will_end}, lambda: say("farewell"))
say("ready")
while True:
    threading.Event().wait(60)
"""
USERS_OWN = "signal.signal(signal.SIGTERM, lambda *_: say('their own'))"
IGNORED = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def started(*, before: str = "", will_end: bool) -> subprocess.Popen[str]:
    program = PROGRAM.format(before=before, will_end=will_end)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_where_nobody_watches_the_others_are_told_and_the_process_ends_by_the_signal() -> None:
    """The default effect, after a farewell."""
    with started(will_end=False) as process:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=10)
    assert (out, process.returncode) == ("noticed\nfarewell\n", -signal.SIGTERM)


def test_where_somebody_watches_only_the_second_one_ends_the_process() -> None:
    """The first is noted."""
    with started(will_end=True) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None and process.stdout.readline() == "noticed\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=10)
    assert (out, process.returncode) == ("", -signal.SIGTERM)


@pytest.mark.parametrize("will_end", [True, False])
def test_a_handler_of_the_script_is_called_every_time(will_end: bool) -> None:
    """It decides whether the process ends; nobody says farewell in its place."""
    with started(before=USERS_OWN, will_end=will_end) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None and process.stdout.readline() == "noticed\n"
        assert process.stdout is not None and process.stdout.readline() == "their own\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None and process.stdout.readline() == "their own\n"
        process.kill()
        assert process.communicate(timeout=10)[0] == ""


def test_a_process_that_ignores_sigterm_goes_on_ignoring_it() -> None:
    """As under nohup and its like: whoever started it wanted that."""
    with started(before=IGNORED, will_end=True) as process:
        process.send_signal(signal.SIGTERM)
        process.kill()
        assert process.communicate(timeout=10)[0] == ""


OVER = "sigterm.on_first_sigterm(lambda: say('over') or False, lambda: say('nothing to say'))"


def test_a_process_that_has_joined_again_ends_as_its_last_run_wants() -> None:
    """What watched in a run that is over neither ends the process nor keeps it."""
    with started(before=OVER, will_end=True) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["over\n", "noticed\n"]
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=10)
    assert (out, process.returncode) == ("", -signal.SIGTERM)
    with started(before=OVER, will_end=False) as process:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=10)
    assert out == "over\nnoticed\nnothing to say\nfarewell\n"
    assert process.returncode == -signal.SIGTERM
