"""Arrays come back as they were, and bytes that are none are refused before memory is taken."""

import json
import tracemalloc

import numpy as np
import pytest

from poseidon_tf.errors import ProtocolError
from poseidon_tf.wire.arrays import pack, unpack

ARRAYS = [
    np.float32(3.5) * np.ones(()),
    np.arange(6, dtype="int64").reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(3, 2)),
    np.zeros((0, 4), "float16"),
    np.array([True, False, True]),
    np.array([1 + 2j], "complex64"),
    np.arange(8, dtype="uint8")[::2],
]


def made(head: object, data: bytes = bytes(8)) -> bytes:
    """Bytes with this list at their beginning."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return len(text).to_bytes(4, "little") + text + data


def test_arrays_come_back_as_they_were() -> None:
    """In order, with their shapes and dtypes; and they may be written."""
    for before, after in zip(ARRAYS, unpack(pack(ARRAYS)), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
        np.testing.assert_array_equal(before, after)
        assert after.flags.writeable and after.flags.aligned
    assert unpack(pack([])) == []


def test_a_list_made_by_hand_is_read() -> None:
    """The bad ones below are bad for the reason that they name."""
    (array,) = unpack(made([["float32", [2]]], np.array([1, 2], "f").tobytes()))
    assert array.tolist() == [1, 2]


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"abc",
        b"\xff\xff\xff\xff",
        pack(ARRAYS)[:-1],
        pack(ARRAYS) + b"x",
        made([["float32", [10**12]]]),
        made([["float32", [2**32, 2**32]]]),
        made([["float32", [10**300]]]),
        made([["float32", [-2]]]),
        made([["float32", [-1, -2]]]),
        made([["float32", [2.0]]]),
        made([["float32", [True, 2]]]),
        made([["float32", [0] * 33]], b""),
        made([["float32", 2]]),
        made([["float32"]]),
        made([["object", [1]]]),
        made([["O", [1]]]),
        made([["V0", [1]]]),
        made([["float32,float32", [1]]]),
        made([[["float32"], [2]]]),
        made({"float32": [2]}),
        made(3),
        made(b"not JSON"),
        made(b"\xff\xfe"),
        made(b"[" * 100_000),
    ],
)
def test_what_is_no_array_is_refused(packed: bytes) -> None:
    """Cut, of another size, of objects, of a negative length, or not even a list."""
    with pytest.raises(ProtocolError, match="bytes that are not arrays"):
        unpack(packed)


def test_no_memory_is_taken_for_a_shape_whose_bytes_are_not_there() -> None:
    """400 MB are named, 8 bytes are there."""
    packed = made([["float32", [10**8]]])
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="bytes are not there"):
            unpack(packed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("array", [np.array([object()]), np.array(["text"]), np.zeros(2, "f,f")])
def test_what_is_no_number_is_not_sent(array: np.ndarray) -> None:
    """Whoever tries hears it before anything leaves."""
    with pytest.raises(TypeError, match="only numbers can"):
        pack([array])
