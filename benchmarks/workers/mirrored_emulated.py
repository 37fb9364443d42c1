"""A worker that trains emulated networks under TensorFlow's MultiWorkerMirroredStrategy.

It needs tf_keras: Keras 3 does not work with that strategy.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tensorflow as tf
import tf_keras
from architectures import net as net_named
from emulation import Accelerator, build_dataset, build_model
from keras_steps import step_ends
from protocol import obey


class Trainer:
    """What the controller may ask for; the same as of the other worker."""

    def __init__(self, strategy: tf.distribute.Strategy, num_workers: int) -> None:
        self._strategy, self._num_workers = strategy, num_workers
        self._accelerator = Accelerator()
        self._trainees = functools.cache(self._build)

    def prepare(self, net: str, scale: int, dilation: float, pace: str, **_: Any) -> None:
        """Build and trace the step, which need not be measured."""
        model, dataset = self._trainee(net, scale, dilation, pace)
        step_ends(tf_keras, model, dataset, count=1)

    def train(
        self, net: str, scale: int, dilation: float, pace: str, steps: int, **_: Any
    ) -> dict[str, Any]:
        """Train `steps` steps; when each ended."""
        model, dataset = self._trainee(net, scale, dilation, pace)
        return {"ends_s": step_ends(tf_keras, model, dataset, count=steps)}

    def _trainee(
        self, net: str, scale: int, dilation: float, pace: str
    ) -> tuple[Any, tf.data.Dataset]:
        self._accelerator.queues = pace == "queue"
        return self._trainees(net, scale, dilation)

    def _build(self, net_name: str, scale: int, dilation: float) -> tuple[Any, tf.data.Dataset]:
        net = net_named(net_name)
        with self._strategy.scope():
            model = build_model(
                tf_keras,
                net,
                self._accelerator,
                scale=scale,
                device_s=net.device_s * dilation,
                name=net_name.replace("-", "_"),
            )
            model.compile(optimizer=tf_keras.optimizers.SGD(1e-3), loss="mse")
        return model, build_dataset(net, scale=scale, num_workers=self._num_workers)


def main() -> None:
    """Join the others, then obey."""
    num_workers = len(json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"])
    trainer = Trainer(tf.distribute.MultiWorkerMirroredStrategy(), num_workers)
    obey({"prepare": trainer.prepare, "train": trainer.train})


if __name__ == "__main__":
    main()
