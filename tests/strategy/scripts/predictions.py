"""What `predict` returns of whatever a `predict_step` may return, in a job or in one process.

Arguments: "kinds" and the number of replicas; or "large" and MiB of rows in all; or "killed".
"""

import os
import resource
import signal
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf
from poseidon_tf.session.gathers import Places

BATCH = 4
# The last batch has a row for each worker, for some of them, or for one.
ROWS = [8, 6, 13, 1]
ROW_BYTES = 64 * 1024


def kinds(v: Any, ids: Any) -> dict[str, Any]:
    """Outputs by kind, from the numbers and the names of some rows."""
    whole = tf.cast(v, tf.int32)
    letters = tf.strings.bytes_split(ids)
    return {
        "text": {"id": ids, "scores": (v * 2, [whole, tf.stack([v, -v], axis=1)])},
        "half": tf.cast(tf.stack([v, v], axis=1), tf.bfloat16),
        "text in columns": tf.stack(
            [ids, tf.strings.upper(ids), tf.fill(tf.shape(ids), "")], axis=1
        ),
        "ragged": tf.ragged.range(whole % 3),
        "ragged text": letters,
        "ragged twice": tf.strings.bytes_split(tf.strings.split(ids)),
        "sparse": tf.sparse.from_dense(tf.one_hot(whole % 4, 4)),
        "sparse text": tf.sparse.from_dense(
            tf.where(tf.cast(tf.one_hot(whole % 3, 3), tf.bool), ids[:, tf.newaxis], "")
        ),
        # The same for all rows of a batch; a share without rows is as wide as the first one.
        "of some width": tf.ones([tf.size(v), 1 + tf.maximum(tf.reduce_max(whole), 0) // 4])
        * v[:, tf.newaxis],
    }


class Kinds(keras.Model):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def predict_step(self, data: Any) -> Any:
        return kinds(data["v"], data["id"])[self.kind]


def described(value: Any) -> Any:
    """`value` as JSON, with types and shapes."""
    if isinstance(value, dict):
        return {key: described(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(described, value)]
    if isinstance(value, tf.RaggedTensor):
        kind = ["ragged", value.dtype.name, value.row_splits.dtype.name, value.ragged_rank]
        return [*kind, described(value.flat_values.numpy()), str(value.to_list())]
    if isinstance(value, tf.SparseTensor):
        return [
            "sparse",
            *(described(part.numpy()) for part in (value.indices, value.values, value.dense_shape)),
        ]
    return [value.dtype.name, list(value.shape), str(value.tolist())]


def predict_kinds(num_replicas: int) -> None:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * num_replicas,
    )
    devices = [f"CPU:{at}" for at in range(num_replicas)]
    is_alone = "TF_CONFIG" not in os.environ
    strategy = (
        tf.distribute.get_strategy() if is_alone else poseidon_tf.PoseidonStrategy(devices=devices)
    )
    for kind in kinds(tf.range(2.0), tf.constant(["a", "b"])):
        if kind in ("sparse", "sparse text", "of some width") and num_replicas > 1:
            continue  # Keras cannot join those of several replicas under any strategy.
        with strategy.scope():
            model = Kinds(kind)
            model.built = True
            model.compile()
        for num_rows in ROWS:
            rows = {
                "v": np.arange(num_rows, dtype="f"),
                "id": [f"row {i}" for i in range(num_rows)],
            }
            data = tf.data.Dataset.from_tensor_slices(rows).batch(BATCH)
            result(
                f"{kind.replace(' ', '-')}/{num_rows}", described(model.predict(data, verbose=0))
            )


def predict_large(mebibytes: int, *, dies: bool = False) -> None:
    deadlines = poseidon_tf.Deadlines(step_s=60.0, start_s=60.0)
    strategy = poseidon_tf.PoseidonStrategy(deadlines=deadlines)
    if dies and strategy.rank == 1:
        num_pieces, fill = 0, Places.fill

        def fill_and_die(self: Places, piece: memoryview) -> None:
            nonlocal num_pieces
            num_pieces += 1
            if num_pieces == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            fill(self, piece)

        Places.fill = fill_and_die  # type: ignore[method-assign]
    with strategy.scope():
        inputs = keras.Input((1,))
        model = keras.Model(inputs, keras.layers.RepeatVector(ROW_BYTES // 4)(inputs))
    num_rows = mebibytes * 1024 * 1024 // ROW_BYTES
    numbers = np.arange(num_rows, dtype="f")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    predicted = model.predict(numbers[:, None], batch_size=64, verbose=0)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result("shape", list(predicted.shape))
    result("is-right", bool((predicted == numbers[:, None, None]).all()))
    result("MiB-more", (after - before) / 1024)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "kinds":
        predict_kinds(int(arguments[0]))
    else:
        predict_large(int(arguments[0]), dies=what == "killed")
