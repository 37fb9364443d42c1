"""Workers whose values part, or whose gradients are not finite, stop; others notice no guard."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes

# How often the variables are compared with drift_check_steps=2.
CHECKS = {
    "traced": 4,
    "several-steps": 3,  # Of three executions of three steps.
    "eager": 4,
    "one-stops": 2,  # After five steps.
    "uneven": 4,
    "accumulating": 4,
    "train_on_batch": 3,  # One step was left over.
    "asked": 1,
}
NUM_VARIABLES = 4 + 2 + 2 * 4  # Trainable; iterations and learning rate; Adam's moments.


def ended(how: str) -> list[dict[str, Any]]:
    """What each worker of a job that fails in the end has found."""
    with Job("guarded.py", how, num_servers=0) as job:
        codes = job.wait(timeout_s=200)
        outputs = "\n".join(member.output()[-6000:] for member in job.workers)
        assert 0 not in codes, outputs
        results = [worker.results() for worker in job.workers]
        assert all("error" in each for each in results), outputs
        return [each | {"addresses": [w.address for w in job.workers]} for each in results]


@pytest.fixture(scope="module")
def compared() -> list[dict[str, Any]]:
    """The job whose workers compare what they hold."""
    return ended("drift")


@pytest.fixture(scope="module")
def checked() -> list[dict[str, Any]]:
    """The job that looks at its gradients instead."""
    return ended("numbers")


@pytest.mark.parametrize("case", CHECKS)
def test_comparing_changes_nothing(
    compared: list[dict[str, Any]], checked: list[dict[str, Any]], case: str
) -> None:
    """Weights and optimizer end the same, bit for bit, with and without it, on both workers."""
    assert len({worker[case]["digest"] for worker in (*compared, *checked)}) == 1


@pytest.mark.parametrize("case", CHECKS)
def test_a_comparison_is_one_short_message(
    compared: list[dict[str, Any]], checked: list[dict[str, Any]], case: str
) -> None:
    """Eight bytes for each variable, once in `drift_check_steps` steps; none where it is 0."""
    for worker in compared:
        assert len(worker[case]["gathered"]) == CHECKS[case]
        if case not in ("accumulating", "asked"):
            assert set(worker[case]["gathered"]) == {8 * NUM_VARIABLES}
    assert compared[0][case] == compared[1][case]
    if case != "asked":
        assert not any(worker[case]["gathered"] for worker in checked)


def test_a_weight_that_one_worker_changes_stops_both(compared: list[dict[str, Any]]) -> None:
    """At the next comparison: 1e-7 in one weight, named with the ranks, after that very step."""
    names = [
        re.escape(f"worker rank {rank} ({address})")
        for rank, address in enumerate(compared[0]["addresses"])
    ]
    texts = set()
    for rank, worker in enumerate(compared):
        assert worker["error"]["kind"] == "DriftError"
        text, where, events = worker["error"]["text"].rsplit("; ", 2)
        assert events.startswith("its last events are in ")
        wanted = (
            r"after step \d+: 'sequential(_\d+)?/last/kernel' is not the same everywhere: "
            rf"{names[0]} holds one value, {names[1]} does not hold it; "
            r"\d+ of 14 variables differ\. .*schemes=.*"
        )
        assert re.fullmatch(wanted, text), text
        assert re.match(rf"rank {rank} was in step \d+ and waited for ", where), where
        texts.add(text)
    assert len(texts) == 1


def test_a_layer_that_counts_its_own_rows_is_told_of_once(compared: list[dict[str, Any]]) -> None:
    """On rank 0, of that variable alone, whatever is trained after it; the job goes on."""
    (text,) = compared[0]["warned"]
    assert re.match(
        r"after step \d+: layers have variables of their own that are not the same on all "
        r"replicas: "
        r"'sequential_\d+/counting/own'\. Each replica goes on with ",
        text,
    )
    assert compared[1]["warned"] == []


def test_nothing_is_said_of_models_without_one(
    compared: list[dict[str, Any]], checked: list[dict[str, Any]]
) -> None:
    """Of dropout, metrics and accumulated gradients; nor of anything where nothing is compared."""
    assert [worker["warned-before"] for worker in compared] == [[], []]
    assert [worker["warned"] for worker in checked] == [[], []]


def test_a_nan_in_one_workers_data_is_its_own(checked: list[dict[str, Any]]) -> None:
    """Both raise the same, with rank 1, the step and a variable, and say where they were."""
    name = re.escape(f"worker rank 1 ({checked[0]['addresses'][1]})")
    found = set()
    for rank, worker in enumerate(checked):
        text = worker["error"]["text"]
        own = rf"{name}, step \d+: .*the gradient of 'sequential(_\d+)?/(first|last)/(kernel|bias)'"
        match = re.search(
            rf"({own} is not finite: [1-9].*); rank {rank} was in step \d+ and ", text
        )
        assert match, text
        found.add((match[1], worker["error"]["failure_kind"]))
    assert {kind for _, kind in found} == {"NumericsError"} and len(found) == 1
    assert re.search("rank 0 was in step [0-9]+ and waited for '", checked[0]["error"]["text"])


def test_workers_that_hold_their_interpreter_are_alive(checked: list[dict[str, Any]]) -> None:
    """Each for more than twice the keepalive, rank 0 with the coordinator; the fit ends as ever."""
    assert {worker["held"]["digest"] for worker in checked} == {checked[0]["traced"]["digest"]}
