"""What a failed job prints, as whoever started it reads it: the cause is last, once, and whole."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.jobs import Job, Member, script_named
from tests.support.launched import Launched, run

pytestmark = pytest.mark.processes

SCRIPT = script_named("raising.py")
# What TensorFlow puts around a message, and what Keras says of data that has ended.
NOISE = ("{{node", "Detected at node", "[Op:", "Graph execution error", "ran out of data")


def line_of(text: str) -> int:
    """The number of the script's line that begins with `text`, blanks aside."""
    lines = SCRIPT.read_text().splitlines()
    return 1 + next(at for at, line in enumerate(lines) if line.strip().startswith(text))


RAISED_AT = f"{SCRIPT}:{line_of('raise ValueError')}"
FIT_AT = f"{SCRIPT}:{line_of('model.fit')}"


def said_by(who: str, job: Launched) -> list[str]:
    """Of the lines on stderr those that one of the processes printed."""
    lines = job.stderr.splitlines()
    return [line.removeprefix(f"[{who}] ") for line in lines if f"[{who}] " in line]


@pytest.fixture(scope="module")
def launched() -> Launched:
    """Two workers and two servers; rank 1's script raises after step 2."""
    arguments = ("run", "--workers", "2", "--servers", "2", str(SCRIPT), "in a step", "print")
    return run(*arguments, environ={"PYTHONIOENCODING": "utf-8"}, timeout_s=120)


def error_of(launched: Launched) -> str:
    """What `fit` raised on rank 0."""
    (line,) = (line for line in launched.stdout.splitlines() if "[worker 0] RESULT error" in line)
    error: str = json.loads(line.split(" ", 4)[4])
    return error


def test_the_launcher_names_the_cause_last_and_in_one_block(launched: Launched) -> None:
    """Who, what, where in the script, and what to do; after all that the members have printed."""
    said = said_by("poseidon-tf", launched)
    assert said[0] == "worker 1 ended with code 1" and launched.code == 1
    assert launched.stderr.splitlines()[-5:] == [f"[poseidon-tf] {line}" for line in said[-5:]]
    who, what, where, called_from, advice = said[-5:]
    assert who.startswith("the job failed: worker rank 1 (127.0.0.1:")
    assert who.endswith("), after step 2")
    assert what == '  ValueError: the file "größe" is gone'
    assert where.startswith(f"  at {RAISED_AT}, in on_train_batch_end: raise ValueError(")
    assert called_from.startswith(f"  called from {FIT_AT}, in <module>: model.fit(")
    assert advice.startswith("  what to do: ")


def test_the_script_that_raised_has_python_s_traceback(launched: Launched) -> None:
    """It is the only one in all of the output."""
    assert sum("Traceback (most recent" in line for line in launched.stderr.splitlines()) == 1
    assert said_by("worker 1", launched)[-1] == 'ValueError: the file "größe" is gone'


def test_whoever_only_heard_of_it_says_so_in_a_line_and_names_the_cause(
    launched: Launched,
) -> None:
    """Rank, address, step and place are in each process's output, without TensorFlow's nodes."""
    for who in ("worker 0", "server 0", "server 1"):
        told = [line for line in said_by(who, launched) if "größe" in line]
        assert len(told) == 1, launched.stderr.splitlines()
        assert "worker rank 1 (127.0.0.1:" in told[0]
        assert f'ValueError: the file "größe" is gone, at {RAISED_AT} (after step 2)' in told[0]
    last = said_by("worker 0", launched)[-1]
    assert last.startswith("worker rank 0 (127.0.0.1:")
    assert last.endswith(f") stops at {FIT_AT}: the job has failed")
    assert not [
        line for line in launched.stderr.splitlines() if any(noise in line for noise in NOISE)
    ]


def test_what_fit_raises_still_holds_all_of_it(launched: Launched) -> None:
    """A script may catch it: the text is what it was, within TensorFlow's."""
    error = error_of(launched)
    assert error.startswith("InvalidArgumentError: ") and "{{node" in error
    assert f"is gone, at {RAISED_AT} (after step 2); rank 0 was in step " in error


def test_rank_0_prints_the_plan_by_default(launched: Launched) -> None:
    plans = [line for line in launched.stdout.splitlines() if "as planned: " in line]
    assert len(plans) == 1 and plans[0].startswith("[worker 0] ")


@pytest.fixture(scope="module")
def by_hand() -> Iterator[Job]:
    """Two workers and a server without a launcher; rank 1 raises at the end of the data."""
    with Job("raising.py", "at the end", "log", environ={"PYTHONIOENCODING": "utf-8"}) as job:
        assert job.wait() == [1, 1, 1]
        yield job


def block_of(member: Member) -> list[str]:
    """The last lines that it has printed, from the one that says that the job has failed."""
    lines = member.output().splitlines()
    first = max(at for at, line in enumerate(lines) if line.startswith("the job failed: "))
    return lines[first:]


def test_without_a_launcher_the_process_at_fault_ends_with_the_block(by_hand: Job) -> None:
    """Its log is read alone: after Python's traceback it says who and where."""
    culprit = by_hand.workers[1]
    who, what, where, called_from, advice = block_of(culprit)
    assert who == f"the job failed: worker rank 1 ({culprit.address}), after step 5"
    assert what == '  ValueError: the file "größe" is gone'
    assert where.startswith(f"  at {RAISED_AT}") and called_from.startswith(
        f"  called from {FIT_AT}"
    )
    assert "Traceback" in culprit.output()


def test_without_a_launcher_the_others_end_with_the_cause(by_hand: Job) -> None:
    """The cause, where this worker was and what to do, and no traceback of the same."""
    survivor, culprit = by_hand.workers
    what, where, advice = block_of(survivor)
    assert what == (
        f"the job failed: MemberError: worker rank 1 ({culprit.address}) failed: "
        f'ValueError: the file "größe" is gone, at {RAISED_AT} (after step 5)'
    )
    assert where.startswith("  rank 0 was in step 5 and waited for ")
    assert advice.startswith("  what to do: ")
    assert "Traceback" not in survivor.output()


def test_the_end_of_a_failed_job_is_not_taken_for_the_end_of_the_data(by_hand: Job) -> None:
    """Keras would say that the input ran out of data, before the true reason."""
    assert "ran out of data" not in by_hand.workers[0].output()
    assert by_hand.workers[0].results()["error"].startswith("MemberError: worker rank 1 ")


def test_the_plan_can_go_to_the_log(by_hand: Job) -> None:
    """At level INFO of the logger `poseidon_tf`, on rank 0, and not to standard output."""
    plans = [text for text in by_hand.workers[0].results()["logged"] if text.startswith("plan:\n")]
    assert len(plans) == 1 and "as planned: " in plans[0]
    printed = by_hand.workers[0].output()
    assert "as planned: " not in printed.replace(json.dumps(plans[0])[1:-1], "")
