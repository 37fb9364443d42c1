"""Updates at the beginning of the next step: the same bits, seen by nobody a step too late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes

THOROUGH = pytest.mark.thorough
MORE_WORKERS = [THOROUGH, pytest.mark.timeout(700)]
FEW = "two_optimizers"
OTHERS = "optimizers"
EXECUTIONS, ENDS = "executions", "uneven,unknown,ends"
SEEN_ALONE = "observed_alone"
# By default one job trains all of these, in each mode.
USUAL = f"{FEW},{EXECUTIONS},found_in_trace,refused_alone,observed,interrupted,within"
STEPS, EPOCHS = 5, 2  # Of most cases.

Findings = list[dict[str, Any]]


@pytest.fixture(scope="module")
def trained() -> Callable[..., Findings]:
    """What each worker of a job found, which runs once."""
    done: dict[tuple[Any, ...], Findings] = {}

    def get(mode: str, way: str, groups: str, num_workers: int = 2) -> Findings:
        job = mode, way, groups, num_workers
        if job not in done:
            with Job("deferred.py", mode, way, groups, num_workers=num_workers) as running:
                done[job] = running.results(timeout_s=140 if num_workers == 2 else 320)
        return done[job]

    return get


@pytest.mark.parametrize(
    "way, groups, num_workers",
    [
        ("planned", USUAL, 2),
        pytest.param("ps", FEW, 2, marks=THOROUGH),
        pytest.param("sfb", FEW, 2, marks=THOROUGH),
        pytest.param("planned", OTHERS, 2, marks=THOROUGH),
        pytest.param("planned", ENDS, 2, marks=THOROUGH),
        pytest.param("planned", SEEN_ALONE, 2, marks=THOROUGH),
        pytest.param("planned", f"{FEW},{OTHERS}", 3, marks=MORE_WORKERS),
        pytest.param("ps", f"{FEW},{OTHERS}", 3, marks=MORE_WORKERS),
        pytest.param("ps", f"{OTHERS},{EXECUTIONS},{ENDS}", 2, marks=THOROUGH),
    ],
)
def test_every_epoch_ends_with_the_bits_of_updates_in_the_step(
    trained: Any, way: str, groups: str, num_workers: int
) -> None:
    """Weights, optimizer variables and losses, as callbacks and threads see them; of each worker.

    Also what a callback sees after every execution, and a thread after every step.
    """
    deferred, in_step = (trained(mode, way, groups, num_workers) for mode in ("auto", "in-step"))
    assert len(deferred) == num_workers
    for mine, expected in zip(deferred, in_step, strict=True):
        assert sorted(mine) == sorted(expected)
        for case in mine:
            if case == "interrupted-flushes":
                continue
            if case in ("thread-saw", "interrupted"):
                assert mine[case] == expected[case]
                continue
            for what in ("seen", "history"):
                assert mine[case][what] == expected[case][what], (case, what)
            assert expected[case]["deferred"] == 0 and not expected[case]["flushes"]
            assert expected[case]["why"] == "defer_updates=False"


@pytest.mark.parametrize(
    "way",
    ["planned", pytest.param("ps", marks=THOROUGH), pytest.param("sfb", marks=THOROUGH)],
)
def test_all_but_the_last_update_of_an_epoch_are_deferred(trained: Any, way: str) -> None:
    """Every epoch ends with one that is made before anybody looks; and the case says how often."""
    for found in trained("auto", way, USUAL if way == "planned" else FEW):
        for case in ("momentum", "adam"):
            assert found[case]["deferred"] == EPOCHS * (STEPS - 1)
            assert found[case]["flushes"] == {"end of epoch": EPOCHS}
            assert found[case]["why"] == ""


def test_a_callback_that_looks_at_variables_has_the_pending_update_made_first(
    trained: Any,
) -> None:
    """After each execution; where that is each step there is nothing to defer, and it says so."""
    for found in trained("auto", "planned", USUAL):
        assert found["3-steps"]["flushes"] == {"callback BatchReader": 2 * EPOCHS}
        assert found["3-steps"]["deferred"] == (STEPS - 2) * EPOCHS
        assert found["8-steps"]["flushes"] == {"end of epoch": EPOCHS}
        assert found["read"]["deferred"] == 0
        assert "BatchReader has a batch hook" in found["read"]["why"]


def test_whoever_has_such_a_callback_all_workers_make_the_update_before_it(trained: Any) -> None:
    """Otherwise they would train by other graphs, in which reductions have other names."""
    for found in trained("auto", "planned", USUAL):
        assert found["one-looks"]["flushes"] == {"callback BatchReader": 2 * EPOCHS}


def test_a_fit_within_another_one_leaves_the_outer_ones_updates_to_it(trained: Any) -> None:
    """The inner one updates in the step; the outer one still makes what is pending in time."""
    for found in trained("auto", "planned", USUAL):
        assert found["within"]["flushes"] == {"end of epoch": EPOCHS}
        assert found["within"]["deferred"] == EPOCHS * (STEPS - 1)
        assert found["within"]["why"] == ""


def test_what_is_assigned_between_steps_comes_after_the_update_of_the_last(trained: Any) -> None:
    """Such as a learning rate, with which that update is not to be made."""
    for found in trained("auto", "planned", USUAL):
        assert found["assigned"]["flushes"]["assignment of a variable"] == EPOCHS * STEPS


def test_a_thread_that_reads_between_steps_has_the_pending_update_made_first(trained: Any) -> None:
    """Whenever it looks the optimizer has counted the steps that are over."""
    for found in trained("auto", "planned", USUAL):
        assert found["thread"]["flushes"] == {"read of a variable": STEPS * EPOCHS}
        counted = [int(values[-1]) for values in found["thread-saw"]]
        assert sorted(set(counted)) == list(range(STEPS * EPOCHS + 1))


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["one-thread-2-steps", "one-thread-3-steps"])
def test_where_one_worker_alone_is_looked_at_what_layers_reduce_still_meets(
    trained: Any, case: str
) -> None:
    """It takes the next step by itself, in another graph than the others."""
    first, second = trained("auto", "planned", SEEN_ALONE)
    assert first[case]["flushes"]["read of a variable"] > EPOCHS
    assert set(second[case]["flushes"]) == {"end of epoch"}
    assert first[case]["deferred"] < second[case]["deferred"]
    assert first[case]["why"] == second[case]["why"] == ""


def test_after_an_exception_between_two_steps_no_update_is_pending(trained: Any) -> None:
    """As on Ctrl-C: the steps that are over count, as they do without deferring."""
    for found in trained("auto", "planned", USUAL):
        _, iterations = found["interrupted"]
        assert iterations == 3
        assert found["interrupted-flushes"] == 1


@pytest.mark.parametrize(
    "case, why",
    [
        ("metric", "uses a variable after its update"),
        ("metric-again", "uses a variable after its update"),
        ("noise", "RandomStandardNormal has a state in each graph"),
    ],
)
def test_what_only_the_trace_shows_is_updated_in_the_step(
    trained: Any, case: str, why: str
) -> None:
    """No step is taken twice, and none is lost."""
    for found in trained("auto", "planned", USUAL):
        assert found[case]["deferred"] == 0 and found[case]["flushes"] == {}
        assert why in found[case]["why"]


@pytest.mark.parametrize("steps", [1, 2])
def test_where_one_workers_trace_alone_refuses_the_others_go_on_deferring(
    trained: Any, steps: int
) -> None:
    """What their layers reduce still meets, whatever loops Keras has around a step."""
    case = f"alone-{steps}-steps"
    first, second = trained("auto", "planned", USUAL)
    for found, why in ((first, "RandomStandardNormal has a state in each graph"), (second, "")):
        assert why in found[case]["why"]
    for each in (case, f"alone-again-{steps}-steps"):
        assert first[each]["deferred"] == 0 and first[each]["flushes"] == {}
        assert second[each]["deferred"] == EPOCHS * (STEPS - 1)
        assert first[each]["history"] == second[each]["history"]


def test_where_updates_must_be_deferred_and_cannot_all_workers_say_why() -> None:
    """Before the first step where that is known, else when it is traced."""
    with Job("deferred.py", "always", "planned") as job:
        for found in job.results(timeout_s=120):
            at_once, traced = found["refused-at-once"], found["refused-when-traced"]
            assert "global_clipnorm=0.1 needs every sum before the first update" in at_once
            assert "rank 0" in at_once
            assert "RandomStandardNormal has a state in each graph" in traced
            assert all("defer_updates=True" in text for text in (at_once, traced))


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_the_bottom_layer_runs_while_the_top_layers_last_sum_is_withheld(
    steps_per_execution: int,
) -> None:
    """The sum comes when the next step has gone through the bottom layer, so no clock decides.

    And nothing of the update that `fit` makes at its end was read by AutoGraph.
    """
    with Job("overlap_across_steps.py", "auto", str(steps_per_execution)) as job:
        (first, second) = job.results()
    assert first["ran-before"] == [True] * 3
    assert first["converted"] == second["converted"] == 0


def test_with_updates_in_the_step_the_bottom_layer_waits_for_the_top_layers_sum() -> None:
    """The proof can fail."""
    environ = {"PATIENCE_S": "2"}
    with Job("overlap_across_steps.py", "in-step", "1", environ=environ) as job:
        assert job.results()[0]["ran-before"] == [False] * 3


@pytest.mark.parametrize("step, where", [(1, "in the next step"), (2, "at the end of fit")])
def test_a_server_that_is_killed_between_two_steps_ends_fit_on_all_workers(
    step: int, where: str
) -> None:
    """Its sums are missed in the next step, or by the update that `fit` makes as it ends."""
    with Job("killed_between_steps.py", str(step)) as job:
        codes = job.wait(timeout_s=120)
        outputs = [worker.output() for worker in job.workers]
        assert job.workers[0].results() == {"steps-over": step + 1}, where
    assert all(code > 0 for code in codes[:2]), where
    # The server may have stopped before it could send rank 1 the sum that rank 0 has.
    waits = f"rank 0 was in step {step} and waited for 'killing/low/"
    assert waits in outputs[0], outputs[0][-4000:]
    for rank, output in enumerate(outputs):
        assert "server 0 (127.0.0.1:" in output and "killed_between_steps.py" in output
        assert f"rank {rank} was in step " in output
        assert "RESULT ended" not in output


def test_a_step_that_fails_halfway_ends_the_job_instead_of_leaving_half_an_update() -> None:
    """The script that raises has its own error; the others hear what its variables are."""
    with Job("failed_step.py") as job:
        codes = job.wait(timeout_s=120)
        outputs = [worker.output() for worker in job.workers]
    assert codes[0] > 0 and codes[1] > 0
    for output in outputs:
        assert "the row is gone" in output
        assert "this worker's variables may be between two steps" in output
        assert "worker rank 1 (127.0.0.1:" in output
