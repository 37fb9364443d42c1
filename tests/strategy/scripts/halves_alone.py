"""One process that rounds as the workers of `halves.py` do: `halves_alone.py FOLDER CASE,... P G`.

It computes what each of P workers' G replicas contributes, one after the other, and rounds it by
the plans that rank 0 has left in FOLDER. It leaves the weights there, and those without rounding.
"""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from halves import ACCUMULATED, BATCH, OPTIMIZERS, data, loss_function, net

from poseidon_tf.planner import Plan, Scheme, VariablePlan

Shares = list[Any]
"""What each share of a batch contributes to one variable."""


def rounded(value: Any, dtype: str) -> Any:
    """`value` in float32 again."""
    return tf.cast(tf.cast(value, dtype), "float32")


class Alone:
    """Trains one case.

    Args:
      num_replicas: P and G.
    """

    def __init__(self, case: str, plan: Plan, num_replicas: tuple[int, int]) -> None:
        keras.utils.set_random_seed(11)
        self.model, self.loss_of, self.plan = net(), loss_function(), plan
        self.are_traced = case != "eager"  # Eager replicas meet before anything leaves.
        self.every = ACCUMULATED if case == "accumulated" else 1
        self.optimizer = keras.optimizers.SGD(0.5) if self.every > 1 else OPTIMIZERS[case]()
        self.optimizer.build(self.model.trainable_variables)
        self.num_workers, self.num_local = num_replicas

    def fit(self) -> list[np.ndarray]:
        """The weights after all steps."""
        waiting: list[list[Shares]] = []  # By step and variable.
        for at in range(0, len(data()[0]), BATCH):
            waiting.append(self.shares_of_batch(at))
            if len(waiting) == self.every:
                sums = [
                    self.sum_of(planned, self.over_steps([step[at] for step in waiting]))
                    for at, planned in enumerate(self.plan.variables)
                ]
                self.optimizer.apply(sums, self.model.trainable_variables)
                waiting = []
        return [np.asarray(weight) for weight in self.model.get_weights()]

    def shares_of_batch(self, begin: int) -> list[Shares]:
        """By variable. Moving statistics become the mean of the replicas'."""
        count = self.num_workers * self.num_local
        rows = BATCH // count
        own = self.model.non_trainable_variables
        before, after = [variable.numpy() for variable in own], []
        of_replicas = []
        for replica in range(count):
            for variable, value in zip(own, before, strict=True):
                variable.assign(value)
            of_replicas.append(self.share(begin + replica * rows, begin + (replica + 1) * rows))
            after.append([variable.numpy() for variable in own])
        for variable, *values in zip(own, *after, strict=True):
            variable.assign(np.mean(values, axis=0))
        return [list(shares) for shares in zip(*of_replicas, strict=True)]

    def share(self, begin: int, end: int) -> list[Any]:
        """By variable: the gradient of these rows, or the factors of it."""
        x, y = (part[begin:end] for part in data())
        around = {}
        with tf.GradientTape() as tape:
            here = tf.constant(x)
            for layer in self.model.layers:
                if not isinstance(layer, keras.layers.Dense):
                    here = layer(here, training=True)
                    continue
                before = here
                here = tf.matmul(before, layer.kernel) + layer.bias
                around[layer.name] = before, here
                here = layer.activation(here)
            loss = self.loss_of(y, here) / (self.num_workers * self.num_local)
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                loss = self.optimizer.scale_loss(loss)
        variables = [variable.value for variable in self.model.trainable_variables]
        outputs = {name: after for name, (_, after) in around.items()}
        gradients, deltas = tape.gradient(loss, (variables, outputs))
        return [
            (around[layer][0], deltas[layer]) if planned.scheme is Scheme.SFB else gradient
            for planned, gradient in zip(self.plan.variables, gradients, strict=True)
            for layer in (planned.name.split("/")[-2],)
        ]

    def over_steps(self, steps: list[Shares]) -> Shares:
        """What Keras makes of gradients that it has accumulated."""
        if len(steps) == 1:
            return steps[0]
        by_replica = [map(tf.convert_to_tensor, shares) for shares in zip(*steps, strict=True)]
        return [tf.add_n(list(gradients)) / len(steps) for gradients in by_replica]

    def own(self, shares: Shares, rank: int) -> Shares:
        """Of one worker's replicas: workers take turns with the shares of a batch."""
        return shares[rank :: self.num_workers]

    def sum_of(self, planned: VariablePlan, shares: Shares) -> Any:
        """Over all workers, as what is planned for a variable makes it."""
        dtype = planned.sent_dtype
        in_order = [share for rank in range(self.num_workers) for share in self.own(shares, rank)]
        if planned.scheme is Scheme.SFB:
            U_KM, V_KN = (
                tf.concat([rounded(factor, dtype) for factor in factors], axis=0)
                for factors in zip(*in_order, strict=True)
            )
            if planned.name.endswith("bias"):
                return tf.reduce_sum(V_KN, axis=0)
            return tf.matmul(U_KM, V_KN, transpose_a=True)
        if planned.scheme is Scheme.ROWS:
            return tf.IndexedSlices(
                tf.concat([rounded(share.values, dtype) for share in in_order], axis=0),
                tf.concat([share.indices for share in in_order], axis=0),
                shares[0].dense_shape,
            )
        total: Any = 0.0
        for worker in range(self.num_workers):
            own = [tf.convert_to_tensor(share) for share in self.own(shares, worker)]
            if self.are_traced:
                own = [rounded(share, dtype) for share in own]
            total += rounded(tf.add_n(own), dtype)
        return rounded(total, dtype)


def main() -> None:
    folder, num_replicas = Path(sys.argv[1]), (int(sys.argv[3]), int(sys.argv[4]))
    for case in sys.argv[2].split(","):
        plan = Plan.from_json((folder / f"{case}.json").read_text())
        exact = Plan.from_json(
            plan.to_json().replace("bfloat16", "float32").replace("float16", "float32")
        )
        for name, one in (("rounded", plan), ("exact", exact)):
            np.savez(folder / f"{case}-{name}.npz", *Alone(case, one, num_replicas).fit())


if __name__ == "__main__":
    main()
