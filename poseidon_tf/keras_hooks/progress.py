"""How far a `fit` has come in its data, and whether it can go on where a backup was written."""

from __future__ import annotations

import contextvars
import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

import keras
import numpy as np
import tensorflow as tf

from poseidon_tf.keras_hooks import resizing
from poseidon_tf.keras_hooks.place import Place, ReadData
from poseidon_tf.keras_hooks.resizing import policy_of
from poseidon_tf.strategy.data.agreement import SHARED, UNKNOWN
from poseidon_tf.strategy.data.datasets import rows_of_batches
from poseidon_tf.strategy.data.passes import Earlier, earlier_passes
from poseidon_tf.strategy.data.seeds import seeds_of
from poseidon_tf.strategy.runtime import Runtime

_log = logging.getLogger("poseidon_tf")
_now: contextvars.ContextVar[Progress | None] = contextvars.ContextVar("_now", default=None)


def current() -> Progress | None:
    """Of the `fit` that this thread runs under our strategy, if it does."""
    return _now.get()


@final
class Progress:
    """Of one `fit`.

    Args:
      restored: where the backup was written that this `fit` goes on from, if it does.
      graph_seed: see `Place`.
      given_rows: of a batch that `fit` makes of arrays, as the script has it.
      keeps_worker_batch: each worker is to keep its batch when their number changes.

    Attributes:
      batch_rows: the same, as it is.
      epoch: with which `fit` goes on that is ended now; None before it begins.
      batch: batches done of it.
      has_begun: whether an epoch has.
      epochs: what Keras reads the training data by; None until it is made.
      order_seed: of a PyDataset's order.
      needs: how far earlier epochs have to be read for a later one to have its order.
      skips: how many batches of the next epoch are passed over.
      is_making_other_batches: see `making_other_batches`.
      in_other_batches: the data in the batches of the epochs after the one with which `fit` goes
        on, where these have others: what Keras reads them by, and what `reads` finds out of it.
    """

    def __init__(
        self,
        runtime: Runtime,
        restored: Place | None,
        *,
        graph_seed: int,
        given_rows: int | None,
        keeps_worker_batch: bool = False,
    ) -> None:
        self._runtime, self._restored = runtime, restored
        self._graph_seed, self._given_rows = graph_seed, given_rows
        self.batch_rows = self._kept(given_rows)
        self._data = ReadData("unknown", no_place="nothing has been read")
        self.epoch: int | None = None
        self.batch = self.skips = 0
        self.has_begun = False
        self.first_epoch: int | None = None
        self.epochs: Any = None
        self.order_seed = 0
        self.needs = Earlier.OPENED
        self._keeps_worker_batch = keeps_worker_batch
        self._worker_rows: int | None = None
        self.in_other_batches: tuple[Any, ReadData, Earlier] | None = None
        self.is_making_other_batches = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within: this thread runs this `fit`."""
        token = _now.set(self)
        try:
            yield
        finally:
            _now.reset(token)

    @contextmanager
    def making_other_batches(self) -> Iterator[None]:
        """Within: Keras makes what it reads later epochs by."""
        self.is_making_other_batches = True
        try:
            yield
        finally:
            self.is_making_other_batches = False

    @property
    def restored_order_seed(self) -> int:
        """Of a PyDataset, when the backup was written; 0 if there is none."""
        return self._restored.order_seed if self._restored else 0

    def keep_batches(self, arguments: dict[str, Any]) -> None:
        """Let Keras make, of what it has for its iterator, batches as the backup had them.

        A script may have made them for as many workers as there are now.
        """
        x = arguments.get("x")
        if self.batch_rows != self._given_rows:
            arguments["batch_size"] = self.batch_rows
        elif self._restored and isinstance(x, tf.data.Dataset) and policy_of(x) in SHARED:
            self._given_rows = rows_of_batches(x)
            self.batch_rows = self._kept(self._given_rows)
            if self.batch_rows is not None and self.batch_rows != self._given_rows:
                x = resizing.batched_anew(x, self.batch_rows)
                batches = self._restored.data.batches
                if batches is not None:  # Else Keras opens the data more seldom than it did.
                    x = x.apply(tf.data.experimental.assert_cardinality(batches))
                arguments["x"] = x

    def _kept(self, given_rows: int | None) -> int | None:
        """Of batches for which the script now has `given_rows`."""
        there = self._restored
        if there is None or given_rows is None or there.data.rows is None:
            return given_rows
        is_resized = there.num_workers != self._runtime.worker.num_workers
        is_as_it_was = given_rows == there.data.given_rows
        return there.data.rows if is_resized or is_as_it_was else given_rows

    def reads(self, epochs: Any, x: Any) -> None:
        """Keras reads the training data by `epochs`, which it has just made of `x`.

        Raises:
          ConfigError: each worker is to keep its batch, and they have unequal ones.
        """
        self.epochs = epochs
        self._data, self.needs = self._read(epochs, x, self.batch_rows)
        if self._keeps_worker_batch:
            self._worker_rows = self._rows_to_keep()

    def reads_in_other_batches(self, epochs: Any, x: Any) -> None:
        """The same, once the epoch is over with which `fit` goes on."""
        data, needs = self._read(epochs, x, self._rows_to_come())
        self.in_other_batches = epochs, data, needs

    def for_other_batches(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """What Keras makes that of; None if the batches stay as they are.

        Args:
          arguments: what it had for its iterator, as the script has it.
        """
        rows = self._rows_to_come()
        if rows is None or rows == self._data.rows:
            return None
        return resizing.in_batches_of(rows, arguments)

    def _rows_to_come(self) -> int | None:
        kept = self._worker_rows
        return None if kept is None else kept * self._runtime.worker.num_workers

    def _rows_to_keep(self) -> int:
        there = self._restored
        if there is not None and there.data.rows == self._data.rows:
            if there.worker_rows is not None:
                return there.worker_rows
            return resizing.rows_of_worker(there.data.rows, there.num_workers)
        return resizing.rows_of_worker(self._data.rows, self._runtime.worker.num_workers)

    def _read(self, epochs: Any, x: Any, rows: int | None) -> tuple[ReadData, Earlier]:
        """What `epochs` reads, and how far earlier epochs of it have to be read."""
        needs = Earlier.OPENED
        data = ReadData(
            kind_of(x),
            rows=rows,
            given_rows=self._given_rows,
            steps_per_epoch=epochs.steps_per_epoch,
            steps_per_execution=epochs.steps_per_execution,
            no_place="" if _can_be_read_again(x) else "a generator has no place to go back to",
        )
        if self._runtime.data.newest is not None:
            given, facts = self._runtime.data.newest
            digest = hashlib.sha256(repr(seeds_of(given)).encode()).hexdigest()
            batches = None if facts.cardinality == UNKNOWN else facts.cardinality
            data = replace(data, policy=policy_of(given), batches=batches, seeds=digest)
            if data.rows is None and data.policy in SHARED:
                rows = rows_of_batches(given)
                data = replace(data, rows=rows, given_rows=rows)
            needs = earlier_passes(given)
        if epochs.steps_per_epoch:
            needs = Earlier.READ  # One pass goes on over the ends of epochs.
        return data, needs

    def begins(self, epoch: int, model: Any) -> None:
        """An epoch begins, as `on_epoch_begin` has it."""
        self.has_begun = True
        if self.first_epoch is None:
            self.first_epoch = epoch
        if epoch != self.epoch:
            self.epoch, self.batch = epoch, 0
        if self.in_other_batches is not None and not self.batch:
            self._take_other_batches(epoch, model)

    def _take_other_batches(self, epoch: int, model: Any) -> None:
        assert self.in_other_batches is not None and self._data.rows
        before, (epochs, self._data, self.needs) = self._data.rows, self.in_other_batches
        assert self._data.rows
        self.in_other_batches = None
        vars(self.epochs).update(vars(epochs))  # Keras holds on to this one.
        self.batch_rows = self._data.rows
        if self._data.kind != "tf.data":  # Whose passes go on being counted.
            self.first_epoch = epoch
        rates = resizing.scale_learning_rate(model, self._data.rows / before)
        if self._runtime.worker.rank == 0:
            _log.warning(
                "from epoch %d on batches of all workers have %d rows instead of %d, %d of each "
                "worker, and the learning rate is %g instead of %g",
                epoch,
                self._data.rows,
                before,
                self._worker_rows,
                rates[1],
                rates[0],
            )

    def took(self, batches: int) -> None:
        """So many more batches are done."""
        self.batch += batches

    def ends(self, epoch: int) -> None:
        """An epoch has ended, as `on_epoch_end` has it."""
        self.epoch, self.batch = epoch + 1, 0

    def said(self) -> str:
        """Where `fit` goes on, in words."""
        if self.batch:
            return f"after batch {self.batch} of epoch {self.epoch}"
        return f"at the beginning of epoch {self.epoch}"

    def place(self, model: Any) -> Place:
        """For a backup that is written now."""
        epoch = self.epoch or 0
        return Place(
            epoch,
            self.batch,
            first_epoch=epoch if self.first_epoch is None else self.first_epoch,
            num_workers=self._runtime.worker.num_workers,
            data=self._data,
            graph_seed=self._graph_seed,
            order_seed=self.order_seed,
            random_states=[np.asarray(state).tolist() for state in _random_states(model)],
            is_between_updates=_is_between_updates(model),
            worker_rows=self._worker_rows,
        )

    def restore_random_states(self, model: Any) -> None:
        """Give the model's random generators what they had when the backup was written."""
        states = _random_states(model)
        if self._restored and len(states) == len(self._restored.random_states):
            for state, numbers in zip(states, self._restored.random_states, strict=True):
                state.assign(np.asarray(numbers, state.dtype))

    def to_go_on(self, model: Any) -> tuple[int, int, int | None] | None:
        """Where the backup lets `fit` begin: epoch, batches done of it, and `Place.first_epoch`.

        None without a backup of ours. The first epoch is None if the data cannot be read from that
        place: then the epoch begins anew, and the log says why.
        """
        if self._restored is None:
            return None
        there = self._restored
        reason = self._why_not(there, model)
        num_workers = self._runtime.worker.num_workers
        if there.num_workers != num_workers and not reason:
            rows = f"batches of {there.data.rows} rows" if there.data.rows else "its batches"
            is_for_now = self.in_other_batches is not None
            _log.warning(
                "fit goes on with %d workers instead of %d, and keeps %s of all workers together%s",
                num_workers,
                there.num_workers,
                rows,
                f" to the end of epoch {there.epoch}" if is_for_now and there.batch else "",
            )
        if not reason:
            return there.epoch, there.batch, there.first_epoch
        if there.batch:
            _log.warning(
                "the backup was written after batch %d of epoch %d, and fit begins that epoch "
                "anew: %s",
                there.batch,
                there.epoch,
                reason,
            )
        return there.epoch, 0, None

    def _why_not(self, there: Place, model: Any) -> str:
        if there.data.no_place:
            return there.data.no_place
        if self._data.no_place:
            return self._data.no_place
        if there.is_between_updates:
            return (
                "it was written between two updates, and what the other workers had accumulated "
                "is lost; let save_freq be a multiple of gradient_accumulation_steps"
            )
        if len(_random_states(model)) != len(there.random_states):
            return "the model has other random generators"
        if there.num_workers != self._runtime.worker.num_workers and (
            there.data.policy not in SHARED
        ):
            return (
                f"there were {there.num_workers} workers then and are "
                f"{self._runtime.worker.num_workers} now, each with data of its own"
            )
        for what, before, now in (
            ("kind of data", there.data.kind, self._data.kind),
            ("auto-shard policy", there.data.policy, self._data.policy),
            ("number of batches", there.data.batches, self._data.batches),
            ("batch size", there.data.rows, self._data.rows),
            ("steps_per_epoch", there.data.steps_per_epoch, self._data.steps_per_epoch),
            ("steps_per_execution", there.data.steps_per_execution, self._data.steps_per_execution),
        ):
            if before != now and not (what == "number of batches" and None in (before, now)):
                return f"the {what} was {before} and is {now}"
        if there.data.seeds != self._data.seeds:
            return (
                "what draws in its pipeline has other seeds; call keras.utils.set_random_seed, or "
                "give each shuffle a seed"
            )
        return ""


def kind_of(x: Any) -> str:
    """What `fit` was given to train on, in a word: "arrays", "tf.data", ..."""
    if isinstance(x, tf.data.Dataset):
        return "tf.data"
    if isinstance(x, tf.distribute.DistributedDataset):
        return "DistributedDataset"
    if isinstance(x, keras.utils.PyDataset):
        return "PyDataset"
    return "arrays" if hasattr(tf.nest.flatten(x)[0], "shape") else type(x).__name__


def _can_be_read_again(x: Any) -> bool:
    """Whether what Keras makes of `x` can be opened again, and then gives the same."""
    return kind_of(x) in {"tf.data", "DistributedDataset", "PyDataset", "arrays"}


def _random_states(model: Any) -> list[Any]:
    """The variables of a model that are no weights, as Keras has it: its generators' states."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _is_between_updates(model: Any) -> bool:
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    steps = getattr(optimizer, "gradient_accumulation_steps", None) or 1
    return int(np.asarray(optimizer.iterations)) % steps != 0


@final
class TellsProgress(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells a `Progress` where `fit` is; comes before all callbacks that may save."""

    async_safe = True  # As in `StopTogether`.

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._progress.begins(epoch, self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._progress.ends(epoch)
