"""A `tf.distribute.Strategy` over workers that have already found each other.

`launch` finds them; the public `PoseidonStrategy` is this class together with that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from poseidon_tf.planner import ClusterSpec, Plan
from poseidon_tf.strategy.batches import BatchSizes
from poseidon_tf.strategy.extended import PoseidonExtended
from poseidon_tf.strategy.gradients import GradientExchange
from poseidon_tf.sync.statistics import Statistics
from poseidon_tf.sync.worker import Worker


class ClusterStrategy(tf.distribute.Strategy):  # type: ignore[misc]
    """Synchronous data-parallel training over the workers that `worker` is connected to."""

    # TensorFlow's base for strategies reads it; its collectives are not used.
    _collective_key_base = 0

    def __init__(
        self,
        worker: Worker | None,
        cluster: ClusterSpec,
        *,
        arithmetic: Sequence[Mapping[str, Any]],
        schemes: Mapping[str, str],
        kv_pair_bytes: int,
        coalesce_bytes: int,
        rows_per_step: int | None,
        clip: str,
        announce: Callable[[Plan], None],
    ) -> None:
        self._worker = worker
        self._batches = BatchSizes(rows_per_step)
        self.clips_sums = clip == "sum"
        self._gradients: GradientExchange | None = None
        if worker is not None:
            self._gradients = GradientExchange(
                worker,
                cluster,
                arithmetic=arithmetic,
                schemes=schemes,
                kv_pair_bytes=kv_pair_bytes,
                coalesce_bytes=coalesce_bytes,
                batches=self._batches,
                announce=announce,
            )
        extended = PoseidonExtended(
            self, device=local_device(), worker=worker, batches=self._batches
        )
        super().__init__(extended)

    @property
    def rank(self) -> int:
        """This worker's rank; rank 0 is the chief, who saves and reports."""
        return self._worker.rank if self._worker else 0

    @property
    def num_workers(self) -> int:
        """P1, the number of workers."""
        return self._worker.num_workers if self._worker else 1

    @property
    def plan(self) -> Plan | None:
        """How each gradient travels; None before the first step and with one worker."""
        return self._gradients.plan if self._gradients else None

    def statistics(self) -> Statistics:
        """What this worker has sent, received and waited for until now, as a frozen object."""
        return self._worker.statistics() if self._worker else Statistics()

    def sum_gradients(
        self, optimizer: Any, gradients: Sequence[tf.Tensor], variables: Sequence[Any]
    ) -> list[tf.Tensor]:
        """The gradients summed over all workers; see `GradientExchange.sum`."""
        assert self._gradients is not None, "one worker has nothing to sum"
        return self._gradients.sum(optimizer, gradients, variables)

    def record_applied(self, variables: Sequence[Any]) -> None:
        """Note for the timeline that `variables` have been updated."""
        assert self._gradients is not None, "one worker has no timeline"
        self._gradients.record_applied(variables)

    def agree_on_first_values(self, variables: Sequence[Any], *, what: str) -> None:
        """Give `variables` rank 0's values; all workers call it together."""
        assert self._gradients is not None, "one worker has nobody to agree with"
        self._gradients.agree_on_first_values(variables, what=what)

    def gather_bytes(self, what: str, payload: bytes) -> list[bytes]:
        """Every worker's `payload`, in rank order; all workers call it together."""
        assert self._worker is not None, "one worker has nobody to gather from"
        return self._worker.gather(what, payload)

    @contextlib.contextmanager
    def training(self, batch_size: int | None) -> Iterator[None]:
        """Within: `fit` runs, and the first dataset it distributes is the training data.

        Args:
          batch_size: of all workers together, where `fit` makes the batches; else None.
        """
        with self._batches.fit(None if batch_size is None else -(-batch_size // self.num_workers)):
            yield


def among_others(strategy: Any) -> ClusterStrategy | None:
    """`strategy` if it is ours and there are other workers."""
    is_ours = isinstance(strategy, ClusterStrategy) and strategy.num_workers > 1
    return strategy if is_ours else None


def local_device() -> str:
    """The device that this worker's replica runs on: its first accelerator, else the CPU."""
    accelerators = [
        device.name for kind in ("GPU", "TPU") for device in tf.config.list_logical_devices(kind)
    ]
    return accelerators[0] if accelerators else "/device:CPU:0"
