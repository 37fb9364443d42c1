"""What follows from a scheme: what travels together, as what, and what it costs a worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from ..plan import Scheme
from ..specs import ClusterSpec, VariableSpec


class Columns(NamedTuple):
    """Bytes in plus out of one node per step; None where the gradient is not of that kind."""

    ps: float
    sfb: float | None = None
    adam: float | None = None
    rows: int | None = None


class SchemeRules(ABC):
    """One scheme.

    Attributes:
        is_summed_by_servers: whether its units are cut into KV pairs, each of which has a server.
    """

    scheme: ClassVar[Scheme]
    is_summed_by_servers: ClassVar[bool] = False

    def groups(
        self, specs: Sequence[VariableSpec], members: Sequence[int], *, coalesce_bytes: int
    ) -> list[list[int]]:
        """The variables of this scheme that travel together; here each on its own.

        Args:
            specs: of all variables.
            members: which of them this scheme has, in order.
        """
        return [[at] for at in members]

    def sent(self, specs: Sequence[VariableSpec]) -> tuple[str, int]:
        """Dtype and number of elements of a unit of these variables; here of the first one."""
        return specs[0].sent_dtype, specs[0].num_elements

    def columns(self, columns: Columns) -> Columns:
        """Those of a variable that travels by this scheme."""
        return columns

    @abstractmethod
    def worker_bytes(self, spec: VariableSpec, cluster: ClusterSpec, columns: Columns) -> int:
        """Payload that a worker sends plus receives per step."""

    def rebuild_flops(self, spec: VariableSpec, cluster: ClusterSpec) -> int:
        """Cost of making the gradient of what arrives."""
        return 0
