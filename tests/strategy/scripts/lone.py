"""Reads and writes on one worker alone, while the other is busy with something else.

Arguments: a folder with a named pipe for each rank, in which the others wait for that one's turn to
be over.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import PoseidonStrategy

BATCH = 8
folder = Path(sys.argv[1])
strategy = PoseidonStrategy(write_on="all")
random = np.random.default_rng(1)
x = random.normal(size=(BATCH, 4)).astype("float32")
y = random.normal(size=(BATCH, 1)).astype("float32")


def net() -> Any:
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(3),
                keras.layers.BatchNormalization(),
                keras.layers.BatchNormalization(synchronized=True),
                keras.layers.Dropout(0.2),
                keras.layers.Dense(1),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def alone(model: Any, metric: Any, variables: list[Any]) -> list[str]:
    """Everything that a user does on one worker only; the names of what has come back."""
    to = folder / f"written-{strategy.rank}"
    to.mkdir()
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer, own=variables)
    done = []
    for name, act in {
        "save": lambda: model.save(to / "model.keras"),
        "save_weights": lambda: model.save_weights(to / "model.weights.h5"),
        "export": lambda: model.export(to / "exported", verbose=False),
        "checkpoint": lambda: checkpoint.write(str(to / "checkpoint")),
        "get_weights": model.get_weights,
        "metric": lambda: metric.result().numpy(),
        "metrics of the model": model.get_metrics_result,
        "optimizer": lambda: [v.numpy() for v in model.optimizer.variables],
        "statistics": lambda: print(model.layers[1].moving_mean, model.layers[1].moving_variance),
        "random states": lambda: [v.numpy() for v in model.variables],
        "variables": lambda: [
            (v.numpy(), str(v), v + 1.0, float(v.read_value())) for v in variables
        ],
        "in a function": lambda: tf.function(lambda: [v.read_value() for v in variables])(),
        "learning rate": lambda: float(model.optimizer.learning_rate.numpy()),
        "call": lambda: model(x),
        "summary": lambda: model.summary(print_fn=lambda text: None),
        "plan": lambda: (strategy.plan, strategy.statistics()),
    }.items():
        act()
        done.append(name)
    saved = keras.models.load_model(to / "model.keras").get_weights()
    result("loaded", all(map(np.array_equal, saved, model.get_weights())))
    return done


def main() -> None:
    model = net()
    aggregations = tf.VariableAggregation
    with strategy.scope():
        metric = keras.metrics.Mean()
        variables = [
            tf.Variable(
                1.0,
                trainable=False,
                synchronization=tf.VariableSynchronization[synchronization],
                aggregation=aggregation,
            )
            for synchronization in ("AUTO", "ON_READ")
            for aggregation in (
                aggregations.SUM,
                aggregations.MEAN,
                aggregations.ONLY_FIRST_REPLICA,
            )
        ]
    model.fit(x, y, BATCH, 1, 0)
    metric.update_state(2.0 + strategy.rank)
    for turn in range(strategy.num_workers):
        pipe = folder / f"turn-{turn}"
        if turn == strategy.rank:
            result("done", alone(model, metric, variables))
            pipe.open("w").close()
        else:
            pipe.open("r").close()  # Until the other opens it to write.
    result("metric", float(metric.result()))
    model.fit(x, y, BATCH, 1, 0)
    everything = [*model.variables, *model.optimizer.variables]
    joined = b"".join(np.asarray(variable).tobytes() for variable in everything)
    result("after", hashlib.sha256(joined).hexdigest())


if __name__ == "__main__":
    main()
