"""From the graph to the session and back: one push operation and one queue per route.

- The push is stateful, or it would be pruned, and runs independently of program order, or
  nothing would leave before backprop ends.
- Exchanges over one route keep program order all the same, or the gradients of two passes over a
  variable could be summed with one another: a push waits for its turn, an operation on the queue,
  and TensorFlow runs the operations on one queue in program order, also from one iteration of a
  loop to the next.
- The pull is a queue's dequeue, an asynchronous kernel: a wait in a Python function would hold
  one of the threads that backprop needs.
- Every element carries its error. Closing the queue instead would raise OutOfRange, which Keras
  takes for the end of the data.
- Both are pinned to the host; results are copied to the device that uses them.

An array that the push function is given shares TensorFlow's memory. The array holds a reference
to the buffer, so TensorFlow neither frees nor reuses it before the last view of it is gone.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import tensorflow as tf

from poseidon_tf.errors import PoseidonError
from poseidon_tf.session.buffers import ALIGNMENT
from poseidon_tf.session.session import Deliver, Route
from poseidon_tf.strategy import tf_internals

_HOST = "/device:CPU:0"
_numbers = itertools.count()


@final
class GraphRoute:
    """A route as graphs and eager code use it.

    Args:
      name: for errors and for people who look at the graph.
      dtypes: of the results, which are flat or rank-2 arrays of any size.
      open_route: called once with the function that takes results.
      failure: the session's, to raise in eager mode.
      num_replicas: G of this worker. Each has a push and a queue of its own.
      is_vector: whether what is contributed counts as one vector, laid end to end. The graph lays
        it so: for Python hundreds of small tensors are as many arrays, each of which takes longer
        than its copy.
    """

    def __init__(
        self,
        name: str,
        dtypes: Sequence[tf.DType],
        open_route: Callable[[Deliver], Route],
        failure: Callable[[], PoseidonError | None],
        *,
        num_replicas: int,
        is_vector: bool = False,
    ) -> None:
        self.name = name
        self._dtypes = tuple(dtypes)
        self._is_vector = is_vector
        self._failure = failure
        with tf.init_scope(), tf.device(_HOST):
            self._queues = [
                tf.queue.FIFOQueue(
                    capacity=2**30,
                    dtypes=[tf.string, tf.int64, *self._dtypes],
                    shared_name=f"poseidon_{next(_numbers)}",
                )
                for _ in range(num_replicas)
            ]
            self._no_error = _text("")
        self._route = open_route(self._deliver)
        self._rows: Any = None
        self._check: Any = None

    @property
    def of_session(self) -> Route:
        """What it leads to."""
        return self._route

    def unless_empty(self, rows: Any) -> GraphRoute:
        """The same way for a share of `rows` rows: where there are none, zeros are contributed.

        The push looks, so that a gradient is neither copied nor kept waiting.
        """
        guarded = copy.copy(self)
        guarded._rows = rows
        return guarded

    def checking(self, check: Any) -> GraphRoute:
        """The same way, on which a number that is not finite fails the session.

        Args:
          check: whether it does, a bool or a tensor of one; None for a way as it was.
        """
        checked = copy.copy(self)
        checked._check = check
        return checked

    def exchange(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Contribute `tensors`; the results, as soon as they are there.

        In a graph they are those of the replica that is traced; elsewhere, and in a graph outside
        of any replica, they stand for all replicas of this worker.
        """
        if tf.executing_eagerly():
            return self.pull(self.push(tensors))
        return self.receive(self.send(tensors))

    def send(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Contribute `tensors` in the graph that is traced; a `receive` comes in it or in another.

        It contributes for whom `exchange` does, and starts as soon as `tensors` are there. Of
        two in one graph the first must be received before the second is sent: else they are in no
        order.

        Returns:
          The step that they belong to, an int64.
        """
        if self._is_vector and len(tensors) > 1 and self._check is None:  # A check names one.
            with tf.name_scope(self._scope):
                tensors = [tf.concat([tf.reshape(each, [-1]) for each in tensors], axis=0)]
        replica = self._replica()
        contribute = functools.partial(self._push, replica)
        with tf.name_scope(self._scope), tf.device(_HOST):
            turn = [queue.size(name="turn") for queue in self._queues_of(replica)]
            with tf.control_dependencies(turn):
                step = tf.numpy_function(
                    contribute, [*tensors, *self._extras()], tf.int64, name="push"
                )
            tf_internals.run_independently(step.op)
        return step

    def receive(self, sent: tf.Tensor | None = None) -> list[tf.Tensor]:
        """The results of what was sent first of all that was not received yet, in a graph.

        Args:
          sent: what `send` has returned in this graph, which comes before, and whose results are
            expected.
        """
        queues = self._queues_of(self._replica())
        with tf.name_scope(self._scope), tf.device(_HOST):
            with tf.control_dependencies([] if sent is None else [sent]):
                pulls = [queue.dequeue(name="pull") for queue in queues]
            checks = []
            for error, step, *_ in pulls:
                if sent is not None:
                    error = tf.where(tf.equal(step, sent), error, self._of_another_step)
                checks.append(tf.debugging.Assert(tf.equal(error, ""), [error], name="check"))
                tf_internals.run_independently(checks[-1])
            with tf.control_dependencies(checks):
                return [tf.identity(result) for result in pulls[0][2:]]

    @property
    def num_pushes(self) -> int:
        """How often something was contributed."""
        return self._route.num_pushes

    @property
    def _scope(self) -> str:
        scope = "".join(c if c.isalnum() or c in "_./-" else "_" for c in self.name).strip("_/-.")
        return f"poseidon/{scope}"

    def _replica(self) -> int | None:
        """The replica that is traced, if it stands for itself alone."""
        is_replica = len(self._queues) > 1 and tf_internals.is_in_replica()
        return tf_internals.replica_id() if is_replica else None

    def _queues_of(self, replica: int | None) -> list[tf.queue.FIFOQueue]:
        return self._queues if replica is None else [self._queues[replica]]

    def push(self, tensors: Sequence[tf.Tensor]) -> int:
        """Contribute eager `tensors` and go on; one `pull` must come before the next push.

        Returns:
          The step that they belong to.
        """
        extras = [np.asarray(extra) for extra in self._extras()]
        return self._push(None, *(tensor.numpy() for tensor in tensors), *extras)

    def pull(self, pushed: int) -> list[tf.Tensor]:
        """The results of the last `push`, as eager tensors; waits for them.

        Args:
          pushed: what it has returned.
        """
        with tf.device(_HOST):
            pulls = [queue.dequeue() for queue in self._queues]
        error, step, *results = pulls[0]
        if text := error.numpy().decode():
            failure = self._failure()
            raise type(failure)(text) if failure is not None else PoseidonError(text)
        if int(step) != pushed:
            raise PoseidonError(self._of_another_step)
        return list(results)

    @property
    def _of_another_step(self) -> str:
        return (
            f"the sum that came for {self.name!r} is that of an earlier step: an error or Ctrl-C "
            "has ended that step after its gradient had left, and training went on. Nobody knows "
            "whether all workers are at the same step: start the job again, from a checkpoint if "
            "there is one. To leave out a batch, decide so inside of the step, on all workers"
        )

    def _extras(self) -> list[Any]:
        """What the push looks at besides the contribution itself."""
        return [extra for extra in (self._rows, self._check) if extra is not None]

    def _push(self, replica: int | None, *contribution: Any) -> int:
        arrays = [np.asarray(array) for array in contribution]
        check = self._check is not None and bool(arrays.pop())
        if self._rows is not None and not arrays.pop():
            # Indices of sparse rows stay: row 0 is not touched instead.
            arrays = [each if each.dtype.kind == "i" else np.zeros_like(each) for each in arrays]
        return self._route.push(arrays, replica, check=check)

    def _deliver(self, step: int, results: list[Any], error: str) -> None:
        if error:
            results = [np.zeros(0, dtype.as_numpy_dtype) for dtype in self._dtypes]
        element = [_text(error) if error else self._no_error, _number(step)]
        for result, dtype in zip(results, self._dtypes, strict=True):
            element.append(_as_tensor(result, dtype))
        for queue in self._queues:
            # What `enqueue` does, without its checks: a network has many results in a step. No
            # device is named, which takes time: queues have but one kernel, the host's.
            tf.raw_ops.QueueEnqueueV2(handle=queue.queue_ref, components=element)


def _text(value: str) -> tf.Tensor:
    with tf.device(_HOST):
        return tf.constant(value)


@functools.lru_cache(maxsize=64)
def _number(step: int) -> tf.Tensor:
    """`step` as a tensor; it takes as long as to deliver one, so all routes of a step share it."""
    with tf.device(_HOST):
        return tf.constant(step, tf.int64)


def _as_tensor(array: Any, dtype: tf.DType) -> tf.Tensor:
    """`array` as a tensor of `dtype`, in the same memory where it is this project's and aligned."""
    is_ours = array.flags.writeable and array.ctypes.data % ALIGNMENT == 0
    if not is_ours or not array.nbytes:
        # numpy knows no bfloat16; the bits came as another type of the same size.
        with tf.device(_HOST):
            return tf.constant(array.view(dtype.as_numpy_dtype))
    # TensorFlow keeps the array for as long as it uses its memory.
    tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    if tensor.dtype == dtype:
        return tensor
    with tf.device(_HOST):
        return tf.bitcast(tensor, dtype)
