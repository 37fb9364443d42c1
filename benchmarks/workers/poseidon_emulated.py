"""A worker that trains emulated networks under PoseidonStrategy, with or without overlap.

One strategy serves all networks and modes: the names of layers that must use the parameter server
end with `_by_ps`.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import tensorflow as tf
from architectures import net as net_named
from architectures import scaled
from emulation import Accelerator, build_dataset, build_model
from keras_steps import clocked_steps, step_ends
from protocol import obey

import poseidon_tf
from poseidon_tf.planner import DEFAULT_COALESCE_BYTES
from poseidon_tf.planner.plan import Unit
from poseidon_tf.sfb import service
from poseidon_tf.transport import frame_queue, lanes


class EmulatedSGD(keras.optimizers.SGD):
    """Gradient descent that can take the accelerator's time to rebuild.

    Args:
      rebuild_s: by the shape of a kernel, what multiplying all workers' factors takes longer than
        multiplying one's own; it is taken after the factors have come, before the update.
    """

    def __init__(self, accelerator: Accelerator, rebuild_s: dict[tuple[int, ...], float]) -> None:
        super().__init__(1e-3)
        self._accelerator, self._rebuild_s = accelerator, rebuild_s

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        seconds = self._rebuild_s.get(tuple(variable.shape))
        if seconds is not None and _is_product(gradient):
            gradient = self._accelerator.work_after(gradient, seconds, chained=False)
        super().update_step(gradient, variable, learning_rate)


class HoldsBack(EmulatedSGD):
    """No gradient is handed on before all exist, so nothing overlaps backprop."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        with tf.control_dependencies(grads):
            grads = [tf.identity(gradient) for gradient in grads]
        return super().apply(grads, trainable_variables)


def _is_product(tensor: tf.Tensor) -> bool:
    """Whether it was rebuilt from factors: a sum of the servers comes from a queue."""
    while tensor.op.type in ("Identity", "Reshape"):
        tensor = tensor.op.inputs[0]
    return bool(tensor.op.type == "MatMul")


class Trainer:
    """What the controller may ask for."""

    def __init__(self, strategy: poseidon_tf.PoseidonStrategy) -> None:
        self._strategy = strategy
        self._accelerator = Accelerator()
        self._trainees = functools.cache(self._build)

    def prepare(self, pace: str, **order: Any) -> None:
        """Build, agree on first values and trace the step, which need not be measured.

        Two of them: one with an update before it is traced by itself.
        """
        model, dataset = self._trainees(**order)
        step_ends(keras, model, dataset, count=2)

    def train(self, pace: str, steps: int, **order: Any) -> dict[str, Any]:
        """Train `steps` steps; when each ended, by a clock that this machine's processes share.

        In lockstep: how long each took.
        """
        model, dataset = self._trainees(**order)
        self._accelerator.queues = pace == "queue"
        if order["mode"] != "lockstep":
            return {"ends_s": step_ends(keras, model, dataset, count=steps)}
        # Time enough to end before the next begins.
        period_s = 2 * net_named(order["net"]).device_s * order["dilation"]
        return {"steps_s": clocked_steps(keras, model, dataset, count=steps, period_s=period_s)}

    def _build(
        self, net: str, mode: str, scale: int, dilation: float, rebuild: str
    ) -> tuple[Any, tf.data.Dataset]:
        emulated = net_named(net)
        extra_rows = self._strategy.num_workers - 1 if rebuild == "charged" else 0
        rebuild_s = {
            scaled(layer, scale): emulated.weight_gradient_s(layer) * dilation * extra_rows
            for layer in emulated.layers
            if layer.kind == "dense" and extra_rows
        }
        with self._strategy.scope():
            model = build_model(
                keras,
                emulated,
                self._accelerator,
                scale=scale,
                device_s=emulated.device_s * dilation,
                name=f"{net}-{mode}".replace("-", "_"),
                dense_suffix="_by_ps" if mode in ("ps", "no_overlap") else "",
            )
            kind = HoldsBack if mode == "no_overlap" else EmulatedSGD
            model.compile(optimizer=kind(self._accelerator, rebuild_s), loss="mse")
        return model, build_dataset(emulated, scale=scale, num_workers=self._strategy.num_workers)


def main() -> None:
    """Join the others, if there are any, then obey."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timeline", help="folder for this process's Chrome trace")
    parser.add_argument("--scale", type=int, default=8, help="S")
    parser.add_argument("--lockstep", action="store_true", help="know of no other worker")
    parser.add_argument("--updates", choices=("step", "across", "unordered"), default="step")
    parser.add_argument("--wire-dtype", default="float32")
    options = parser.parse_args()
    if options.lockstep:
        os.environ.pop("TF_CONFIG", None)
    if options.updates == "unordered":
        # Whatever has this priority leaves in the order in which it came.
        Unit.priority = property(lambda _: 0)  # type: ignore[method-assign, assignment]
    # What leaves as one, or waits in a lane's socket, cannot be overtaken.
    lanes.UNSENT_BYTES //= options.scale**2
    frame_queue.FRAME_BYTES //= options.scale**2
    service.CHUNK_BYTES //= options.scale**2
    strategy = poseidon_tf.PoseidonStrategy(
        schemes={"*_by_ps/*": "ps"},
        # As all bytes here, divided by S^2.
        coalesce_bytes=DEFAULT_COALESCE_BYTES // options.scale**2,
        timeline_dir=options.timeline,
        wire_dtype=options.wire_dtype,
        # Never where it is not asked for; and where it is, or there is an error.
        defer_updates=options.updates != "step",
    )
    trainer = Trainer(strategy)
    obey({"prepare": trainer.prepare, "train": trainer.train})


if __name__ == "__main__":
    main()
