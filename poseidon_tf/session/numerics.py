"""Finds numbers that are not finite in what a worker contributes, or gets back."""

from __future__ import annotations

import numpy as np

from poseidon_tf.wire.dtypes import Array

# Without its sign a half-precision number is infinite or NaN from here on, as an integer. numpy
# has no bfloat16 of its own, and looks at float16 a number at a time.
_HALF = {"float16": 0x7C00, "bfloat16": 0x7F80}
_TOO_SMALL = "; float16 ends at 65504, bfloat16 only where float32 does"


def fault(array: Array) -> str:
    """What is wrong with `array`, of any floating or integer type; empty if it is finite."""
    if array.dtype.kind in "iub":
        return ""
    infinity = _HALF.get(array.dtype.name)
    if infinity is None:
        if np.isfinite(array).all():
            return ""
        is_nan, is_infinite = np.isnan(array), np.isinf(array)
    else:
        bits = array.view(np.uint16) & 0x7FFF
        if not bits.size or bits.max() < infinity:
            return ""
        is_nan, is_infinite = bits > infinity, bits == infinity
    first = tuple(int(index[0]) for index in np.nonzero(is_nan | is_infinite))
    return (
        f"{np.count_nonzero(is_nan)} NaN and {np.count_nonzero(is_infinite)} infinite among its "
        f"{array.size} numbers, the first at {first}"
    )


def may_overflow(array: Array) -> bool:
    """Whether a sum in the type of `array` may be infinite, if what is added up is finite."""
    return bool(array.dtype.name == "float16")


def advice(array: Array) -> str:
    """What to do about infinite numbers in `array`; empty if there are none, or nothing is."""
    return _TOO_SMALL if may_overflow(array) and np.isinf(array).any() else ""
