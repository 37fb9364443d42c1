"""Arrays one after another as bytes, read without trust: a list of what they are, then their bytes.

numpy has formats of its own. Its reader takes memory for the shape that a header names before it
has looked for the bytes, unpacks what was compressed, and hands the header to Python's parser.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence

import numpy as np

from poseidon_tf.errors import ProtocolError
from poseidon_tf.wire.dtypes import Array

# Of the list, in bytes, before the list.
_LENGTH = struct.Struct("<I")
_DTYPES = re.compile(
    r"bool|u?int(8|16|32|64)|float(16|32|64)|complex(64|128)|bfloat16"  # The last is TensorFlow's.
)
# numpy knows no more.
_MOST_DIMENSIONS = 32


def pack(arrays: Sequence[Array]) -> bytes:
    """The bytes of the arrays.

    Raises:
      TypeError: an array of something else than numbers.
    """
    for array in arrays:
        if not _DTYPES.fullmatch(array.dtype.name):
            raise TypeError(f"an array of {array.dtype} cannot be sent: only numbers can")
    head = json.dumps([[array.dtype.name, array.shape] for array in arrays]).encode()
    return b"".join((_LENGTH.pack(len(head)), head, *(array.tobytes() for array in arrays)))


def unpack(packed: bytes) -> list[Array]:
    """The arrays that `pack` was given.

    Raises:
      ProtocolError: these bytes are not such arrays.
    """
    try:
        (head_bytes,) = _LENGTH.unpack_from(packed)
        begin = _LENGTH.size + head_bytes
        arrays = []
        for name, shape in json.loads(packed[_LENGTH.size : begin]):
            if not _DTYPES.fullmatch(name) or len(shape) > _MOST_DIMENSIONS:
                raise ValueError(f"an array of {name!r:.40} in {len(shape)} dimensions")
            if not all(type(length) is int and length >= 0 for length in shape):
                raise ValueError(f"an array of shape {shape!r:.80}")
            dtype, count = np.dtype(name), math.prod(shape)
            end = begin + count * dtype.itemsize
            if end > len(packed):
                raise ValueError(f"an array of shape {shape!r:.80} whose bytes are not there")
            # A copy: aligned, writable, and keeping nothing else alive.
            arrays.append(np.frombuffer(packed[begin:end], dtype).reshape(shape).copy())
            begin = end
        if begin != len(packed):
            raise ValueError(f"{len(packed) - begin} bytes more than the arrays have")
    except (ValueError, TypeError, RecursionError, struct.error) as failure:
        raise ProtocolError(f"{len(packed)} bytes that are not arrays: {failure}") from failure
    return arrays
