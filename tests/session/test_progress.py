"""Long work says how far it has come: in a line that changes, or in one at its end."""

import io
import threading

import pytest

from poseidon_tf.session.progress import showing

WAIT_S = 20.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_line_changes_until_the_work_is_done() -> None:
    """It is gone then, and the last one stays."""
    stream, asked = Terminal(), threading.Semaphore(0)

    def now() -> str:
        asked.release()
        return "2 of 3 are here"

    with showing(now, lambda: "3 of 3 are here", stream=stream):
        assert asked.acquire(timeout=WAIT_S) and asked.acquire(timeout=WAIT_S)
    *drawn, last = stream.getvalue().split("\r\x1b[K")
    assert len(drawn) >= 2 and set(drawn[1:]) == {"poseidon_tf: 2 of 3 are here"}
    assert last == "poseidon_tf: 3 of 3 are here, after " + last.split("after ")[1]
    assert last.endswith(" s\n")


def test_elsewhere_there_is_one_line_at_the_end() -> None:
    stream = io.StringIO()
    with showing(lambda: "never shown", lambda: "done", stream=stream):
        assert not [t for t in threading.enumerate() if t.name == "poseidon-progress"]
    assert stream.getvalue() == "poseidon_tf: done, after 0.0 s\n"


def test_short_work_says_nothing() -> None:
    stream = io.StringIO()
    with showing(lambda: "", lambda: "done", least_s=60.0, stream=stream):
        pass
    assert stream.getvalue() == ""


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_work_that_fails_does_not_say_that_it_is_done(stream: io.StringIO) -> None:
    with (
        pytest.raises(RuntimeError),
        showing(lambda: "half", lambda: "done", stream=stream),
    ):
        raise RuntimeError
    assert "done" not in stream.getvalue()
