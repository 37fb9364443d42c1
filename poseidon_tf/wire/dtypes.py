"""Which element types can be summed, and in which type the sum is held.

Half-precision contributions are summed in float32 and rounded once, so that the sum of many
workers is as good as that of one. numpy has no bfloat16: its bits travel as uint16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from poseidon_tf.errors import ProtocolError

Array = npt.NDArray[Any]
_WIRE: dict[str, np.dtype[Any]] = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
}


def wire_dtype(name: str) -> np.dtype[Any]:
    """The numpy type whose bytes are on the wire.

    Raises:
      ProtocolError: no sum is defined for this type.
    """
    try:
        return _WIRE[name]
    except KeyError:
        raise ProtocolError(
            f"dtype {name[:40]!r} cannot be summed; known: {', '.join(_WIRE)}"
        ) from None


def is_summed_as_it_comes(name: str) -> bool:
    """Whether sums of this type are held in the type itself, not in a wider one."""
    return name not in ("float16", "bfloat16")


def widen(payload: memoryview | bytes, name: str) -> Array:
    """The values of `payload` in the type that sums are held in; may share its memory."""
    values: Array = np.frombuffer(payload, wire_dtype(name))
    if name == "float16":
        return values.astype(np.float32)
    if name == "bfloat16":
        bits = values.astype(np.uint32)
        bits <<= 16  # In place, as below: memory is what this takes its time with.
        return bits.view(np.float32)
    return values


def narrow(total: Array, name: str) -> Array:
    """`total` in the wire's type; bfloat16 rounds to nearest, ties to even."""
    if name == "float16":
        with np.errstate(over="ignore"):  # Infinity is the answer; loss scaling expects it.
            return total.astype(np.float16)
    if name == "bfloat16":
        bits = np.ascontiguousarray(total, np.float32).view(np.uint32)
        rounded = bits >> 16
        rounded &= 1
        rounded += 0x7FFF
        rounded += bits
        rounded >>= 16
        result: Array = rounded.astype(np.uint16)
        if (nans := np.isnan(total)).any():
            result[nans] = (bits[nans] >> 16) | 0x40  # A quiet one.
        return result
    return total
