"""The plan: who sends what to whom, as data that can be printed, compared, stored and sent.

A plan holds no decisions of its own; `planner`, `units` and `sharding` make them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import Any

from ..errors import PlanError
from .specs import DTYPE_BYTES, ClusterSpec
from .table import render


class Scheme(str, Enum):  # noqa: UP042 - StrEnum came with Python 3.11.
    """How the gradient of a variable travels."""

    PS = "ps"  # Parameter server: the whole gradient to the servers, the sum back.
    SFB = "sfb"  # Sufficient factor broadcasting: two thin factors to every peer.
    ROWS = "rows"  # A sparse gradient's rows and their indices, to every peer.

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class VariablePlan:
    """One variable: the scheme, what it costs, and why.

    The columns are bytes in plus out of one node per step by Table 1: of a node with a
    worker and a server where they are co-located, else of a worker (Adam: of the busier).

    Attributes:
        wire_dtype: of the whole gradient on the wire; not `dtype` where that is rounded.
        sfb_bytes, adam_bytes: None where the gradient has no known factors.
        rows_bytes: None where it is not sparse, or its rows are not known.
        worker_bytes: payload that a worker sends plus receives per step under `scheme`, to
            its own host's server too. 0 where sparse rows travel whose number is not known.
        rebuild_flops: cost of multiplying the factors out; 0 for PS.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    wire_dtype: str
    scheme: Scheme
    ps_bytes: int
    sfb_bytes: int | None
    adam_bytes: int | None
    rows_bytes: int | None
    worker_bytes: int
    rows: int | None
    factors: tuple[int, int] | None
    factor_dtype: str | None
    rebuild_flops: int
    reason: str

    @property
    def node_bytes(self) -> int:
        """The column of the chosen scheme; 0 where that is not known."""
        columns = {
            Scheme.PS: self.ps_bytes,
            Scheme.SFB: self.sfb_bytes,
            Scheme.ROWS: self.rows_bytes,
        }
        return columns[self.scheme] or 0

    @property
    def sent_dtype(self) -> str:
        """Of what travels under `scheme`."""
        own = None if self.scheme is Scheme.PS else self.factor_dtype
        return own or self.wire_dtype

    @property
    def is_rounded(self) -> bool:
        """Whether what travels was rounded before it left; otherwise nothing is lost."""
        is_own = self.scheme is Scheme.PS or self.factor_dtype is None
        return is_own and self.wire_dtype != self.dtype


@dataclass(frozen=True, slots=True)
class Unit:
    """What is pushed and pulled as one.

    Attributes:
        variables: places in `Plan.variables`; of an SFB unit the kernel comes first.
        dtype: of what travels.
        num_elements: PS: of all its variables, laid end to end. SFB: of the kernel. Rows: of the
            table.
    """

    index: int
    scheme: Scheme
    variables: tuple[int, ...]
    dtype: str
    num_elements: int

    @property
    def priority(self) -> int:
        """The lowest layers, which a forward pass reads first, have the least. Never 0."""
        return self.index + 1


