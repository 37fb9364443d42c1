"""Rows: a sparse gradient's rows and their indices, to every peer."""

from __future__ import annotations

from typing import final

from ..plan import Scheme
from ..specs import ClusterSpec, VariableSpec
from .rules import Columns, SchemeRules


@final
class RowsRules(SchemeRules):
    """Each table on its own."""

    scheme = Scheme.ROWS

    def worker_bytes(self, spec: VariableSpec, cluster: ClusterSpec, columns: Columns) -> int:
        return columns.rows or 0
