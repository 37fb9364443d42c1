"""Workers are named by rank, and by address once that is known."""

from poseidon_tf.session.naming import WorkerNames


def test_an_address_that_is_not_known_yet_is_left_out() -> None:
    names = WorkerNames(["a:1", ""])
    assert names.all_of([0, 1, 2]) == "worker rank 0 (a:1), worker rank 1, worker rank 2"
    names.learn(["a:1", "b:2"])
    assert names.all_of([0, 1]) == "worker rank 0 (a:1), worker rank 1 (b:2)"
