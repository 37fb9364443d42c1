"""What the planner is told: one cluster, and the variables of one model.

Specs are valid once built. They say nothing about how a gradient will travel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from ..errors import ConfigError

DTYPE_BYTES: Mapping[str, int] = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
}


Layout: TypeAlias = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
"""Of an M x N product, to become a kernel: shapes to take on, each with a permutation."""


def index_dtype(shape: Sequence[int]) -> str:
    """Of a row's index on the wire: the narrower type that counts the rows of such a table."""
    return "int32" if shape[0] < 2**31 else "int64"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """The processes that take part in training.

    Args:
        num_workers: P1 in the paper.
        num_servers: P2 in the paper; 0 only where one worker trains alone.
        co_located: servers share the hosts of the workers, and so their links.
    """

    num_workers: int
    num_servers: int
    co_located: bool

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ConfigError(f"a cluster needs at least one worker, got {self.num_workers}")
        if self.num_servers < 0:
            raise ConfigError(f"num_servers cannot be negative, got {self.num_servers}")
        if self.num_servers == 0 and self.num_workers > 1:
            raise ConfigError(
                f"{self.num_workers} workers need at least one server, got num_servers=0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableSpec:
    """A trainable variable, as the planner sees it.

    Args:
        name: Keras path, such as ``sequential/fc1/kernel``.
        factors: ``(M, N)`` where the gradient is one product ``U^T V`` of U: K x M and
            V: K x N; None where it is not.
        layout: how that product becomes the gradient.
        sparse: the gradient is K rows of a table, each with its index.
        rows: K on one worker, or None where it is not known.
        factor_dtype: of the factors or rows where it is not the variable's, as in mixed
            precision; else None.
        why_not: why `factors` or `rows` is None.
        why_rows: sparse: why the optimizer must see every row; empty where their sum will do.
        bias_of: name of the kernel whose factor has this gradient as its column sum.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    factors: tuple[int, int] | None = None
    layout: Layout = ()
    sparse: bool = False
    rows: int | None = None
    factor_dtype: str | None = None
    why_not: str = ""
    why_rows: str = ""
    bias_of: str | None = None

    def __post_init__(self) -> None:
        for dtype in (self.dtype, self.factor_dtype or self.dtype):
            if dtype not in DTYPE_BYTES:
                raise ConfigError(
                    f"variable {self.name!r} has dtype {dtype!r}; "
                    f"known are {', '.join(DTYPE_BYTES)}"
                )
        if self.sparse and (self.factors is not None or not self.shape):
            raise ConfigError(
                f"variable {self.name!r} of shape {self.shape} with factors {self.factors} has no "
                "rows that a sparse gradient could be made of"
            )
        if any(dim < 1 for dim in self.shape):
            raise ConfigError(
                f"variable {self.name!r} needs every dimension >= 1, got shape {self.shape}"
            )
        if self.factors is not None and math.prod(self.factors) != self.num_elements:
            raise ConfigError(
                f"variable {self.name!r} has {self.num_elements} elements in shape {self.shape}, "
                f"but its factors {self.factors} make {math.prod(self.factors)}"
            )
        if self.rows is not None and self.rows < 1:
            raise ConfigError(f"variable {self.name!r} needs rows >= 1, got {self.rows}")

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return DTYPE_BYTES[self.dtype]

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.itemsize

    @property
    def sent_dtype(self) -> str:
        """Of factors or rows on the wire."""
        return self.factor_dtype or self.dtype

    @property
    def index_dtype(self) -> str:
        return index_dtype(self.shape)

    @property
    def row_bytes(self) -> int:
        """Sparse: of one row and its index."""
        values = math.prod(self.shape[1:]) * DTYPE_BYTES[self.sent_dtype]
        return values + DTYPE_BYTES[self.index_dtype]

    def to_json_dict(self) -> dict[str, Any]:
        """The spec as JSON holds it: tuples become lists."""
        return asdict(self)

    @classmethod
    def from_json_dict(cls, fields: Mapping[str, Any]) -> VariableSpec:
        """Read what `to_json_dict` wrote; anything else is a `ConfigError`."""
        try:
            factors = fields["factors"]
            if factors is not None:
                M, N = (int(side) for side in factors)
                factors = (M, N)
            named = ("sparse", "rows", "factor_dtype", "why_not", "why_rows", "bias_of")
            rest = {key: fields[key] for key in named}
            rest["layout"] = tuple(
                (tuple(int(dim) for dim in before), tuple(int(axis) for axis in order))
                for before, order in fields["layout"]
            )
            return cls(
                name=str(fields["name"]),
                shape=tuple(int(dim) for dim in fields["shape"]),
                dtype=str(fields["dtype"]),
                factors=factors,
                **rest,
            )
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError) as failure:
            raise ConfigError(f"not a variable spec: {fields!r} ({failure!r})") from failure


def kernel_position(specs: Sequence[VariableSpec], position: int) -> int | None:
    """Where the kernel of the bias at `position` stands; None if it has none.

    Two layers may carry one name; the kernel meant is then the nearest, the earlier on a tie.
    """
    kernel = specs[position].bias_of
    if kernel is None:
        return None
    places = [at for at, spec in enumerate(specs) if spec.name == kernel and at != position]
    return min(places, key=lambda at: (abs(at - position), at), default=None)


def merged(everyone: Sequence[Sequence[VariableSpec]]) -> list[VariableSpec]:
    """What is known of each variable, by the names of the first worker.

    A step that is traced for one row, or for lengths that are not known, may not show that a
    gradient is a product, or the column sum of a factor. What one worker sees holds for all: the
    others can always send the gradient itself.

    Args:
        everyone: by rank, specs between which `first_difference` finds none.
    """
    kernels = [[kernel_position(specs, at) for at in range(len(specs))] for specs in everyone]
    have_biases = [{at for at in of_rank if at is not None} for of_rank in kernels]
    result = []
    for position, first in enumerate(everyone[0]):
        # Whoever sees a bias has the factors the way round in which its gradient is V's sum.
        ranks = sorted(range(len(everyone)), key=lambda rank: position not in have_biases[rank])
        known = [at for of_rank in kernels if (at := of_rank[position]) is not None]
        result.append(
            _merged(
                [everyone[rank][position] for rank in ranks],
                name=first.name,
                bias_of=everyone[0][known[0]].name if known else None,
            )
        )
    return result


def _merged(views: Sequence[VariableSpec], *, name: str, bias_of: str | None) -> VariableSpec:
    """One variable as all workers see it together; of factors the first are the right ones."""
    if not all(spec.sparse for spec in views):  # Some worker has no rows that it could send.
        views = [spec for spec in views if not spec.sparse]
    known = next((spec for spec in views if spec.factors is not None), views[0])
    if not known.sparse and known.factors is None:
        return replace(known, name=name, bias_of=bias_of)
    rows = max((spec.rows for spec in views if spec.rows is not None), default=None)
    why_not = known.why_not if rows is None else ""
    return replace(known, name=name, rows=rows, why_not=why_not, bias_of=None)


def first_difference(
    mine: Sequence[VariableSpec],
    theirs: Sequence[VariableSpec],
    *,
    mine_is: str,
    theirs_is: str,
) -> str | None:
    """Name the first variable that two workers see differently, or None.

    Names are not compared: Keras numbers layers per process, so equal models may differ in
    them. A bias is compared by the position of its kernel. What only one of them can tell is no
    difference, nor is how a gradient is computed: that depends on the shapes of a batch.

    Args:
        mine_is, theirs_is: who holds each list, such as ``"rank 0"``.
    """
    for position, (my_spec, their_spec) in enumerate(zip(mine, theirs, strict=False)):
        my_facts = _facts(mine, position)
        their_facts = _facts(theirs, position)
        differing = [
            key
            for key, mine_is_it in my_facts.items()
            if mine_is_it != their_facts[key] and None not in (mine_is_it, their_facts[key])
        ]
        if differing:
            return (
                f"variable {position}: "
                f"{mine_is} has {_described(my_spec, my_facts, differing)}, "
                f"{theirs_is} has {_described(their_spec, their_facts, differing)}"
            )
    if len(mine) == len(theirs):
        return None
    position = min(len(mine), len(theirs))
    longer = mine if len(mine) > len(theirs) else theirs
    extra = _described(longer[position], {}, [])
    my_side, their_side = (extra, "nothing") if longer is mine else ("nothing", extra)
    return (
        f"variable {position}: {mine_is} has {my_side}, {theirs_is} has {their_side} "
        f"({len(mine)} variables against {len(theirs)})"
    )


def _facts(specs: Sequence[VariableSpec], position: int) -> dict[str, object]:
    """What must be the same of the variable at `position`; None where this worker cannot tell."""
    spec = specs[position]
    is_compact = spec.sparse or spec.factors is not None
    return {
        "dtype": spec.dtype,
        "shape": spec.shape,
        "dtype of factors": spec.sent_dtype if is_compact else None,
        "why the optimizer needs rows": spec.why_rows if spec.sparse else None,
        "bias of variable": kernel_position(specs, position),
    }


def _described(spec: VariableSpec, facts: Mapping[str, object], differing: Sequence[str]) -> str:
    words = f"{spec.name} {spec.dtype} {spec.shape}"
    if "dtype" in differing or "shape" in differing:
        return words
    hidden = ", ".join(f"{key} {facts[key]}" for key in differing)
    return f"{words} [{hidden}]" if hidden else words
