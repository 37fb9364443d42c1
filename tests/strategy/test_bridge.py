"""Results become tensors: the same bits in the same memory, for as long as it is used."""

from __future__ import annotations

import gc
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from poseidon_tf.session.buffers import Buffers
from poseidon_tf.session.session import Deliver, Route
from poseidon_tf.strategy.graph.route import GraphRoute, _as_tensor

# As they are on the wire, and as TensorFlow has them.
DTYPES = [
    ("float32", tf.float32),
    ("float64", tf.float64),
    ("int32", tf.int32),
    ("int64", tf.int64),
    ("float16", tf.float16),
    ("uint16", tf.bfloat16),
]
NUM_BYTES = 128 * 1024


class _Lent:
    """A tensor's memory for NumPy: TensorFlow 2.16 has the function, its tensors not the method."""

    def __init__(self, tensor: tf.Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **_: object) -> Any:
        return tf.experimental.dlpack.to_dlpack(self._tensor)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # The first CPU.


def address(tensor: tf.Tensor) -> int:
    bits = tf.bitcast(tensor, tf.uint16) if tensor.dtype == tf.bfloat16 else tensor
    return int(np.from_dlpack(_Lent(bits)).ctypes.data)


def filled(values: Any, wire: str, number: int) -> Any:
    result = values.view(wire)
    one = np.array(number, ml_dtypes.bfloat16).view("uint16") if wire == "uint16" else number
    result[:] = one
    return result


@pytest.mark.parametrize("num_bytes", [8, NUM_BYTES])
@pytest.mark.parametrize("wire, dtype", DTYPES)
def test_a_result_is_the_tensors_memory(wire: str, dtype: tf.DType, num_bytes: int) -> None:
    """Nothing is copied, and the values are those of the tensor's type."""
    result = filled(Buffers(num_bytes).take().values, wire, 3)
    tensor = _as_tensor(result, dtype)
    assert tensor.dtype == dtype and address(tensor) == result.ctypes.data
    assert tensor.shape == result.shape and tensor.numpy().tobytes() == result.tobytes()
    assert tf.reduce_all(tensor == tf.cast(3, dtype))


@pytest.mark.parametrize("wire, dtype", DTYPES)
def test_no_elements_at_all_are_a_result_too(wire: str, dtype: tf.DType) -> None:
    tensor = _as_tensor(Buffers(0).take().values.view(wire), dtype)
    assert tensor.dtype == dtype and tensor.shape == [0]


@pytest.mark.parametrize("wire, dtype", [DTYPES[0], DTYPES[-1]])
def test_memory_is_not_used_again_while_a_tensor_has_it(wire: str, dtype: tf.DType) -> None:
    """Neither by the next results nor after the array is gone; without a tensor it is."""
    buffers = Buffers(NUM_BYTES)
    result = filled(buffers.take().values, wire, 3)
    first = result.ctypes.data
    tensor = _as_tensor(result, dtype)
    del result
    gc.collect()
    for number in (5, 7):
        other = filled(buffers.take().values, wire, number)
        assert other.ctypes.data != first
    variable = tf.Variable(tensor)
    assert tf.reduce_all(tensor == tf.cast(3, dtype))
    del tensor, variable, other
    gc.collect()
    assert first in [
        values.ctypes.data for values in (buffers.take().values, buffers.take().values)
    ]


def test_a_tensor_in_a_queue_keeps_its_memory() -> None:
    """Between delivery and the step that takes it only the queue refers to a result."""
    buffers = Buffers(NUM_BYTES)
    waiting = tf.queue.FIFOQueue(10, [tf.float32])
    for number in range(4):
        waiting.enqueue(_as_tensor(filled(buffers.take().values, "float32", number), tf.float32))
    for number in range(4):
        assert tf.reduce_all(waiting.dequeue() == float(number))


def test_a_result_that_is_not_aligned_has_the_same_bits() -> None:
    """Any array will do, such as a view into a message."""
    values = np.arange(NUM_BYTES + 4, dtype=np.uint8)[4:].view(np.float32)
    tensor = _as_tensor(values, tf.float32)
    assert tensor.numpy().tobytes() == values.tobytes()


def test_a_result_that_may_not_be_written_to_is_copied() -> None:
    """A view into a message is read-only, may well be aligned, and is not for us to keep."""
    result = filled(Buffers(NUM_BYTES).take().values, "float32", 3)
    result.flags.writeable = False
    tensor = _as_tensor(result, tf.float32)
    assert address(tensor) != result.ctypes.data
    assert tensor.numpy().tobytes() == result.tobytes()


class _Echo:
    """A route on which a worker is alone: what is contributed is the sum, laid end to end."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver, self.next_step = deliver, 0
        self.pushed: list[list[Any]] = []

    def push(self, arrays: list[Any], replica: int | None, *, check: bool) -> int:
        self.pushed.append([np.array(array) for array in arrays])
        vector = np.concatenate([np.ravel(array) for array in arrays])
        self._deliver(self.next_step, [vector], "")
        self.next_step += 1
        return self.next_step - 1


@pytest.mark.parametrize("check, sizes", [(None, [10]), (True, [6, 1, 3])])
def test_a_vector_is_laid_end_to_end_by_the_graph(check: bool | None, sizes: list[int]) -> None:
    """Python gets one array of hundreds; where a check may have to name one, it gets each."""
    opened: list[_Echo] = []

    def open_route(deliver: Deliver) -> Route:
        opened.append(_Echo(deliver))
        return cast(Route, opened[-1])

    whole = GraphRoute(
        "kernel", [tf.float32], open_route, lambda: None, num_replicas=1, is_vector=True
    )
    route = whole.checking(check)
    tensors = [tf.reshape(tf.range(6.0), [2, 3]), tf.constant(6.0), tf.range(7.0, 10.0)]

    @tf.function
    def step() -> list[tf.Tensor]:
        return route.exchange(tensors)

    for _ in range(2):
        (result,) = step()
        assert result.numpy().tolist() == list(range(10))
    assert [[array.size for array in pushed] for pushed in opened[0].pushed] == [sizes] * 2
