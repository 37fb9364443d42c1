"""What a worker knows of one output of `predict`, and the form that it has on all workers.

As in one process: an output whose shape is the same in all batches is an array, and one whose
shape is not is ragged. Batches without rows do not count: one process has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, final

import numpy as np
import tensorflow as tf

from poseidon_tf.errors import ConfigError

Kind = Literal["dense", "ragged", "sparse"]
_VARIES = -1


@final
@dataclass
class OutputFacts:
    """One output on one worker.

    Attributes:
      rows: of each batch; 1 where the output is a scalar.
      sides: lengths of the other dimensions of an array or a SparseTensor, `_VARIES` where they
        are not the same in all batches; None before there were rows.
    """

    kind: Kind
    dtype: str
    rows: list[int] = field(default_factory=list)
    sides: list[int] | None = None

    @classmethod
    def of(cls, output: Any) -> OutputFacts:
        kinds: dict[type, Kind] = {tf.RaggedTensor: "ragged", tf.SparseTensor: "sparse"}
        return cls(kinds.get(type(output), "dense"), output.dtype.name)

    def saw(self, output: Any) -> None:
        """Note a batch of it, a tensor."""
        if self.kind == "ragged":
            self.rows.append(int(output.nrows()))
            return
        shape = [int(side) for side in output.shape] or [1]
        self.rows.append(shape[0])
        if shape[0]:
            self.sides = _common(self.sides, shape[1:])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> OutputFacts:
        return cls(**fields)


def agreed_form(everyone: Sequence[Sequence[OutputFacts]]) -> list[OutputFacts]:
    """Of each output, what all workers' facts make together; their rows are not.

    Raises:
      ConfigError: the workers predict different things; names the first.
    """
    for rank, theirs in enumerate(everyone):
        if len(theirs) != len(everyone[0]):
            raise ConfigError(
                f"predict has {len(everyone[0])} outputs on rank 0 and {len(theirs)} on rank "
                f"{rank}; give all workers the same model"
            )
        for at, (first, facts) in enumerate(zip(everyone[0], theirs, strict=True)):
            sides = [each for each in (first.sides, facts.sides) if each is not None]
            if (first.kind, first.dtype) != (facts.kind, facts.dtype) or (
                len({len(each) for each in sides}) > 1
            ):
                raise ConfigError(
                    f"output {at} of predict is {_described(first)} on rank 0 and "
                    f"{_described(facts)} on rank {rank}; give all workers the same model"
                )
    agreed = []
    for of_one in zip(*everyone, strict=True):
        form = OutputFacts(of_one[0].kind, of_one[0].dtype)
        for facts in of_one:
            if facts.sides is not None:
                form.sides = _common(form.sides, facts.sides)
        agreed.append(form)
    return agreed


def as_agreed(own: Any, form: OutputFacts, num_rows: int) -> Any:
    """This worker's rows, as Keras has joined them, in the form that they have on all workers."""
    if form.kind == "sparse" and form.sides is not None:
        return tf.SparseTensor(own.indices, own.values, [num_rows, *form.sides])
    if form.kind != "dense":
        return own
    if isinstance(own, bytes):  # The only batch of an output that is a scalar.
        own = np.array([own], object)
    if form.sides is None:
        return np.asarray(own)
    ragged_rank = max((at for at, side in enumerate(form.sides, 1) if side == _VARIES), default=0)
    if ragged_rank == 0:
        if isinstance(own, tf.RaggedTensor):  # For a batch without rows.
            own = own.to_tensor(shape=[None, *form.sides]).numpy()
        return np.asarray(own).reshape(num_rows, *form.sides)
    if not isinstance(own, tf.RaggedTensor):
        return tf.RaggedTensor.from_tensor(own, ragged_rank=ragged_rank)
    missing = ragged_rank - own.ragged_rank
    if missing <= 0:
        return own
    values = tf.RaggedTensor.from_tensor(own.flat_values, ragged_rank=missing)
    return own.with_flat_values(values)


def _common(sides: Sequence[int] | None, others: Sequence[int]) -> list[int]:
    if sides is None:
        return list(others)
    return [a if a == b else _VARIES for a, b in zip(sides, others, strict=True)]


def _described(facts: OutputFacts) -> str:
    sides = "" if facts.sides is None else f" in {len(facts.sides) + 1} dimensions"
    return f"{facts.kind} {facts.dtype}{sides}"
