"""Constructs strategies one after the other, as a notebook does: `once_more.py address`.

First one that fails, on rank 0 for want of the other worker and on rank 1 as it is interrupted;
before and after that the worker waits for the test at `address`. Then one that is interrupted on
rank 0 when all have arrived. Then two that train, and between them one too many.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import threading
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf
from poseidon_tf.strategy import random_seeds

host, port = sys.argv[1].split(":")
task = json.loads(os.environ["TF_CONFIG"])["task"]
is_first = task.get("type") == "chief"


def wait_for_test(what: str) -> None:
    with socket.create_connection((host, int(port))) as test:
        test.sendall(f"{what} ".encode())
        test.recv(1)


def interrupt(*args: object, **named: object) -> None:
    raise KeyboardInterrupt


def construct(**options: Any) -> Any:
    try:
        return poseidon_tf.PoseidonStrategy(**options)
    except (poseidon_tf.PoseidonError, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"


def trained(strategy: Any) -> Any:
    keras.utils.set_random_seed(1)  # As all of them have done before.
    with strategy.scope():
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(64), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    x = np.arange(96, dtype="f").reshape(12, 8) / 96
    model.fit(x, x[:, :1], batch_size=4, shuffle=False, verbose=0)
    weights = b"".join(weight.tobytes() for weight in model.get_weights())
    return [strategy.statistics().steps, hashlib.sha256(weights).hexdigest()]


keras.utils.set_random_seed(1)
construct(clip="nothing")  # Imports what joining needs.
if is_first:
    result("failed", construct(deadlines=poseidon_tf.Deadlines(start_s=1.0)))
else:
    wait_for_test("ready")
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 5.0)
    result("failed", construct())
wait_for_test("failed")
if is_first:
    begin = random_seeds.begin
    random_seeds.begin = interrupt  # After everyone has arrived.
    result("interrupted", construct())
    random_seeds.begin = begin
else:
    strategy = construct()
    if isinstance(strategy, str):  # It has heard of it before it was ready itself.
        result("interrupted", strategy)
    else:
        try:
            trained(strategy)
        except (tf.errors.OpError, poseidon_tf.PoseidonError) as error:
            result("interrupted", str(error))
        strategy.shutdown()
config = os.environ["TF_CONFIG"]
first = construct()
os.environ["TF_CONFIG"] = ""  # Some take it away once it has been read.
resolver = first.cluster_resolver
result("resolver", [resolver.task_type, resolver.task_id, resolver.cluster_spec().as_dict()])
result("is_resolver", isinstance(resolver, tf.distribute.cluster_resolver.ClusterResolver))
os.environ["TF_CONFIG"] = config
result("trained", trained(first))
result("second", construct())
first.shutdown()
second = construct()
result("trained_again", trained(second))
second.shutdown()
result("hook", sys.excepthook is sys.__excepthook__)
result("threads", [t.name for t in threading.enumerate() if t.name.startswith("poseidon")])
