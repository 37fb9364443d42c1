"""`loss_weighting="sample"`: a step on unequal shares gives what the joined batch gives.

Replica w of R has n_w of the batch's n rows, and Keras divides its loss by R, so that its gradient
is (1/R) g_w with g_w = (mean over its rows of the samples' gradients) + r, where r is that of the
regularisation losses. Each is multiplied by n_w before it leaves, and the sum by R / sum(n_w):

    R/n * sum_w n_w (1/R) g_w = 1/n * (sum over all samples of their gradients) + r,

which is the gradient of the joined batch, regularisation included. The rows are summed on a way
of their own: no gradient waits for them before it leaves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import tensorflow as tf

from poseidon_tf.errors import ConfigError, PlanError
from poseidon_tf.session.worker import Worker
from poseidon_tf.strategy.data.shares import Shares
from poseidon_tf.strategy.graph.describe import Compact
from poseidon_tf.strategy.graph.products import Factors
from poseidon_tf.strategy.graph.route import GraphRoute

# What a worker has to do that the others wait for here.
_BEGIN = "begin the same step, as fit, train_on_batch and optimizer.apply do"


@dataclass(frozen=True, slots=True)
class OpenWeights:
    """How the shares of one set of variables are weighted.

    Attributes:
      route: on which rows are summed; None if all shares have `rows` rows at all times.
      reference: a power of two of about the rows of a share. Weights are n_w / reference, so that
        no gradient leaves the range of its type.
    """

    route: GraphRoute | None
    rows: int | None
    reference: int


@final
class SampleWeights:
    """The weights of one worker's replicas.

    Args:
      num_replicas: of all workers together.
    """

    def __init__(self, worker: Worker, shares: Shares, *, num_replicas: int) -> None:
        self._worker, self._shares, self._num_replicas = worker, shares, num_replicas
        self._num_opened = 0

    def rows(self, optimizer: Any) -> int | tf.Tensor:
        """Rows of the calling replica's share. Raises ConfigError where they cannot be known."""
        if getattr(optimizer, "gradient_accumulation_steps", None):
            raise ConfigError(
                'loss_weighting="sample" cannot weigh gradients that were accumulated over batches '
                'of different rows; leave out gradient_accumulation_steps or take "replica"'
            )
        if self._worker.num_replicas > 1 and tf.executing_eagerly():
            raise ConfigError(
                'loss_weighting="sample" with several replicas on a worker needs a traced step; '
                'leave out run_eagerly=True, put the step into a tf.function, or take "replica"'
            )
        rows = self._shares.rows()
        if rows is None:
            raise ConfigError(
                'loss_weighting="sample" has to know how many rows each replica\'s batch has; pass '
                "the batch as the first tensor to strategy.run(fn, args=(batch,)), or take "
                '"replica"'
            )
        return rows

    def open(self, static: int | None, expected_rows: int | None) -> OpenWeights:
        """Agree on how to weigh; all workers call it together.

        Args:
          static: rows of the calling replica's share, if every step of this trace has as many.
          expected_rows: of one worker's batch, if known.
        """
        mine = json.dumps([static, static or expected_rows or 1]).encode()
        everyone = [json.loads(part) for part in self._worker.gather(_BEGIN, mine)]
        most = max(expected for _, expected in everyone)
        reference = 1 << (int(most) - 1).bit_length()
        number, self._num_opened = self._num_opened, self._num_opened + 1
        if self._shares.agreed_rows == {static} and all(each == static for each, _ in everyone):
            if static is not None:
                return OpenWeights(None, static, reference)
        name = f"rows/{number}"
        route = GraphRoute(
            name,
            [tf.int64],
            lambda deliver: self._worker.open_sum(
                name, "int64", None, num_elements=1, purpose="all_reduce", deliver=deliver
            ),
            lambda: self._worker.session.failure,
            num_replicas=self._worker.num_replicas,
        )
        return OpenWeights(route, None, reference)

    def weigh(
        self,
        weights: OpenWeights,
        rows: int | tf.Tensor,
        gradients: Sequence[Any],
        compact: Mapping[int, Compact],
    ) -> tuple[list[Any], dict[int, Compact], tf.Tensor | None]:
        """This replica's gradients, in either form, times its rows, and what to scale the sum by.

        The latter is None where nothing has to be weighed.
        """
        if weights.route is None:
            if rows != weights.rows:
                raise PlanError(
                    f"a batch of {weights.rows} rows was agreed on, as every dataset had it; this "
                    f"one has {rows if isinstance(rows, int) else 'an open number of'} rows. With "
                    'loss_weighting="sample" distribute data whose batches differ from the start'
                )
            return list(gradients), dict(compact), None
        (total,) = weights.route.exchange([tf.reshape(tf.cast(rows, tf.int64), [1])])
        weight = tf.cast(rows, tf.float64) / weights.reference
        scale = tf.math.divide_no_nan(
            tf.constant(self._num_replicas * weights.reference, tf.float64),
            tf.cast(tf.reshape(total, []), tf.float64),
        )
        return (
            [multiplied(gradient, weight) for gradient in gradients],
            {at: _weighed(each, weight) for at, each in compact.items()},
            scale,
        )


def across_shares(
    function: Callable[[tf.Tensor], Sequence[tf.Tensor]], inputs: tf.Tensor, rows: int | tf.Tensor
) -> list[tf.Tensor]:
    """`function(inputs)`, which all-reduces within, with the gradient that weights by rows need.

    Backpropagation through an all_reduce adds up what the losses of all shares say, and what
    comes of it is multiplied by this share's n_w at the end. So every loss is multiplied by its
    own n_w before they are added up, and the sum divided by this share's.
    """
    weight = tf.cast(rows, inputs.dtype)
    inverse = tf.math.divide_no_nan(tf.ones([], inputs.dtype), weight)
    results = function(_with_gradient_times(inputs, inverse))
    return [_with_gradient_times(each, tf.cast(weight, each.dtype)) for each in results]


def _with_gradient_times(tensor: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def same(value: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.identity(value), lambda gradient: gradient * factor

    return same(tensor)


def _weighed(compact: Compact, weight: tf.Tensor) -> Compact:
    if isinstance(compact, Factors):
        return replace(compact, V=replace(compact.V, tensor=multiplied(compact.V.tensor, weight)))
    return replace(compact, parts=tuple(multiplied(part, weight) for part in compact.parts))


def multiplied(gradient: Any, factor: tf.Tensor) -> Any:
    """`gradient` times a scalar; zeros where that is 0, whatever the gradient is."""
    if isinstance(gradient, tf.IndexedSlices):
        values = multiplied(gradient.values, factor)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return tf.math.multiply_no_nan(gradient, tf.cast(factor, gradient.dtype))
