"""NaN and infinity in a worker's own contribution are found before it is sent."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from poseidon_tf.errors import NumericsError
from poseidon_tf.session.numerics import fault
from tests.session.session_bench import MakeBench

DTYPES = ["float16", ml_dtypes.bfloat16, "float32", "float64"]
NAMES = ["the gradient of 'fc/kernel'", "the gradient of 'fc/bias'"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_bad_number_is_found_wherever_it_is(dtype: str | type[Any], value: float) -> None:
    """And counted; the largest finite numbers are none."""
    finfo: Any = ml_dtypes.finfo
    largest = float(finfo(dtype).max)
    for at in [(0, 0), (2, 1), (6, 4)]:
        array = np.full((7, 5), largest, dtype)
        array[::2] = -largest
        assert fault(array) == ""
        array[at] = value
        kind = "1 NaN and 0 infinite" if np.isnan(value) else "0 NaN and 1 infinite"
        assert fault(array) == f"{kind} among its 35 numbers, the first at {at}"


@pytest.mark.parametrize("dtype", [*DTYPES, "int32"])
def test_no_rows_are_no_bad_rows(dtype: str | type[Any]) -> None:
    """A share of a batch may be empty."""
    assert fault(np.zeros((0, 5), dtype)) == ""


@pytest.mark.parametrize("bits", [0x7F80_0000, 0x7FC0_0000, -1])
def test_integers_are_finite_whatever_their_bits(bits: int) -> None:
    """Row numbers are."""
    assert fault(np.full(3, bits, "int32")) == ""


def test_all_of_many_bad_numbers_are_counted() -> None:
    """Of either kind."""
    array = np.array([1, np.nan, np.inf, -np.inf, np.nan, np.nan], "float16")
    assert fault(array) == "3 NaN and 2 infinite among its 6 numbers, the first at (1,)"


def test_a_bad_contribution_is_not_sent_and_fails_the_session(bench: MakeBench) -> None:
    """The error names rank, step and the variable itself, not only its unit; the others hear it."""
    job = bench()
    names: dict[str, Any] = {"variables": ["fc/kernel", "fc/bias"], "contents": NAMES}
    route, delivered = job.route("fc/kernel and 1 more", **names)
    good, bad = np.ones((2, 3), "float32"), np.array([1, np.nan, 2], "float32")
    route.push([good, good], check=True)
    route.push([good, bad], check=True)
    assert [step for step, _ in route.syncer.sent] == [0]
    text = (
        "worker rank 3 (10.0.0.3:1), step 1: the gradient of 'fc/bias' is not finite: "
        "1 NaN and 0 infinite among its 3 numbers, the first at (1,)"
    )
    assert job.reports == [text]
    assert isinstance(job.session.failure, NumericsError)
    assert {delivered.next()[0], delivered.next()[0]} == {0, 1}


def test_it_is_sent_where_nobody_asked(bench: MakeBench) -> None:
    """Sums of what is not finite are what they are."""
    route, _ = bench().route("fc")
    route.push([np.array([np.nan])])
    assert len(route.syncer.sent) == 1


def test_a_bad_contribution_of_one_replica_names_the_replica(bench: MakeBench) -> None:
    """It is found before the replicas' contributions are joined."""
    job = bench()
    route, _ = job.route("fc", num_replicas=2)
    route.push([np.array([np.inf])], 1, check=True)
    route.push([np.ones(1)], 0, check=True)
    assert route.syncer.sent == []
    assert job.reports[0].startswith(
        "worker rank 3 (10.0.0.3:1), replica 1, step 0: the contribution to 'fc' is not "
    )


def test_what_has_no_room_in_float16_says_where_there_is_room(bench: MakeBench) -> None:
    """A float32 gradient that was rounded to it; a NaN is no matter of room."""
    for bad, ends in (([1, np.inf], True), ([1, np.nan], False)):
        job = bench()
        route, _ = job.route("fc")
        route.push([np.array(bad, "float16")], check=True)
        (text,) = job.reports
        assert text.endswith("; float16 ends at 65504, bfloat16 only where float32 does") == ends


def test_a_sum_that_has_no_room_in_float16_fails_the_session(bench: MakeBench) -> None:
    """Where contributions are looked at: each was finite. The step gets the error, not the sum."""
    job = bench()
    route, delivered = job.route("fc", variables=["fc/kernel", "fc/bias"])
    total = np.array([1, 80_000], "float32")
    with np.errstate(over="ignore"):
        results = [total.astype("float16")]
    route.push([total.astype("float32") / 2], check=True)
    job.session.done(route, 0, results)
    text = (
        "worker rank 3 (10.0.0.3:1), step 0: the sum over all workers for 'fc/kernel', 'fc/bias' "
        "is not finite: 0 NaN and 1 infinite among its 2 numbers, the first at (1,); float16 ends "
        "at 65504, bfloat16 only where float32 does"
    )
    assert job.reports == [text]
    step, nothing, error = delivered.next()
    assert (step, nothing) == (0, []) and error.startswith(text)
    assert delivered.none()


@pytest.mark.parametrize("dtype, check", [("float16", False), ("float32", True)])
def test_a_sum_is_what_it_is_elsewhere(bench: MakeBench, dtype: str, check: bool) -> None:
    """Under a loss scale, which looks for overflow itself, or in a type with float32's range."""
    job = bench()
    route, delivered = job.route("fc")
    route.push([np.ones(1, dtype)], check=check)
    job.session.done(route, 0, [np.array([np.inf], dtype)])
    assert delivered.next()[2] == "" and job.reports == []
