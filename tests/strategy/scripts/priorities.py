"""Holds rank 0's way to the server back until the bottom layer's gradient waits behind the top's.

Rank 0 serves in a thread of its own process. From the second step on the server reads nothing more
of rank 0 from its first piece of the top layer's gradient on, until rank 0 has put the bottom's
into its queues and all of rank 1's has come. The bottom's backward pass begins when the top's
gradient is in the queues. Argument: the directory of the timeline.
"""

import collections
import itertools
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import poseidon_tf
from poseidon_tf.launch.cluster_env import read_cluster
from poseidon_tf.launch.server_main import ServerProcess
from poseidon_tf.session.syncers import ServerSyncer

PATIENCE_S = 30.0
LAYERS = ("bottom", "top")
config = read_cluster()
changed = threading.Condition()
put: set[tuple[str, int]] = set()  # Gradients in rank 0's queues: layer and step.
came: collections.Counter[int] = collections.Counter()  # By step, the pieces of rank 1.


def on_received(rank: int, key: str, step: int) -> None:
    with changed:
        if rank == 1:
            came[step] += 1
            changed.notify_all()
        elif step and "top/kernel" in key:
            wait_for(lambda: ("bottom", step) in put and came[step] == came[0])


def wait_for(is_so: Callable[[], bool]) -> None:
    with changed:
        if not changed.wait_for(is_so, PATIENCE_S):
            raise TimeoutError(f"{put}, {came}")


create_server = socket.create_server


def create_server_with_small_buffers(*args: Any, **options: Any) -> socket.socket:
    """What the kernel has taken cannot be overtaken; by default it takes megabytes."""
    listener = create_server(*args, **options)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)
    return listener


if config.rank == 0:
    socket.create_server = create_server_with_small_buffers
    server = ServerProcess(config, index=0, address=config.servers[0], on_received=on_received)
    threading.Thread(target=server.serve, daemon=True).start()
    send = ServerSyncer.send

    def send_and_tell(self: ServerSyncer, step: int, arrays: Any) -> None:
        send(self, step, arrays)
        with changed:
            put.update((layer, step) for layer in LAYERS if f"{layer}/kernel" in self.name)
            changed.notify_all()

    ServerSyncer.send = send_and_tell  # type: ignore[method-assign]

backward_passes = itertools.count()


def wait_for_the_top(gradient: np.ndarray) -> np.ndarray:
    step = next(backward_passes)
    if config.rank == 0:
        wait_for(lambda: ("top", step) in put)
    return gradient


class Gate(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        @tf.custom_gradient
        def gate(x: tf.Tensor) -> tuple[tf.Tensor, object]:
            def backward(upstream: tf.Tensor) -> tf.Tensor:
                held = tf.numpy_function(wait_for_the_top, [upstream], upstream.dtype)
                return tf.ensure_shape(held, upstream.shape)

            return tf.identity(x), backward

        return gate(x)


strategy = poseidon_tf.PoseidonStrategy(timeline_dir=sys.argv[1], schemes={"*": "ps"})
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((512,)),
            keras.layers.Dense(256, name="bottom"),
            Gate(),
            keras.layers.Dense(8192, name="top"),  # 8 MiB, in 64 pieces.
        ]
    )
    model.compile("sgd", "mse")
x, y = np.ones((24, 512), "float32"), np.ones((24, 8192), "float32")
model.fit(x, y, batch_size=8, verbose=0)
