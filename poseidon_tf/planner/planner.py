"""Chooses a scheme for every variable: Algorithm 1, the user's overrides, and the reason.

What a scheme costs is in `cost`; where the pieces go is in `sharding`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from ..errors import ConfigError, PlanError
from . import cost
from .plan import Plan, Scheme, VariablePlan
from .sharding import DEFAULT_COALESCE_BYTES, place, units_of
from .specs import ClusterSpec, VariableSpec, kernel_position
from .table import human_count

DEFAULT_KV_PAIR_BYTES = 1024 * 1024
"""The paper's pairs are 2 MB. That is the most worth having: smaller pairs overlap the way in
with the sum and the way out, and spread a model over the servers more evenly."""

LARGEST_COALESCE_BYTES = 64 * 1024 * 1024
KV_PAIR_BYTES_RANGE = (4 * 1024, 64 * 1024 * 1024)

ROWS_UNKNOWN = "rows unknown: pass rows_per_step="


class _Choice(NamedTuple):
    scheme: Scheme
    reason: str


class _Wish(NamedTuple):
    scheme: Scheme
    pattern: str


def make_plan(
    specs: Sequence[VariableSpec],
    cluster: ClusterSpec,
    *,
    schemes: Mapping[str, str] | None = None,
    kv_pair_bytes: int = DEFAULT_KV_PAIR_BYTES,
    coalesce_bytes: int = DEFAULT_COALESCE_BYTES,
    arithmetic_differs: str = "",
) -> Plan:
    """Plan one model on one cluster. Equal arguments give equal plans, on any machine.

    Args:
        specs: the trainable variables, in the order of their gradients.
        schemes: overrides, from a pattern of names (`fnmatch`; ``*`` crosses ``/``) to ``"ps"``
            or ``"sfb"``. The last pattern that matches wins. A kernel's bias follows it.
        kv_pair_bytes: the largest piece that a variable is cut into; 4 KiB to 64 MiB.
        coalesce_bytes: variables smaller than a quarter of this travel together until they reach
            it; 0 for each on its own.
        arithmetic_differs: how the workers' hardware or software differs, if it does. Rebuilt
            products may then differ in their last bits, so SFB is used only where asked for.

    Raises:
        PlanError: an override fits no variable, or asks for what its variable cannot do.
    """
    check_kv_pair_bytes(kv_pair_bytes)
    check_coalesce_bytes(coalesce_bytes)
    wishes = _wishes(specs, schemes or {})
    kernels = [_kernel_of(specs, at) for at in range(len(specs))]
    choices = {
        at: _choose(spec, cluster, wishes[at], arithmetic_differs)
        for at, spec in enumerate(specs)
        if kernels[at] is None
    }
    for at, kernel in enumerate(kernels):
        if kernel is not None:
            choices[at] = _follow(specs[at], specs[kernel], choices[kernel], cluster, wishes[at])
    variables = tuple(_priced(spec, cluster, choices[at]) for at, spec in enumerate(specs))
    units = units_of(specs, variables, coalesce_bytes=coalesce_bytes)
    return Plan(
        cluster=cluster,
        kv_pair_bytes=kv_pair_bytes,
        variables=variables,
        units=units,
        pairs=place(
            units,
            [specs[unit.variables[0]].itemsize for unit in units],
            num_servers=cluster.num_servers,
            kv_pair_bytes=kv_pair_bytes,
        ),
    )


def check_kv_pair_bytes(kv_pair_bytes: int) -> None:
    """Raise ConfigError unless a variable can be cut into pieces of at most this."""
    smallest, largest = KV_PAIR_BYTES_RANGE
    if not smallest <= kv_pair_bytes <= largest:
        raise ConfigError(
            f"kv_pair_bytes must be from {smallest} to {largest}, got {kv_pair_bytes}"
        )


def check_coalesce_bytes(coalesce_bytes: int) -> None:
    """Raise ConfigError unless small variables can travel together up to this."""
    if not 0 <= coalesce_bytes <= LARGEST_COALESCE_BYTES:
        raise ConfigError(
            f"coalesce_bytes must be from 0 to {LARGEST_COALESCE_BYTES}, got {coalesce_bytes}"
        )


def _wishes(specs: Sequence[VariableSpec], schemes: Mapping[str, str]) -> list[_Wish | None]:
    wishes: list[_Wish | None] = [None] * len(specs)
    for pattern, value in schemes.items():
        if value not in {scheme.value for scheme in Scheme}:
            raise PlanError(f"scheme for {pattern!r} must be 'ps' or 'sfb', got {value!r}")
        matches = [at for at, spec in enumerate(specs) if fnmatchcase(spec.name, pattern)]
        if not matches:
            names = ", ".join(spec.name for spec in specs)
            raise PlanError(f"pattern {pattern!r} matches no variable; the names are: {names}")
        for at in matches:
            wishes[at] = _Wish(Scheme(value), pattern)
    return wishes


def _kernel_of(specs: Sequence[VariableSpec], at: int) -> int | None:
    kernel = kernel_position(specs, at)
    if kernel is None and specs[at].bias_of is not None:
        raise PlanError(f"{specs[at].name!r} is the bias of {specs[at].bias_of!r}, not a variable")
    if kernel is not None and specs[kernel].bias_of is not None:
        raise PlanError(f"{specs[at].name!r} is the bias of {specs[kernel].name!r}, itself a bias")
    return kernel


def _choose(
    spec: VariableSpec, cluster: ClusterSpec, wish: _Wish | None, arithmetic_differs: str
) -> _Choice:
    """The scheme of a variable that is not the bias of another."""
    if spec.factors is None or spec.rows is None:
        obstacle = spec.why_not or ("no product" if spec.factors is None else "")
        if spec.factors is not None:
            obstacle = f"{ROWS_UNKNOWN} ({obstacle})" if obstacle else ROWS_UNKNOWN
        if wish is not None and wish.scheme is Scheme.SFB:
            raise PlanError(f"{spec.name!r} cannot be 'sfb' as {wish.pattern!r} asks: {obstacle}")
    if cluster.num_workers == 1:
        return _Choice(Scheme.PS, "one worker: nothing to send")
    if spec.factors is None or spec.rows is None:
        return _Choice(Scheme.PS, f"PS: {obstacle}")
    if wish is not None:
        return _Choice(wish.scheme, f"asked for by {wish.pattern!r}")
    if arithmetic_differs:
        return _Choice(Scheme.PS, f"PS: {arithmetic_differs}")
    return _by_rule(spec.factors, spec.rows, cluster)


def _by_rule(factors: tuple[int, int], K: int, cluster: ClusterSpec) -> _Choice:
    M, N = factors
    P1, P2 = cluster.num_workers, cluster.num_servers
    pays = cost.sfb_pays(M, N, K, P1, P2, cluster.co_located)
    opponent = "2MN(P1+P2-2)/P2" if cluster.co_located else "max(2MN, 2P1MN/P2)"
    ps_values = cost.ps_busiest(M, N, P1, P2, co_located=cluster.co_located)
    reason = (
        f"2K(P1-1)(M+N) = {human_count(cost.sfb_worker(M, N, K, P1))} {'<=' if pays else '>'} "
        f"{opponent} = {human_count(ps_values)}"
    )
    return _Choice(Scheme.SFB if pays else Scheme.PS, reason)


def _follow(
    spec: VariableSpec,
    kernel: VariableSpec,
    kernel_choice: _Choice,
    cluster: ClusterSpec,
    wish: _Wish | None,
) -> _Choice:
    """The scheme of a bias: its kernel's, since the kernel's factor holds its gradient."""
    if cluster.num_workers == 1:
        return _Choice(Scheme.PS, "one worker: nothing to send")
    if kernel_choice.scheme is Scheme.PS:
        if wish is not None and wish.scheme is Scheme.SFB:
            raise PlanError(
                f"{spec.name!r} cannot be 'sfb' as {wish.pattern!r} asks: its kernel "
                f"{kernel.name!r} goes through the parameter server"
            )
        return _Choice(Scheme.PS, "PS: its kernel goes through the parameter server")
    if wish is not None and wish.scheme is Scheme.PS:
        return _Choice(Scheme.PS, f"asked for by {wish.pattern!r}")
    return _Choice(Scheme.SFB, f"column sum of {kernel.name}'s factor")


class _Columns(NamedTuple):
    """Values in plus out of one node per step; None where there is no product to send."""

    ps: float
    sfb: float | None
    adam: float | None


def _columns(spec: VariableSpec, cluster: ClusterSpec) -> _Columns:
    P1, P2 = cluster.num_workers, cluster.num_servers
    product = spec.factors if spec.rows is not None else None
    if P1 == 1:
        return _Columns(0, None if product is None else 0, None if product is None else 0)
    elements = spec.num_elements
    ps = cost.ps_node(elements, 1, P1, P2) if cluster.co_located else cost.ps_worker(elements, 1)
    if product is None or spec.rows is None:
        return _Columns(ps, None, None)
    (M, N), K = product, spec.rows
    if cluster.co_located:
        adam = cost.adam_node(M, N, K, P1)
    else:
        adam = max(cost.adam_server(M, N, K, P1), cost.adam_worker(M, N, K))
    return _Columns(ps, cost.sfb_worker(M, N, K, P1), adam)


def _priced(spec: VariableSpec, cluster: ClusterSpec, choice: _Choice) -> VariablePlan:
    columns = _columns(spec, cluster)
    sfb_bytes = None if columns.sfb is None else round(columns.sfb * spec.itemsize)
    rebuild_flops = 0
    if choice.scheme is Scheme.PS:
        worker_bytes = 0 if cluster.num_workers == 1 else 2 * spec.num_bytes
    else:
        sfb_bytes = sfb_bytes or 0  # A bias costs nothing beside its kernel.
        worker_bytes = sfb_bytes
        if spec.factors is not None and spec.rows is not None:
            M, N = spec.factors
            rebuild_flops = cost.rebuild_flops(M, N, spec.rows, cluster.num_workers)
    return VariablePlan(
        name=spec.name,
        shape=spec.shape,
        dtype=spec.dtype,
        scheme=choice.scheme,
        ps_bytes=round(columns.ps * spec.itemsize),
        sfb_bytes=sfb_bytes,
        adam_bytes=None if columns.adam is None else round(columns.adam * spec.itemsize),
        worker_bytes=worker_bytes,
        rows=spec.rows,
        factors=spec.factors,
        rebuild_flops=rebuild_flops,
        reason=choice.reason,
    )
