"""Obeys `lab.peers`: times `fit` of Keras on JAX under `keras.distribution.DataParallel`.

Several processes with a CPU device each, which JAX joins with gloo: what Keras recommends in place
of a strategy of TensorFlow. Its options are the defaults.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"
# One thread computes, as in the other systems.
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import jax
import keras
from jax._src.lib import _jax
from keras_steps import timed_fit
from nets import NETS, keras_net, random_batch
from protocol import obey

CONFIG = json.loads(os.environ["TF_CONFIG"])
RANK = CONFIG["task"]["index"]
WORKERS = CONFIG["cluster"]["worker"]


@functools.cache
def join() -> None:
    """Meet the others; within an order, as gloo prints to where answers go."""
    # JAX takes no interface, and by default that of the machine's name, which hosts share here.
    make = _jax.make_gloo_tcp_collectives
    interface = os.environ["GLOO_SOCKET_IFNAME"]
    _jax.make_gloo_tcp_collectives = functools.partial(make, interface=interface)
    keras.distribution.initialize(WORKERS[0], len(WORKERS), RANK)
    # Its processes bring their own shares of the batch, as those of all systems here.
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))


def versions() -> dict[str, str]:
    """What `train` runs on."""
    join()
    return {"jax": jax.__version__, "keras": keras.__version__}


@functools.cache
def model_of(net: str) -> Any:
    """Built once, so that later orders find it compiled."""
    return keras_net(keras, net)


def train(net: str, rows: int, warm_up: int, steps: int) -> dict[str, Any]:
    """Seconds of each step."""
    batch = random_batch(NETS[net], rows=rows, rank=RANK)

    def again_and_again() -> Iterator[Any]:
        while True:
            yield batch

    times = timed_fit(keras, model_of(net), again_and_again(), warm_up=warm_up, steps=steps)
    return {"seconds": times}


obey({"versions": versions, "train": train})
