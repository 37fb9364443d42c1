"""`predict` on several workers: every worker gets all rows, in the dataset's order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from poseidon_tf.keras_hooks.hook import Hook
from poseidon_tf.keras_hooks.joined_rows import Order, join
from poseidon_tf.keras_hooks.output_facts import OutputFacts, agreed_form, as_agreed
from poseidon_tf.keras_hooks.trainer import verbosity
from poseidon_tf.keras_hooks.writers import arranged
from poseidon_tf.strategy import tf_internals
from poseidon_tf.strategy.runtime import Runtime
from poseidon_tf.strategy.strategy import runtime_of

# What a worker has to do that the others wait for here.
_END = "end predict"


def predict(original: Callable[..., Any]) -> Callable[..., Any]:
    def predict(
        self: Any,
        x: Any,
        batch_size: Any = None,
        verbose: Any = "auto",
        steps: Any = None,
        callbacks: Any = None,
    ) -> Any:
        runtime = runtime_of(self.distribute_strategy)
        if runtime is None:
            return original(self, x, batch_size, verbose, steps, callbacks)
        runtime.updates.flush("predict")
        outputs: list[OutputFacts] = []
        # Several steps in one execution come back as one batch, in which ranks cannot take turns.
        steps_per_execution, self.steps_per_execution = self.steps_per_execution, 1
        try:
            with (
                arranged(runtime.writing, callbacks, self, first=[], last=[]) as arrangement,
                _watched(self, outputs),
            ):
                own = original(
                    self,
                    x,
                    batch_size=batch_size,
                    verbose=verbosity(runtime, verbose),
                    steps=steps,
                    callbacks=arrangement,
                )
        finally:
            self.steps_per_execution = steps_per_execution
        return _of_all(runtime, own, outputs)

    return predict


@contextlib.contextmanager
def _watched(model: Any, outputs: list[OutputFacts]) -> Iterator[None]:
    """Within: what `predict` gets of each batch is noted in `outputs`, one for each output."""
    make, made = model.make_predict_function, []

    def make_watched(force: bool = False) -> Any:
        result = make(force)
        function = model.predict_function
        made.append(function)

        def predict_function(data: Any) -> Any:
            batch = function(data)
            flat = keras.tree.flatten(batch)
            if not outputs:
                outputs.extend(OutputFacts.of(output) for output in flat)
            for facts, output in zip(outputs, flat, strict=True):
                facts.saw(output)
            return batch

        model.predict_function = predict_function
        return result

    model.make_predict_function = make_watched
    try:
        yield
    finally:
        del model.make_predict_function
        if made:
            model.predict_function = made[-1]


def _of_all(runtime: Runtime, own: Any, outputs: Sequence[OutputFacts]) -> Any:
    """The predictions of all workers, of which this one has `own`."""
    facts = json.dumps([facts.to_json() for facts in outputs]).encode()
    everyone = [
        [OutputFacts.from_json(fields) for fields in json.loads(theirs)]
        for theirs in runtime.worker.gather(_END, facts)
    ]
    form = agreed_form(everyone)
    num_replicas = runtime.worker.num_replicas

    def gather(num_bytes: int, content: Any, take: Any) -> None:
        runtime.worker.gather_stream(_END, num_bytes, content, take)

    joined = []
    for at, output in enumerate(keras.tree.flatten(own)):
        order = order_of([theirs[at].rows for theirs in everyone], num_replicas=num_replicas)
        mine = as_agreed(output, form[at], sum(outputs[at].rows))
        joined.append(join(gather, mine, order))
    return keras.tree.pack_sequence_as(own, joined)


def order_of(rows: Sequence[Sequence[int]], *, num_replicas: int) -> Order:
    """Batch after batch, and in each batch in the order of the dataset.

    Args:
      rows: by rank, of each of its batches.
    """

    def arrange(numbers: Sequence[Any]) -> Any:
        shares = [
            np.split(of_rank, np.cumsum(batches)[:-1])
            for of_rank, batches in zip(numbers, rows, strict=True)
        ]
        pieces: list[Any] = [np.empty(0, np.int64)]
        for batch in range(max(map(len, rows))):
            of_ranks = [share[batch] for share in shares if batch < len(share)]
            pieces += in_turns(of_ranks, num_replicas=num_replicas)
        return np.concatenate(pieces)

    return Order.of([sum(batches) for batches in rows], arrange)


def in_turns(shares: Sequence[Any], *, num_replicas: int) -> list[Any]:
    """One batch in its order, from the share of each worker, of whose replicas each has a piece.

    TensorFlow cuts a batch for R replicas into pieces of an Rth of it, rounded up, the last ones
    being shorter or empty, and deals them out: to the first replica of every worker, then to the
    second. Shares of other sizes come of other data on each worker, and have no such order.
    """
    num_workers = len(shares)
    num_rows, num_pieces = sum(len(share) for share in shares), num_workers * num_replicas
    whole = -(-num_rows // num_pieces)
    sizes = [min(whole, max(0, num_rows - at * whole)) for at in range(num_pieces)]
    cut = []
    for rank, share in enumerate(shares):
        own = sizes[rank::num_workers]
        if sum(own) != len(share):
            return list(shares)
        cut.append(np.split(share, np.cumsum(own)[:-1]))
    return [pieces[replica] for replica in range(num_replicas) for pieces in cut]


HOOKS = (
    Hook(
        tf_internals.TensorFlowTrainer,
        "predict",
        predict,
        "every worker gets all rows, in the dataset's order",
    ),
)
