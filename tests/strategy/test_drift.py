"""Workers that no longer hold the same values stop, and say which variable and which ranks."""

import re

import pytest

from poseidon_tf.session.naming import WorkerNames
from poseidon_tf.strategy.drift import difference

NAMES = ["a", "b", "c"]
WORKERS = WorkerNames([f"h{rank}:1" for rank in range(5)])
ALIKE = b"".join(letter * 8 for letter in (b"a", b"b", b"c"))


def named(text: str) -> str:
    """`text` with the whole name of every worker in it."""
    return re.sub(r"rank (\d)", lambda found: WORKERS.one(int(found[1])), text)


def changed(*positions: int, to: bytes = b"x") -> bytes:
    """`ALIKE` with other digests of the variables at `positions`."""
    digests = [ALIKE[at : at + 8] for at in range(0, len(ALIKE), 8)]
    return b"".join(to * 8 if at in positions else each for at, each in enumerate(digests))


def test_what_is_alike_is_no_difference() -> None:
    """On any number of workers, one included, and with nothing to compare."""
    for num_workers in (1, 2, 5):
        assert difference(NAMES, [ALIKE] * num_workers, num_replicas=1, workers=WORKERS) == ""
        assert difference([], [b""] * num_workers, num_replicas=2, workers=WORKERS) == ""


@pytest.mark.parametrize(
    "everyone, text",
    [
        (
            [ALIKE, changed(1)],
            "'b' is not the same everywhere: rank 0 holds one value, rank 1 does not hold it; "
            "1 of 3 variables differ",
        ),
        (
            [changed(1, 2), ALIKE, changed(1), ALIKE],
            "'b' is not the same everywhere: rank 0, rank 2 hold one value, rank 1, rank 3 do not "
            "hold it; 2 of 3 variables differ",
        ),
        (
            [ALIKE, changed(0), changed(0, to=b"y")],
            "'a' is not the same everywhere: rank 0 holds one value, rank 1, rank 2 do not hold "
            "it; 1 of 3 variables differ",
        ),
    ],
)
def test_the_first_difference_is_named_with_its_ranks(everyone: list[bytes], text: str) -> None:
    """Who holds what rank 0 holds and who does not, and how many variables differ."""
    assert difference(NAMES, everyone, num_replicas=1, workers=WORKERS) == named(text)


def test_replicas_of_one_worker_are_told_apart() -> None:
    """Each has digests of its own, also where all workers agree on the difference."""
    everyone = [ALIKE + changed(2)] * 2
    assert difference(NAMES, everyone, num_replicas=2, workers=WORKERS) == named(
        "'c' is not the same everywhere: rank 0 (replica 0), rank 1 (replica 0) hold one value, "
        "rank 0 (replica 1), rank 1 (replica 1) do not hold it; 1 of 3 variables differ"
    )


def test_workers_that_compare_other_variables_are_told_so() -> None:
    """A list of other length is no digest of the same variables."""
    text = difference(NAMES, [ALIKE, ALIKE[:16]], num_replicas=1, workers=WORKERS)
    assert text == named(
        "3 variables were compared here and 2 on rank 1; give all workers the same"
    )
