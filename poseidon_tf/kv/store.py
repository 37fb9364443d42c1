"""The sums held by one server. No threads, no sockets: pushes in, releases and credit out.

Rule 1: every change to a sum happens in this file.
Rule 2: this file does not know how a push arrived or how a release leaves.
Rule 3: a refused push changes nothing.

Theory of operation. A key is a piece of a gradient; its step is its first step plus the number of
times that a worker has pushed it before. For every (key, step) each worker contributes once.
Contributions are added in rank order, whatever the order of arrival, so the same gradients give
the same bits: rank r's share is held back until those of ranks 0..r-1 have been added. What is
added, or handed over as the first share, gives its sender credit for as many bytes. Rank 0's credit
thus depends on nobody and rank r's only on lower ranks, so there is always someone who may go on:
no window, however small, can stop the job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from poseidon_tf.errors import ProtocolError
from poseidon_tf.wire.dtypes import (
    Array,
    is_summed_as_it_comes,
    narrow,
    widen,
    wire_dtype,
)

# A key of no fixed size may be at most this long.
MAX_KEY_BYTES = 64 * 1024 * 1024
# Keys of one server, some hundred bytes each. With pieces of 64 KiB, 16 GiB of gradients.
MAX_KEYS = 256 * 1024
# A plan has no more units, and each has a priority of its own.
MAX_PRIORITY = MAX_KEYS
# Of training, which nobody will ever reach.
MAX_FIRST_STEP = 2**53
# Names are made of variables' paths and places in programs.
MAX_NAME_CHARS = 1024
# Steps of one key whose sums are not finished. A worker waits for a sum before it pushes the next.
MAX_OPEN_STEPS = 16
_MOST_NAMES = 3  # Of workers that a sum waits for.


def key_name(name: str, index: int) -> str:
    """Of part `index` of what is called `name`; where it is too long its end is a digest."""
    key = f"{name}#{index}"
    if len(key) <= MAX_NAME_CHARS:
        return key
    digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    return f"{name[: MAX_NAME_CHARS - 64]}...{digest}#{index}"


@dataclass(frozen=True, slots=True)
class KeySpec:
    """What is summed under one name: `num_elements` of `dtype`; 0 elements: any, but equal.

    The sums with the least `priority` leave first; see `FrameQueue`. Contributions are counted from
    `first_step` on: keys of a plan that is made anew go on where the training is.
    """

    name: str
    dtype: str
    num_elements: int
    priority: int = 0
    first_step: int = 0

    def __str__(self) -> str:
        urgency = f" with priority {self.priority}" * bool(self.priority)
        since = f" from step {self.first_step} on" * bool(self.first_step)
        return f"{self.num_elements} x {self.dtype}{urgency}{since}"


def key_specs(
    name: str, dtype: str, lengths: Sequence[int], *, priority: int = 0, first_step: int = 0
) -> list[KeySpec]:
    """The keys of what is called `name`, in parts of so many elements."""
    return [
        KeySpec(key_name(name, index), dtype, length, priority, first_step)
        for index, length in enumerate(lengths)
    ]


@dataclass(frozen=True, slots=True)
class Release:
    """A finished sum, for every worker."""

    key: int
    step: int
    payload: memoryview


@dataclass(frozen=True, slots=True)
class Credit:
    """`rank` may send `num_bytes` more."""

    rank: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Deserted:
    """A sum that can never be finished, because `rank` has left."""

    rank: int
    reason: str


Action = Release | Credit | Deserted


@dataclass(slots=True)
class _Sum:
    """One (key, step): the total of ranks below `next_rank`, and who waits for those."""

    num_bytes: int
    total: Array | None = None
    next_rank: int = 0
    waiting: dict[int, memoryview] = field(default_factory=dict)
    place: memoryview | None = None
    place_rank: int = 0
    may_write_first: bool = False  # Rank 0's share, which is the first total.


@dataclass(slots=True)
class _KeyState:
    spec: KeySpec
    next_step: list[int]  # by rank
    sums: dict[int, _Sum] = field(default_factory=dict)


@final
class Store:
    """Bulk-synchronous sums of `num_workers` workers over any number of keys.

    Args:
      addresses: of the workers, by rank, to name them with; () or "" where unknown.
    """

    def __init__(self, num_workers: int, addresses: Sequence[str] = ()) -> None:
        self._num_workers, self._addresses = num_workers, tuple(addresses)
        self._keys: list[_KeyState] = []
        self._numbers: dict[str, int] = {}
        self._left: dict[int, int] = {}  # rank -> its last step

    def learn(self, addresses: Sequence[str]) -> None:
        """The workers' addresses, known from now on."""
        self._addresses = tuple(addresses)

    def register(self, rank: int, specs: Sequence[KeySpec]) -> list[int]:
        """The numbers of these keys; a name that is known must be announced alike.

        Raises:
          ProtocolError: unknown rank, a key was announced with another dtype, size, priority or
            first step before, the dtype cannot be summed, or a name, a priority, a first step or
            the number of keys is too large. No key of `specs` is added then.
        """
        self._check_rank(rank)
        announced: dict[str, KeySpec] = {}
        for spec in specs:
            if len(spec.name) > MAX_NAME_CHARS:
                raise ProtocolError(
                    f"a key whose name has {len(spec.name)} characters; at most {MAX_NAME_CHARS} "
                    "are allowed"
                )
            if spec.num_elements * wire_dtype(spec.dtype).itemsize > MAX_KEY_BYTES:
                raise ProtocolError(
                    f"key {spec.name!r} of {spec.num_elements} elements is larger than "
                    f"{MAX_KEY_BYTES} bytes; cut it into KV pairs"
                )
            if not 0 <= spec.priority <= MAX_PRIORITY:
                raise ProtocolError(
                    f"key {spec.name!r}: rank {rank} announces priority {spec.priority}; from 0 to "
                    f"{MAX_PRIORITY} are allowed"
                )
            if not 0 <= spec.first_step <= MAX_FIRST_STEP:
                raise ProtocolError(
                    f"key {spec.name!r}: rank {rank} announces {spec.first_step} for its first "
                    f"step; from 0 to {MAX_FIRST_STEP} are allowed"
                )
            number = self._numbers.get(spec.name)
            if number is None:
                known = announced.setdefault(spec.name, spec)
            else:
                known = self._keys[number].spec
            if known != spec:
                raise ProtocolError(
                    f"key {spec.name!r}: rank {rank} announces {spec}, "
                    f"before it was announced as {known}"
                )
        if len(self._keys) + len(announced) > MAX_KEYS:
            raise ProtocolError(
                f"rank {rank} announces {len(announced)} keys more than the {len(self._keys)} that "
                f"are known; at most {MAX_KEYS} are allowed: use more servers, or larger KV pairs"
            )
        for spec in specs:
            if spec.name not in self._numbers:
                self._numbers[spec.name] = len(self._keys)
                self._keys.append(_KeyState(spec, [spec.first_step] * self._num_workers))
        return [self._numbers[spec.name] for spec in specs]

    def push(
        self,
        rank: int,
        key: int,
        step: int,
        payload: memoryview,
        place: memoryview | None = None,
        *,
        may_write: bool = False,
    ) -> list[Action]:
        """Take one contribution; say what it completed and whose credit it returned.

        Args:
          place: where the finished sum goes, if `rank` wants it in memory of its own; that may
            be the memory of `payload`.
          may_write: whether the memory of `payload` is the store's from now on.

        Raises:
          ProtocolError: unknown key or rank, wrong size, wrong step, or pushed twice.
        """
        state = self._checked(rank, key, step, payload)
        if self._left:
            gone = [r for r, _ in self._left.items() if state.next_step[r] <= step]
            if gone:
                return [self._deserted(gone[0], state, step, waits=rank)]
        state.next_step[rank] = step + 1
        open_sum = state.sums.setdefault(step, _Sum(len(payload)))
        open_sum.waiting[rank] = payload
        if rank == 0:
            open_sum.may_write_first = may_write
        if place is not None:
            open_sum.place, open_sum.place_rank = place, rank
        actions = self._fold(state, key, step, open_sum)
        if not actions:
            open_sum.waiting[rank] = _without_its_frame(payload)
        return actions

    def leave(self, rank: int, last_step: int) -> list[Action]:
        """`rank` says goodbye; sums that miss its share can never be finished."""
        self._left[rank] = last_step
        return [
            self._deserted(rank, state, step, waits=min(open_sum.waiting, default=0))
            for state in self._keys
            for step, open_sum in state.sums.items()
            if state.next_step[rank] <= step
        ]

    def contributions(self) -> Iterable[tuple[str, tuple[int, ...]]]:
        """Per key: its name and how many pushes of each rank were taken."""
        return [(state.spec.name, tuple(state.next_step)) for state in self._keys]

    def held_bytes(self) -> int:
        """Bytes of contributions and unfinished sums in memory."""
        return sum(
            (0 if open_sum.total is None else open_sum.total.nbytes)
            + sum(len(payload) for payload in open_sum.waiting.values())
            for state in self._keys
            for open_sum in state.sums.values()
        )

    def missing(self) -> list[tuple[str, int, list[int]]]:
        """Per unfinished sum: key, step and the ranks whose share has not come."""
        return [
            (state.spec.name, step, [r for r, n in enumerate(state.next_step) if n <= step])
            for state in self._keys
            for step in state.sums
        ]

    def awaited(self, key: int, step: int) -> str:
        """Whose shares the sum of `key` and `step` waits for, in words."""
        state = self._keys[key]
        missing = [rank for rank, count in enumerate(state.next_step) if count <= step]
        names = ", ".join(self._name(rank) for rank in missing[:_MOST_NAMES])
        more = f" and {len(missing) - _MOST_NAMES} more" * (len(missing) > _MOST_NAMES)
        return f"{names}{more}: {state.spec.name!r} of step {step}"

    def _checked(self, rank: int, key: int, step: int, payload: memoryview) -> _KeyState:
        self._check_rank(rank)
        if key >= len(self._keys):
            raise ProtocolError(f"rank {rank} pushed key number {key}, which was never announced")
        state = self._keys[key]
        name, expected = state.spec.name, state.next_step[rank]
        if step < expected:
            raise ProtocolError(f"rank {rank} pushed {name!r} for step {step} twice")
        if step > expected:
            raise ProtocolError(
                f"rank {rank} pushed {name!r} for step {step}; its next step is {expected}"
            )
        itemsize = wire_dtype(state.spec.dtype).itemsize
        open_sum = state.sums.get(step)
        if open_sum is None and len(state.sums) >= MAX_OPEN_STEPS:
            raise ProtocolError(
                f"rank {rank} pushed {name!r} for step {step}; {MAX_OPEN_STEPS} steps before it "
                "wait for other ranks"
            )
        if state.spec.num_elements:
            want = state.spec.num_elements * itemsize
        else:
            want = open_sum.num_bytes if open_sum else len(payload)
        if len(payload) != want or len(payload) % itemsize or len(payload) > MAX_KEY_BYTES:
            raise ProtocolError(
                f"rank {rank} pushed {len(payload)} bytes of {name!r} for step {step}; "
                f"{want} bytes of {state.spec.dtype} are due"
            )
        return state

    def _check_rank(self, rank: int) -> None:
        if not 0 <= rank < self._num_workers:
            raise ProtocolError(f"a message of rank {rank}; there are {self._num_workers} workers")

    def _fold(self, state: _KeyState, key: int, step: int, open_sum: _Sum) -> list[Action]:
        """Add every share whose turn it is."""
        actions: list[Action] = []
        while (share := open_sum.waiting.pop(open_sum.next_rank, None)) is not None:
            if open_sum.next_rank == 0 and 1 not in open_sum.waiting and self._num_workers > 1:
                share = _without_its_frame(share)  # It has to wait.
            values = widen(share, state.spec.dtype)
            if open_sum.next_rank == 0:
                open_sum.total = values  # Shares the message's memory.
            else:
                assert open_sum.total is not None
                with np.errstate(over="ignore", invalid="ignore"):  # Loss scaling expects both.
                    open_sum.total = np.add(
                        open_sum.total, values, out=_memory_for_total(open_sum, state.spec.dtype)
                    )
            actions.append(Credit(open_sum.next_rank, len(share)))
            open_sum.next_rank += 1
        if open_sum.next_rank == self._num_workers and open_sum.total is not None:
            del state.sums[step]
            total = np.ascontiguousarray(narrow(open_sum.total, state.spec.dtype)).view(np.uint8)
            if open_sum.place is not None:
                in_place = np.frombuffer(open_sum.place, np.uint8)
                if not np.shares_memory(in_place, total):
                    np.copyto(in_place, total)
                total = in_place
            actions.append(Release(key, step, total.data))
        return actions

    def _deserted(self, rank: int, state: _KeyState, step: int, *, waits: int) -> Deserted:
        last_step = self._left[rank]
        when = f"after step {last_step}" if last_step >= 0 else "before its first step"
        return Deserted(
            rank,
            f"{self._name(rank)} left {when} while {self._name(waits)} waits for "
            f"{state.spec.name!r} of step {step}",
        )

    def _name(self, rank: int) -> str:
        address = self._addresses[rank] if self._addresses else ""
        return f"worker rank {rank}" + (f" ({address})" if address else "")


def _without_its_frame(share: memoryview) -> memoryview:
    """`share`, keeping no message alive that holds much more than it.

    The other shares of the message may be added, and credited, long before this one.
    """
    message = share.obj
    is_message = isinstance(message, bytes | np.ndarray)
    is_small = is_message and 2 * len(share) < memoryview(message).nbytes
    return memoryview(bytes(share)) if is_small else share


def _memory_for_total(open_sum: _Sum, dtype: str) -> Array | None:
    """Where the next total goes; None for new memory."""
    if (
        open_sum.place is not None
        and open_sum.place_rank <= open_sum.next_rank  # What was there is in the sum, or joins now.
        and is_summed_as_it_comes(dtype)
    ):
        return np.frombuffer(open_sum.place, wire_dtype(dtype))
    # The first total is a message's memory or a copy of a small part of one; widened, it is ours.
    total = open_sum.total
    assert total is not None
    is_ours = total.flags.writeable and (
        open_sum.may_write_first or not is_summed_as_it_comes(dtype)
    )
    return total if open_sum.next_rank > 1 or is_ours else None
