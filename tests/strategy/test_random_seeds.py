"""What a script seeds is what one process draws; what it leaves open is alike on all workers."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from poseidon_tf.strategy.data.seeds import is_unseeded, seed_difference, seeds_of
from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

Findings = list[dict[str, Any]]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process without a strategy finds."""
    return run_alone("seeds.py", "alone")


@pytest.fixture(scope="module")
def workers() -> Findings:
    """What two workers find, which nobody has seeded."""
    with Job("seeds.py", "poseidon") as job:
        return job.results()


def test_seeds_of_operations_give_what_they_give_in_one_process(
    workers: Findings, alone: dict[str, Any]
) -> None:
    """In every run, eagerly, in functions and in pipelines, over several iterations."""
    for worker in workers:
        for name, drawn in alone["operations"].items():
            assert worker["operations"][name] == drawn, name


def test_a_script_that_seeds_tensorflow_afterwards_draws_as_one_process(
    workers: Findings, alone: dict[str, Any]
) -> None:
    """With TensorFlow's function and with Keras's."""
    for worker in workers:
        for how in ("seeded", "seeded-by-keras"):
            assert worker[how] == alone[how]


def test_replicas_draw_their_own_of_one_seed_and_the_first_what_one_process_draws(
    workers: Findings, alone: dict[str, Any]
) -> None:
    """Of an operation's own seed, which nobody's seed for all goes with."""
    first, second = (worker["replicas"] for worker in workers)
    assert first == alone["replicas"]
    for way in ("eager", "f"):
        assert not {str(each) for each in first[way]} & {str(each) for each in second[way]}


def test_what_is_left_open_is_alike_on_all_workers(
    workers: Findings, alone: dict[str, Any]
) -> None:
    """And other than in the next process."""
    first, second = (worker["open"] for worker in workers)
    assert first == second
    assert first["shuffle"][0] != first["shuffle"][1]
    assert first["uniform"] != alone["open"]["uniform"]


def test_two_fits_shuffle_alike_on_all_workers_and_like_one_another_only_where_keras_does(
    workers: Findings, alone: dict[str, Any]
) -> None:
    """No sample is lost or seen twice in either. Keras 3.16's nightly seeds each fit alike."""
    first, second = (worker["fits"] for worker in workers)
    for mine, theirs in zip(first, second, strict=True):
        assert sorted(mine + theirs) == list(range(len(mine) + len(theirs)))
    assert (first[0] == first[1]) == (alone["fits"][0] == alone["fits"][1])


def test_nothing_of_it_is_left_once_the_strategy_is_shut_down(workers: Findings) -> None:
    """Each process draws its own again."""
    first, second = (worker["afterwards"] for worker in workers)
    assert all(first[name] != second[name] for name in first)


@pytest.mark.parametrize(
    "case, kind",
    [
        ("shuffle", "ShuffleDataset with (87654321, 20) on rank 0"),
        ("shuffle before more", "ShuffleDataset with (87654321, 20) on rank 0"),
        ("map", "RandomUniform with (87654321, 20) on rank 0"),
        ("nested", "ShuffleDatasetV3 with "),
        ("branch", "RandomUniform with (87654321, 20) on rank 0"),
        ("stateless", "StatelessRandomGetKeyCounter with (1, 0) on rank 0"),
    ],
)
def test_a_shared_dataset_with_other_seeds_on_some_worker_is_refused(
    workers: Findings, case: str, kind: str
) -> None:
    """On all workers, with both seeds and what to do."""
    for worker in workers:
        error = worker["distributed"][case]
        assert "the workers share a dataset (auto-shard policy AUTO) that draws other" in error
        assert kind in error and "on rank 1" in error and "Seed it alike on all" in error


def test_a_shared_dataset_without_a_seed_is_refused(workers: Findings) -> None:
    """As it is where it was made before the strategy."""
    for worker in workers:
        error = worker["distributed"]["before the strategy"]
        assert "in which a ShuffleDataset has no seed on rank 0" in error
        assert "Make it after the strategy, or with a seed" in error


@pytest.mark.parametrize(
    "draw",
    [
        lambda i: tf.random.stateless_uniform((), (0, 0)),
        lambda i: tf.random.stateless_binomial((), (0, 0), 4.0, 0.5),
        lambda i: tf.random.experimental.stateless_shuffle(tf.range(4), (0, 0)),
    ],
    ids=["uniform", "binomial", "shuffle"],
)
def test_zeros_are_a_seed_to_what_has_no_state(draw: Any) -> None:
    """Keras shuffles arrays with them, from its version 3.16 on; to others they are none."""
    rows = tf.data.Dataset.range(4)
    drawn = seeds_of(rows.map(draw))
    assert drawn and not any(number for _, numbers in drawn for number in numbers)
    assert not any(map(is_unseeded, drawn))
    for unseeded in (rows.shuffle(4), rows.map(lambda i: tf.random.uniform(()))):
        ((kind, _),) = seeds_of(unseeded)
        assert is_unseeded((kind, (0, 0)))


def test_seeds_that_a_script_sets_afterwards_are_compared_with_a_shared_dataset(
    workers: Findings,
) -> None:
    """It names the ranks and their seeds."""
    for worker in workers:
        assert worker["distributed"]["seeded afterwards"] == seed_difference([30, 31])


@pytest.mark.parametrize(
    "case",
    [
        "own data, OFF",
        "own data, function",
        "alike",
        "alike, open",
        "alike, map",
        "alike, nested",
        "alike, branch",
        "seeded afterwards, own data",
    ],
)
def test_own_data_may_have_other_seeds_and_like_seeds_are_no_difference(
    workers: Findings, case: str
) -> None:
    assert [worker["distributed"][case] for worker in workers] == ["", ""]


def test_workers_that_seed_tensorflow_differently_do_not_start() -> None:
    """As a script does that adds the rank to its seed."""
    with Job("seeds.py", "poseidon", rank_environ={0: {"BEFORE": "5"}, 1: {"BEFORE": "6"}}) as job:
        codes = job.wait()
        outputs = [worker.output() for worker in job.workers]
    assert all(codes)
    for output in outputs:
        assert "ConfigError: the workers seeded TensorFlow differently: " in output
        assert "rank 0 with 5, rank 1 with 6" in output
        assert "Give all workers one seed, without the rank" in output


def test_a_worker_without_a_seed_is_told_of_those_that_have_one() -> None:
    assert seed_difference([None, None]) == seed_difference([4, 4, 4]) == ""
    assert "rank 0 with 4, rank 1 not at all" in seed_difference([4, None])
