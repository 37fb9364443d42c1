"""Replicas draw other random numbers from the same state, and hold the same weights."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

CASES = ["fit", "eager", "several-steps", "loop"]
OF_TENSORFLOW = ["tensorflow", "tensorflow-eager"]
Findings = list[dict[str, Any]]


@pytest.fixture(scope="module")
def seeded() -> Findings:
    """What two workers with the same seed find."""
    cases = ",".join([*CASES, *OF_TENSORFLOW, "restored"])
    with Job("randomness.py", "poseidon", "1", cases, environ={"SEED": "5"}) as job:
        return job.results(timeout_s=200)


@pytest.fixture(scope="module")
def several() -> Findings:
    """What two workers with two replicas each find, that nobody has seeded."""
    cases = ",".join(["fit", "eager", *OF_TENSORFLOW])
    with Job("randomness.py", "poseidon", "2", cases) as job:
        return job.results(timeout_s=200)


def drawn(found: Any) -> list[list[Any]]:
    """By layer and replica: its draws."""
    return [by_replica for _, by_replica in sorted(found.items())]


@pytest.mark.parametrize("case", [*CASES, *OF_TENSORFLOW])
def test_workers_with_the_same_seed_draw_other_numbers(seeded: Findings, case: str) -> None:
    """Dropout, a layer with its own generator, and TensorFlow's operations, in every step."""
    first, second = (drawn(worker[case]["first"]) for worker in seeded)
    for (mine,), (theirs,) in zip(first, second, strict=True):
        steps = list(zip(mine, theirs, strict=True))[-2:]  # The last two rows are the two steps'.
        assert all(my_step != their_step for my_step, their_step in steps)


@pytest.mark.parametrize("case", [*CASES, *OF_TENSORFLOW])
def test_weights_stay_the_same(seeded: Findings, case: str) -> None:
    """Bit for bit, with the optimizer's variables."""
    first, second = seeded
    assert first[case]["weights"] == second[case]["weights"]


def test_every_way_to_run_a_step_draws_the_same(seeded: Findings) -> None:
    """A graph, an eager step, several steps at once and a custom loop."""
    for worker in seeded:
        assert all(worker[case]["first"] == worker["fit"]["first"] for case in CASES)


def test_rank_0_draws_what_one_process_draws(seeded: Findings) -> None:
    """And every worker's states after it are those of one process."""
    alone = run_alone("randomness.py", "alone", "1", "fit", environ={"SEED": "5"})["fit"]
    assert seeded[0]["fit"]["first"] == alone["first"]
    assert seeded[0]["fit"]["second"] == alone["second"]
    assert [worker["fit"]["states"] for worker in seeded] == [alone["states"]] * 2


def test_a_restored_state_goes_on_from_where_it_was_saved(seeded: Findings) -> None:
    """On rank 0, which alone has it, and on the others: as a second `fit` would."""
    for worker in seeded:
        begun, went_on = (drawn(worker["fit"][when]) for when in ("first", "second"))
        for (first,), (second,), (again,) in zip(
            begun, went_on, drawn(worker["restored"]["drawn"]), strict=True
        ):
            assert again[-2:] == second[-2:] != first[-2:]  # The last two rows are the two steps'.
        assert worker["restored"]["states"] == worker["fit"]["states"][1]


@pytest.mark.thorough
def test_a_job_draws_the_same_again_whatever_the_others_states(seeded: Findings) -> None:
    """Rank 0's state counts: a worker that began with another draws and ends alike."""
    with Job(
        "randomness.py",
        "poseidon",
        "1",
        "fit",
        environ={"SEED": "5"},
        rank_environ={1: {"PYTHON_SEED": "6"}},
    ) as job:
        again = job.results()
    assert again[0]["fit"]["states"][0] != again[1]["fit"]["states"][0]
    for worker, before in zip(again, seeded, strict=True):
        for name in ("first", "second", "weights", "tested"):
            assert worker["fit"][name] == before["fit"][name]


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["fit", "eager", *OF_TENSORFLOW])
def test_every_replica_of_every_worker_draws_its_own(several: Findings, case: str) -> None:
    """No two of four replicas have the same draws, in a first `fit` and in a second one."""
    for when in ("first", "second"):
        by_worker = [drawn(worker[case][when]) for worker in several]
        for layer in zip(*by_worker, strict=True):
            replicas = [replica for worker in layer for replica in worker]
            assert len(replicas) == 4
            for one, other in itertools.combinations(replicas, 2):
                assert one[-1] != other[-1] and one[-2] != other[-2]
    first, second = several
    assert first[case]["weights"] == second[case]["weights"]


@pytest.mark.thorough
def test_states_that_nobody_seeded_become_those_of_rank_0(several: Findings) -> None:
    """The workers began with other ones."""
    before, after = zip(*(worker["fit"]["states"] for worker in several), strict=True)
    assert before[0] != before[1] and after[0] == after[1]
    assert [seed for seed, _ in after[0]] == [seed for seed, _ in before[0]]
