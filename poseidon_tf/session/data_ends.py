"""Does the workers' data end at the same step? Elements counted here, ends heard from elsewhere.

A worker that has an element needs to ask nobody: the step takes place. Only one that has run out
has to know whether another still has data, and then it fills up with empty batches. So nobody
says anything until the first worker runs out; from then on every worker announces what it has.

Each iterator of each dataset is a key of its own. Iterators are opened in the same order
everywhere and may be dropped before they end; nobody waits for one that this worker has dropped.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

from poseidon_tf.coordinator.job_failure import JobFailure
from poseidon_tf.errors import ProtocolError, StepTimeout
from poseidon_tf.session.naming import WorkerNames

WaitingFor = Callable[[str, Callable[[], str]], AbstractContextManager[Any]]
# Dataset, iterator, elements so far, whether these were all.
_MESSAGE = struct.Struct("<qqq?")
# Older iterators of the same dataset are of interest to nobody: workers stay within a step.
_KEPT = 64
# Iterators of all datasets together; a worker that names more does not mean iterators.
_MAX_ITERATORS = 16 * 1024


class Count(NamedTuple):
    """How many elements a worker has seen, and whether there are no more."""

    elements: int = 0
    is_end: bool = False


@final
@dataclass(slots=True)
class IteratorEnds:
    """One iterator as `rank` of `num_workers` knows it. No threads, no clock."""

    num_workers: int
    rank: int
    counts: dict[int, Count] = field(default_factory=dict)
    announced: Count = field(default_factory=Count)

    @property
    def own(self) -> Count:
        return self.counts.get(self.rank, Count())

    def saw(self, rank: int, count: Count) -> None:
        """`rank` has this many elements; what was heard before is kept if it says more."""
        self.counts[rank] = max(self.counts.get(rank, Count()), count)

    def to_announce(self) -> Count | None:
        """What the others do not know yet and may need: nothing before somebody has run out."""
        own = self.own
        if own == self.announced or not any(count.is_end for count in self.counts.values()):
            return None
        self.announced = own
        return own

    def has_element(self, index: int) -> bool | None:
        """Whether some worker has element `index`; None if that cannot be told yet."""
        if any(count.elements > index for count in self.counts.values()):
            return True
        missing = self.undecided()
        return None if missing else False

    def undecided(self) -> list[int]:
        """Ranks that have not said that they have run out."""
        counts = self.counts
        return [r for r in range(self.num_workers) if r not in counts or not counts[r].is_end]


@final
class DataEnds:
    """All iterators of one worker, for the threads of their pipelines.

    Args:
      announce: tells the other workers, who hand it to `heard`; waits for nothing.
      names: of the workers.
      job_failure: why the job cannot go on, if it cannot.
      waiting_for: notes what this worker waits for, in words, as long as it does, and how to learn
        who lets it wait.
      timeout_s: how long a worker that has run out waits to hear from the others.
    """

    def __init__(
        self,
        *,
        num_workers: int,
        rank: int,
        announce: Callable[[bytes], object],
        job_failure: JobFailure,
        waiting_for: WaitingFor = lambda what, owing: nullcontext(),
        names: WorkerNames,
        timeout_s: float,
    ) -> None:
        self._num_workers, self._rank = num_workers, rank
        self._names = names
        self._announce, self._job_failure = announce, job_failure
        self._waiting_for, self._timeout_s = waiting_for, timeout_s
        self._changed = job_failure.changed
        self._iterators: dict[tuple[int, int], IteratorEnds] = {}
        self._dropped: set[tuple[int, int]] = set()
        self._left: set[int] = set()

    def has_step(self, dataset: int, iterator: int, index: int, has_element: bool) -> bool:
        """Whether some worker has element `index`; one that has none itself may wait for that.

        Args:
          has_element: whether this worker has it.

        Raises:
          PoseidonError: the job has failed, or the others did not say in time.
        """
        key = dataset, iterator
        own = Count(index + 1) if has_element else None
        with self._changed:
            state = self._state(key)
            state.saw(self._rank, own or Count(state.own.elements, True))
            self._tell(key, state)
        # Without the lock: who gives up waits for the coordinator, whose word comes under it.
        return has_element or self._hears_of_element(key, state, index)

    def _hears_of_element(self, key: tuple[int, int], state: IteratorEnds, index: int) -> bool:
        """Whether another worker has it, once that is known."""
        what = f"the others' end of dataset {key[0]}"

        def owing() -> str:
            with self._changed:
                return f"not heard from {self._names.all_of(state.undecided())}"

        with self._waiting_for(what, owing), self._changed:
            deadline_s = time.monotonic() + self._timeout_s
            while True:
                for rank in self._left:  # Whoever has left has no more.
                    state.saw(rank, Count(state.counts.get(rank, Count()).elements, True))
                found = state.has_element(index)
                if found is not None or key in self._dropped:
                    return bool(found)
                if self._job_failure.failure is not None:
                    raise self._job_failure.failure
                if not self._changed.wait(deadline_s - time.monotonic()):
                    break
            missing = self._names.all_of(state.undecided())
        raise self._job_failure.fail_together(
            StepTimeout(
                f"{self._names.one(self._rank)} has run out of data at element {index} of dataset "
                f"{key[0]} and did not hear in {self._timeout_s:g} s whether {missing} has more"
            )
        )

    def heard(self, rank: int, message: bytes) -> None:
        """What another worker announced. Waits for nothing. Raises ProtocolError."""
        try:
            dataset, iterator, elements, is_end = _MESSAGE.unpack(message)
        except struct.error as failure:
            raise ProtocolError(f"rank {rank} announced {len(message)} bytes of data") from failure
        if rank == self._rank or not 0 <= rank < self._num_workers:
            raise ProtocolError(
                f"rank {rank} announced its data to rank {self._rank}; {self._num_workers} workers "
                "are there"
            )
        with self._changed:
            is_new = (dataset, iterator) not in self._iterators
            if min(dataset, iterator, elements) < 0 or (
                is_new and len(self._iterators) >= _MAX_ITERATORS
            ):
                raise ProtocolError(
                    f"rank {rank} announced {elements} elements of iterator {iterator} of dataset "
                    f"{dataset}; {len(self._iterators)} iterators are known"
                )
            state = self._state((dataset, iterator))
            state.saw(rank, Count(elements, is_end))
            self._tell((dataset, iterator), state)
            self._changed.notify_all()

    def drop(self, dataset: int, iterator: int) -> None:
        """This worker reads no further; whoever waits within this iterator stops."""
        with self._changed:
            self._dropped.add((dataset, iterator))
            self._changed.notify_all()

    def left(self, rank: int) -> None:
        """Worker `rank` has said goodbye."""
        with self._changed:
            self._left.add(rank)
            self._changed.notify_all()

    def _state(self, key: tuple[int, int]) -> IteratorEnds:
        state = self._iterators.get(key)
        if state is None:
            state = self._iterators[key] = IteratorEnds(self._num_workers, self._rank)
            old = key[0], key[1] - _KEPT
            self._iterators.pop(old, None)
            self._dropped.discard(old)
        return state

    def _tell(self, key: tuple[int, int], state: IteratorEnds) -> None:
        count = state.to_announce()
        if count is not None:
            self._announce(_MESSAGE.pack(*key, *count))
