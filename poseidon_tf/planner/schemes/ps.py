"""PS: the whole gradient to the servers, and the sum back; small neighbours together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from ..plan import Scheme
from ..specs import ClusterSpec, VariableSpec
from .rules import Columns, SchemeRules

DEFAULT_COALESCE_BYTES = 16 * 1024 * 1024
"""Neighbours travel together until they reach this at most: an exchange has a fixed cost."""
NEAR_AN_END = 4
"""They reach no more than this part of what is left of the model to the nearer end. They leave with
their last gradient: where backpropagation begins, the link would wait, where it ends, the step."""
SMALL = 2
"""A variable of this part of that, or more, is alone: it would gain little, and lose the wait."""
TINY = 256
"""Below this part of the most a variable is tiny. Larger ones between them, such as the kernels
between biases, part no tiny ones, and ..."""
TINY_TOGETHER = 16
"""... they may reach this part of the most anywhere in the model."""


@final
class ServerRules(SchemeRules):
    """Servers sum, so a unit has the dtype of its variables, laid end to end."""

    scheme = Scheme.PS
    is_summed_by_servers = True

    def groups(
        self, specs: Sequence[VariableSpec], members: Sequence[int], *, coalesce_bytes: int
    ) -> list[list[int]]:
        return _neighbours(specs, members, coalesce_bytes)

    def sent(self, specs: Sequence[VariableSpec]) -> tuple[str, int]:
        return specs[0].dtype, sum(spec.num_elements for spec in specs)

    def worker_bytes(self, spec: VariableSpec, cluster: ClusterSpec, columns: Columns) -> int:
        return 0 if cluster.num_workers == 1 else 2 * spec.num_bytes


@dataclass
class _OpenGroup:
    """Variables that travel together, and more may join.

    Attributes:
      is_parted: one that is alone, or of another scheme, has come after its last.
    """

    members: list[int]
    num_bytes: int = 0
    is_parted: bool = False


def _neighbours(
    specs: Sequence[VariableSpec], members: Sequence[int], coalesce_bytes: int
) -> list[list[int]]:
    total_bytes = sum(specs[at].num_bytes for at in members)
    passed = 0  # Bytes before this variable.
    groups: list[list[int]] = []
    open_groups: dict[str, _OpenGroup] = {}  # By dtype.
    own = frozenset(members)
    for at, spec in enumerate(specs):
        is_ps = at in own
        is_tiny = spec.num_bytes < coalesce_bytes / TINY
        most = min(coalesce_bytes, min(passed, total_bytes - passed) / NEAR_AN_END)
        if is_ps:
            passed += spec.num_bytes
        if not is_ps or (not is_tiny and spec.num_bytes >= most / SMALL):
            for group in open_groups.values():
                group.is_parted = True
            if is_ps:
                groups.append([at])
            continue
        if is_tiny:
            most = max(most, coalesce_bytes / TINY_TOGETHER)
        joins = open_groups.get(spec.dtype)
        if joins is None or joins.num_bytes >= most or (joins.is_parted and not is_tiny):
            joins = open_groups[spec.dtype] = _OpenGroup([])
            groups.append(joins.members)
        joins.members.append(at)
        joins.num_bytes += spec.num_bytes
        joins.is_parted = False
    return groups