@dataclass(frozen=True, slots=True)
class KVPair:
    """A run of elements of one PS unit, and the server that sums them."""

    unit: int
    index: int
    offset: int
    length: int
    server: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How every gradient travels; equal on all workers, as `digest` shows.

    Attributes:
        kv_pair_bytes, coalesce_bytes: as `make_plan` has them.
    """

    cluster: ClusterSpec
    kv_pair_bytes: int
    coalesce_bytes: int
    variables: tuple[VariablePlan, ...]
    units: tuple[Unit, ...]
    pairs: tuple[KVPair, ...]

    def to_json(self) -> str:
        """Canonical: equal plans give equal text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote, or `poseidon-tf plan --json`, which may have it in `plan`.

        Anything else is a `PlanError`.
        """
        try:
            data = json.loads(text)
            data = data.get("plan", data)
            return cls(
                cluster=ClusterSpec(**_typed(ClusterSpec, data["cluster"])),
                kv_pair_bytes=_READ["int"](data["kv_pair_bytes"]),
                coalesce_bytes=_READ["int"](data["coalesce_bytes"]),
                variables=tuple(VariablePlan(**_typed(VariablePlan, i)) for i in data["variables"]),
                units=tuple(Unit(**_typed(Unit, item)) for item in data["units"]),
                pairs=tuple(KVPair(**_typed(KVPair, item)) for item in data["pairs"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as failure:
            raise PlanError(f"not a plan: {text[:80]!r} ({failure!r})") from failure

    @classmethod
    def joined(cls, plans: Sequence[Plan]) -> Plan:
        """One plan for several models that train over the same cluster, in this order."""
        if not plans:
            raise PlanError("there is no plan to join")
        first = plans[0]
        variables: list[VariablePlan] = []
        units: list[Unit] = []
        pairs: list[KVPair] = []
        for plan in plans:
            if plan._frame != first._frame:
                raise PlanError(
                    "plans for different clusters cannot be joined: "
                    f"{_words(first)}, {_words(plan)}"
                )
            pairs += [replace(pair, unit=len(units) + pair.unit) for pair in plan.pairs]
            units += [
                replace(
                    unit,
                    index=len(units) + unit.index,
                    variables=tuple(len(variables) + at for at in unit.variables),
                )
                for unit in plan.units
            ]
            variables += plan.variables
        return cls(*first._frame, tuple(variables), tuple(units), tuple(pairs))

    @property
    def _frame(self) -> tuple[ClusterSpec, int, int]:
        return self.cluster, self.kv_pair_bytes, self.coalesce_bytes

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def table(self) -> str:
        """The plan for a person to read."""
        return render(self.variables, self.cluster)

    def worker_bytes_per_step(self) -> int:
        """Payload that one worker sends plus receives per step."""
        return sum(variable.worker_bytes for variable in self.variables)

    def server_loads(self) -> tuple[int, ...]:
        """Bytes of gradient that each server holds."""
        loads = [0] * self.cluster.num_servers
        for pair in self.pairs:
            loads[pair.server] += pair.length * DTYPE_BYTES[self.units[pair.unit].dtype]
        return tuple(loads)

    def node_bytes_per_step(self) -> int:
        """Bytes in plus out of the busiest kind of node per step."""
        if self.cluster.num_workers == 1:
            return 0
        if self.cluster.co_located:
            return sum(variable.node_bytes for variable in self.variables)
        fullest = max(self.server_loads(), default=0)
        return max(self.worker_bytes_per_step(), 2 * self.cluster.num_workers * fullest)

    def gbit_per_s(self, step_seconds: float) -> float:
        """Bandwidth, in plus out, that a node needs to hide its traffic in one step."""
        if not step_seconds > 0:
            raise PlanError(f"step_seconds must be more than 0, got {step_seconds}")
        return self.node_bytes_per_step() * 8 / step_seconds / 1e9

    def first_difference(self, other: Plan) -> str | None:
        """Name the first thing that differs, with both values; None if the plans are equal."""
        for name in ("cluster", "kv_pair_bytes", "coalesce_bytes"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name}: {mine} against {theirs}"
        return (
            _first_item_difference("variable", self.variables, other.variables)
            or _first_item_difference("unit", self.units, other.units)
            or _first_item_difference("pair", self.pairs, other.pairs)
        )


def _words(plan: Plan) -> str:
    sizes = f"{plan.kv_pair_bytes} bytes and groups of {plan.coalesce_bytes} bytes"
    return f"{plan.cluster} with pairs of {sizes}"


_CAUSES = frozenset({"name", "shape", "dtype", "wire_dtype", "factors", "factor_dtype", "rows"})


def _first_item_difference(kind: str, mine: Sequence[Any], theirs: Sequence[Any]) -> str | None:
    for position, (my_item, their_item) in enumerate(zip(mine, theirs, strict=False)):
        names = [field.name for field in fields(my_item)]
        # What a worker sees of its model comes before what the planner made of it.
        for name in sorted(names, key=lambda name: name not in _CAUSES):
            a, b = getattr(my_item, name), getattr(their_item, name)
            if a != b:
                label = f" ({my_item.name})" if isinstance(my_item, VariablePlan) else ""
                return f"{kind} {position}{label}: {name} is {a} against {b}"
    if len(mine) == len(theirs):
        return None
    extra = (mine if len(mine) > len(theirs) else theirs)[min(len(mine), len(theirs))]
    label = extra.name if isinstance(extra, VariablePlan) else str(extra)
    return f"{len(mine)} {kind}s against {len(theirs)}: only one plan has {label}"


def _exactly(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{value!r:.40} where a {kind.__name__} belongs")
        return value

    return read


def _count(value: Any) -> int:
    # No isinstance: True is none. No number of a plan is negative.
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r:.40} where a number from 0 on belongs")
    return value


def _counts(values: Any) -> tuple[int, ...]:
    return tuple(_count(each) for each in _exactly(list)(values))


def _two_counts(values: Any) -> tuple[int, int]:
    first, second = _counts(values)
    return first, second


# By a field's type, how it is made of JSON: what is of another type is no plan.
_READ: dict[str, Callable[[Any], Any]] = {
    "bool": _exactly(bool),
    "int": _count,
    "str": _exactly(str),
    "Scheme": Scheme,
    "tuple[int, ...]": _counts,
    "tuple[int, int]": _two_counts,
}


def _typed(kind: type, item: Any) -> dict[str, Any]:
    """The fields of a `kind` that `item` has; all of it must be one."""
    types = {field.name: str(field.type) for field in fields(kind)}
    result = {}
    for name, value in item.items():
        of_type, _, none = types[name].partition(" | ")
        result[name] = None if none and value is None else _READ[of_type](value)
    return result
