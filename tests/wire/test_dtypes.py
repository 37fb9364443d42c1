"""Widening and narrowing, against numpy's float16 and ml_dtypes' bfloat16."""

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.wire.dtypes import narrow, widen, wire_dtype

EVERY_HALF = np.arange(2**16, dtype=np.uint16)


def float32_samples() -> np.ndarray:
    """Random bit patterns, and every tie between two bfloat16 neighbours."""
    bits = np.random.default_rng(3).integers(0, 2**32, 200_000, dtype=np.uint32)
    ties = EVERY_HALF.astype(np.uint32) << 16 | 0x8000
    return np.concatenate([bits, ties, ties - 1, ties + 1]).view(np.float32)


def equal_bits_or_both_nan(ours: np.ndarray, theirs: np.ndarray) -> bool:
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    nan = np.isnan(theirs.astype(np.float32))
    raw = np.dtype(f"u{ours.itemsize}")
    same = ours.view(raw)[~nan] == theirs.view(raw)[~nan]
    return bool(same.all()) and bool(np.isnan(ours.astype(np.float32)[nan]).all())


def test_bfloat16_rounds_to_nearest_even() -> None:
    """Narrowing gives ml_dtypes' bits for all samples, infinities included; a NaN stays one."""
    values = float32_samples()
    with np.errstate(all="ignore"):
        expected = values.astype(ml_dtypes.bfloat16)
    ours = narrow(values, "bfloat16")
    assert ours.dtype == np.uint16
    assert equal_bits_or_both_nan(ours.view(ml_dtypes.bfloat16), expected)


def test_float16_rounds_as_numpy_does() -> None:
    """Narrowing gives numpy's bits for all samples."""
    values = float32_samples()
    with np.errstate(all="ignore"):
        expected = values.astype(np.float16)
    assert equal_bits_or_both_nan(narrow(values, "float16"), expected)


@pytest.mark.parametrize(
    "name, dtype", [("bfloat16", ml_dtypes.bfloat16), ("float16", np.dtype(np.float16))]
)
def test_every_half_survives_the_way_to_float32_and_back(name: str, dtype: Any) -> None:
    """Widening is exact for all 65536 patterns, and narrowing undoes it."""
    wide = widen(EVERY_HALF.tobytes(), name)
    assert wide.dtype == np.float32
    assert equal_bits_or_both_nan(wide, EVERY_HALF.view(dtype).astype(np.float32))
    assert equal_bits_or_both_nan(narrow(wide, name).view(dtype), EVERY_HALF.view(dtype))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_overflow_is_infinity_without_a_warning(name: str) -> None:
    """A sum too large for its type, ordinary under loss scaling, is no event on the server."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        narrowed = narrow(np.full(3, np.finfo(np.float32).max, np.float32), name)
    assert np.isinf(widen(narrowed.tobytes(), name)).all()


@pytest.mark.parametrize("name", ["float32", "float64", "int32", "int64"])
def test_full_precision_is_summed_as_it_is(name: str) -> None:
    """Neither way copies or changes the values."""
    values = np.arange(5).astype(name)
    payload = values.tobytes()
    wide = widen(payload, name)
    assert wide.dtype == values.dtype and wide.tobytes() == payload
    assert not wide.flags.owndata
    assert narrow(wide, name) is wide


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "int32", "int64"])
def test_nothing_is_a_sum_too(name: str) -> None:
    """A payload of no bytes has no values, in every type."""
    assert narrow(widen(b"", name), name).tobytes() == b""
    assert wire_dtype(name).byteorder in "<="


@pytest.mark.parametrize("name", ["", "bool", "complex64", "float8_e4m3fn", "<f4", "string"])
def test_a_type_without_a_sum_is_refused_by_name(name: str) -> None:
    """The message names the type and those that would do."""
    with pytest.raises(ProtocolError, match=f"'{name}'.*float32"):
        wire_dtype(name)
