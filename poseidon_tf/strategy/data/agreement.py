"""Do the workers' datasets end at the same step? Decided once, when they are distributed.

What every worker knows of its own dataset is compared. Where that shows that all have the same
number of steps, nobody has to ask again; otherwise the pipelines tell each other (`voting`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, final

from poseidon_tf.errors import ConfigError
from poseidon_tf.strategy.data.seeds import SeedFacts, is_unseeded, seed_difference

INFINITE, UNKNOWN = -1, -2  # As tf.data has them.
# Every worker reads one dataset and takes its share of each batch.
SHARED = frozenset({"AUTO", "DATA"})
TensorFacts = tuple[str, str, tuple[int, ...] | None]
"""Place in an element, dtype and shape; -1 for an open dimension, None for an unknown rank."""
_FIX = (
    "give all workers the same dataset, or one of its own to each with AutoShardPolicy.OFF or "
    "distribute_datasets_from_function"
)
DOUBLED = "each takes its share of what it draws, so that some samples come twice and others never"


@final
@dataclass(frozen=True, slots=True)
class DataFacts:
    """What one worker knows of its dataset.

    Attributes:
      policy: how it is sharded, the name of a tf.data AutoShardPolicy; "FUNCTION" for what a
        function made for this worker.
      cardinality: batches of the dataset as it was given, INFINITE or UNKNOWN.
      batch_rows: rows of each of its batches, if all have as many; else None.
      share_rows: rows of each replica's share, if all have as many; else None.
      spec: of every tensor of an element.
      seed: what the script has seeded TensorFlow with; None where each worker has its own data.
      seeds: what draws in the pipeline, and with which; empty where each has its own data.
    """

    policy: str
    cardinality: int
    batch_rows: int | None
    share_rows: int | None
    spec: tuple[TensorFacts, ...]
    seed: int | None = None
    seeds: tuple[SeedFacts, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> DataFacts:
        spec = tuple(
            (place, dtype, None if shape is None else tuple(shape))
            for place, dtype, shape in fields.pop("spec")
        )
        seeds = tuple((kind, tuple(numbers)) for kind, numbers in fields.pop("seeds"))
        return cls(**fields, spec=spec, seeds=seeds)


@final
@dataclass(frozen=True, slots=True)
class Ending:
    """How the data ends.

    Attributes:
      is_voted: whether the pipelines have to tell each other where it does.
      steps: of each worker, INFINITE or UNKNOWN.
      share_rows: of every replica's share on every worker, or None where they may differ.
    """

    is_voted: bool
    steps: int
    share_rows: int | None


def agree_on_ending(
    everyone: Sequence[DataFacts], *, num_local_replicas: int, ends_by_steps: bool
) -> Ending:
    """What follows from the facts of all workers, the same on each.

    Args:
      ends_by_steps: the reader stops after a number of steps, whatever the data.

    Raises:
      ConfigError: the datasets do not fit together; names the first difference.
    """
    first = everyone[0]
    for rank, facts in enumerate(everyone):
        if facts.policy != first.policy:
            raise ConfigError(
                f"the dataset's auto-shard policy is {first.policy} on rank 0 and {facts.policy} "
                f"on rank {rank}; give all workers the same one"
            )
        difference = _spec_difference(first, facts)
        if difference:
            raise ConfigError(
                f"the workers' datasets have different elements: {difference} on rank {rank}"
            )
    if first.policy in SHARED:
        _refuse_different_seeds(everyone)
    rows = {facts.share_rows for facts in everyone}
    ending = Ending(True, UNKNOWN, rows.pop() if len(rows) == 1 else None)
    counts = {facts.cardinality for facts in everyone}
    if counts == {INFINITE}:
        return replace(ending, is_voted=False, steps=INFINITE)
    if UNKNOWN not in counts and len(counts) > 1:
        _refuse_different(everyone, ends_by_steps=ends_by_steps)
    if UNKNOWN in counts or len(counts) > 1:
        return replace(ending, share_rows=None)
    (count,) = counts
    num_replicas = len(everyone) * num_local_replicas
    if first.policy in SHARED:
        return replace(ending, is_voted=False, steps=count)
    if first.policy == "FUNCTION" and count % num_local_replicas == 0:
        return replace(ending, is_voted=False, steps=count // num_local_replicas)
    batches = {facts.batch_rows for facts in everyone}
    batch = batches.pop() if len(batches) == 1 else None
    if first.policy == "OFF" and batch is not None and batch >= num_replicas:
        # Everyone reads all of its own data, in pieces for one replica each.
        return replace(ending, is_voted=False, steps=count * len(everyone))
    return replace(ending, share_rows=None)


def _refuse_different_seeds(everyone: Sequence[DataFacts]) -> None:
    if difference := seed_difference([facts.seed for facts in everyone]):
        raise ConfigError(difference)
    first = everyone[0]
    for rank, facts in enumerate(everyone):
        shared = f"the workers share a dataset (auto-shard policy {first.policy})"
        for unseeded in filter(is_unseeded, facts.seeds):
            raise ConfigError(
                f"{shared} in which a {unseeded[0]} has no seed on rank {rank}, as it was made "
                f"before the strategy; {DOUBLED}. Make it after the strategy, or with a seed"
            )
        if facts.seeds != first.seeds:
            mine, theirs = _without_common(first.seeds, facts.seeds)
            raise ConfigError(
                f"{shared} that draws other random numbers on each: {_drawn(mine)} on rank 0, "
                f"{_drawn(theirs)} on rank {rank}; {DOUBLED}. Seed it alike on all, without the "
                "rank, and draw as often on each before; where each worker has data of its own, "
                "say so with AutoShardPolicy.OFF or distribute_datasets_from_function"
            )


def _without_common(
    mine: Sequence[SeedFacts], theirs: Sequence[SeedFacts]
) -> tuple[list[SeedFacts], list[SeedFacts]]:
    a, b = Counter(mine), Counter(theirs)
    return sorted((a - b).elements()), sorted((b - a).elements())


def _drawn(seeds: Sequence[SeedFacts]) -> str:
    if not seeds:
        return "nothing"
    kind, numbers = seeds[0]
    more = f" and {len(seeds) - 1} more" if len(seeds) > 1 else ""
    return f"{kind} with {numbers}{more}"


def _refuse_different(everyone: Sequence[DataFacts], *, ends_by_steps: bool) -> None:
    told = ", ".join(
        f"{'endless' if facts.cardinality == INFINITE else facts.cardinality} on rank {rank}"
        for rank, facts in enumerate(everyone)
    )
    if everyone[0].policy in SHARED:
        raise ConfigError(
            f"the dataset is shared among the workers (auto-shard policy {everyone[0].policy}) but "
            f"has other batches on each: {told}; {_FIX}"
        )
    if any(facts.cardinality == INFINITE for facts in everyone) and not ends_by_steps:
        raise ConfigError(
            f"the data ends on some workers only: {told} batches; repeat() it on all of them, or "
            "give fit a number of steps_per_epoch"
        )


def _spec_difference(first: DataFacts, other: DataFacts) -> str:
    for at in range(max(len(first.spec), len(other.spec))):
        mine, theirs = first.spec[at : at + 1], other.spec[at : at + 1]
        if not mine or not theirs or mine[0][:2] != theirs[0][:2]:
            return f"{_described(mine)} on rank 0 and {_described(theirs)}"
        if not _fits(mine[0][2], theirs[0][2]):
            return f"{_described(mine)} on rank 0 and {_described(theirs)}"
    return ""


def _fits(mine: tuple[int, ...] | None, theirs: tuple[int, ...] | None) -> bool:
    """Whether the shapes can be the same but for their rows."""
    if mine is None or theirs is None:
        return True
    return len(mine) == len(theirs) and all(
        a == b or -1 in (a, b) for a, b in zip(mine[1:], theirs[1:], strict=True)
    )


def _described(spec: Sequence[TensorFacts]) -> str:
    if not spec:
        return "nothing"
    place, dtype, shape = spec[0]
    sides = "?" if shape is None else ", ".join("?" if d < 0 else str(d) for d in shape)
    return f"{dtype} ({sides}){place and ' at ' + place}"
