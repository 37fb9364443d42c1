"""SFB: two thin factors to every peer; a kernel's biases come with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from .. import cost
from ..plan import Scheme
from ..specs import ClusterSpec, VariableSpec, kernel_position
from .rules import Columns, SchemeRules


@final
class FactorRules(SchemeRules):
    """A unit is a kernel, which comes first, and the biases that its factors give."""

    scheme = Scheme.SFB

    def groups(
        self, specs: Sequence[VariableSpec], members: Sequence[int], *, coalesce_bytes: int
    ) -> list[list[int]]:
        groups = {at: [at] for at in members if specs[at].bias_of is None}
        for at in members:
            kernel = kernel_position(specs, at)
            if kernel is not None:
                groups[kernel].append(at)
        return list(groups.values())

    def columns(self, columns: Columns) -> Columns:
        return columns._replace(sfb=columns.sfb or 0)  # A bias costs nothing beside its kernel.

    def worker_bytes(self, spec: VariableSpec, cluster: ClusterSpec, columns: Columns) -> int:
        return round(columns.sfb or 0)

    def rebuild_flops(self, spec: VariableSpec, cluster: ClusterSpec) -> int:
        if spec.factors is None or spec.rows is None:
            return 0
        M, N = spec.factors
        return cost.rebuild_flops(M, N, spec.rows, cluster.num_workers)
