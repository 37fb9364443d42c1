"""Is asked to end by the test: `preempted.py how folder address`.

"fit": in the middle of the second epoch every worker calls the test at `address` and waits for its
answer; the file `asked` in `folder`, which the test makes, remembers that this has been. "loop":
the same in a custom loop that asks `stop_requested`. Both say where they ended. "idle": it is asked
where nothing looks out for that.
"""

import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

from poseidon_tf import Deadlines, PoseidonStrategy

how, folder, address = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
STEPS, BATCH = 50, 4


def call_the_test() -> None:
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as test:
        test.sendall(f"{strategy.rank} {os.getpid()}\n".encode())
        test.recv(1)


class Call(keras.callbacks.Callback):
    """In the middle of the second epoch, in the first run of the job."""

    epoch = seen = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen = batch
        if (self.epoch, batch) == (1, 3) and not (folder / "asked").exists():
            call_the_test()

    def on_train_end(self, logs: Any = None) -> None:
        result("on_train_end", True)


strategy = PoseidonStrategy(deadlines=Deadlines(start_s=60, step_s=60, leave_s=60))
with strategy.scope():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), loss="mse")
random = np.random.default_rng(4)
x = random.normal(size=(BATCH * STEPS, 6)).astype("float32")
y = random.normal(size=(BATCH * STEPS, 1)).astype("float32")
if how == "fit":
    # TensorFlow writes each function that it converts, such as this one, into a temporary file.
    data = tf.data.Dataset.from_tensor_slices((x, y)).map(lambda x, y: (x, y)).batch(BATCH)
    call = Call()
    backup = keras.callbacks.BackupAndRestore(str(folder / "backup"))
    try:
        history = model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[backup, call])
        result("epochs", history.epoch)
    finally:
        result("ended", [call.epoch, call.seen, int(np.asarray(model.optimizer.iterations))])
        result("kernel", np.asarray(model.layers[0].kernel).tolist())
    strategy.shutdown()
    ours = [each for each in threading.enumerate() if each.name.startswith("poseidon")]
    for thread in ours:
        thread.join(5.0)  # It has said its last word, and may still be about to end.
    result("threads", [each.name for each in ours if each.is_alive()])
    sys.exit()


@tf.function
def step(x: Any, y: Any) -> Any:
    def replica_step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((model(x, training=True) - y) ** 2) / BATCH
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    strategy.run(replica_step, args=(x, y))


if how == "idle":
    call_the_test()
    assert strategy._membership is not None
    result("gathered", len(strategy._membership.worker.gather("nothing", b"")))
number = 0
with strategy.scope():
    while not strategy.stop_requested():
        step(tf.constant(x[:BATCH]), tf.constant(y[:BATCH]))
        number += 1
        if number == 5:
            call_the_test()
result("steps", number)
result("again", strategy.stop_requested())
sys.exit(143)
