"""Makes a plan: every variable with its scheme, its cost and the reason, and what goes where.

The choice is in `choice`, what a scheme costs in `cost`, what follows from it in `schemes`, where
the pieces go in `sharding`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..errors import ConfigError, PlanError
from . import cost
from .choice import Choice, Wish, choose, follow
from .patterns import last_matches
from .plan import Plan, Scheme, VariablePlan
from .rounding import WireDtype, on_the_wire
from .schemes.ps import DEFAULT_COALESCE_BYTES
from .schemes.rules import Columns
from .sharding import place
from .specs import DTYPE_BYTES, ClusterSpec, VariableSpec, kernel_position
from .units import RULES, units_of

DEFAULT_KV_PAIR_BYTES = 1024 * 1024
"""The paper's pairs are 2 MB. That is the most worth having: smaller pairs overlap the way in
with the sum and the way out, and spread a model over the servers more evenly."""

LARGEST_COALESCE_BYTES = 64 * 1024 * 1024
KV_PAIR_BYTES_RANGE = (4 * 1024, 64 * 1024 * 1024)


def make_plan(
    specs: Sequence[VariableSpec],
    cluster: ClusterSpec,
    *,
    schemes: Mapping[str, str] | None = None,
    kv_pair_bytes: int = DEFAULT_KV_PAIR_BYTES,
    coalesce_bytes: int = DEFAULT_COALESCE_BYTES,
    wire_dtype: WireDtype = None,
    arithmetic_differs: str = "",
) -> Plan:
    """Plan one model on one cluster. Equal arguments give equal plans, on any machine.

    Args:
        specs: the trainable variables, in the order of their gradients.
        schemes: overrides, from a pattern of names (`fnmatch`; ``*`` crosses ``/``) to ``"ps"``,
            ``"sfb"`` or ``"rows"``. The last pattern that matches wins. A kernel's bias follows it.
        kv_pair_bytes: the largest piece that a variable is cut into; 4 KiB to 64 MiB.
        coalesce_bytes: PS neighbours that are small beside the rest of the model travel together
            until they reach this at most; 0 for each on its own.
        wire_dtype: what float32 gradients are rounded to before they leave: ``"bfloat16"``,
            ``"float16"``, or a mapping like `schemes`, with ``"float32"`` for those that are not.
            A bias that travels by its kernel's factors is rounded as they are.
        arithmetic_differs: how the workers' hardware or software differs, if it does. Rebuilt
            products may then differ in their last bits, so SFB is used only where asked for.

    Raises:
        PlanError: an override fits no variable, or asks for what its variable cannot do.
    """
    check_kv_pair_bytes(kv_pair_bytes)
    check_coalesce_bytes(coalesce_bytes)
    wishes = _wishes(specs, schemes or {})
    sent = on_the_wire(specs, wire_dtype)
    if cluster.num_workers == 1:  # Nothing leaves.
        sent = list(specs)
    kernels = [_kernel_of(specs, at) for at in range(len(specs))]
    choices = {
        at: choose(spec, cluster, wishes[at], arithmetic_differs)
        for at, spec in enumerate(sent)
        if kernels[at] is None
    }
    for at, kernel in enumerate(kernels):
        if kernel is not None:
            choices[at] = follow(sent[at], sent[kernel], choices[kernel], cluster, wishes[at])
            if choices[at].scheme is Scheme.SFB:
                sent[at] = replace(sent[at], dtype=sent[kernel].dtype)
    variables = tuple(
        _priced(spec, own.dtype, cluster, choices[at])
        for at, (spec, own) in enumerate(zip(sent, specs, strict=True))
    )
    schemes_of = [variable.scheme for variable in variables]
    units = units_of(sent, schemes_of, coalesce_bytes=coalesce_bytes)
    return Plan(
        cluster=cluster,
        kv_pair_bytes=kv_pair_bytes,
        coalesce_bytes=coalesce_bytes,
        variables=variables,
        units=units,
        pairs=place(
            units,
            [sent[unit.variables[0]].itemsize for unit in units],
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


def _wishes(specs: Sequence[VariableSpec], schemes: Mapping[str, str]) -> list[Wish | None]:
    for pattern, value in schemes.items():
        if value not in {scheme.value for scheme in Scheme}:
            raise PlanError(f"scheme for {pattern!r} must be 'ps', 'sfb' or 'rows', got {value!r}")
    matches = last_matches(specs, schemes)
    return [match and Wish(Scheme(match[1]), match[0]) for match in matches]


def _kernel_of(specs: Sequence[VariableSpec], at: int) -> int | None:
    kernel = kernel_position(specs, at)
    if kernel is None and specs[at].bias_of is not None:
        raise PlanError(f"{specs[at].name!r} is the bias of {specs[at].bias_of!r}, not a variable")
    if kernel is not None and specs[kernel].bias_of is not None:
        raise PlanError(f"{specs[at].name!r} is the bias of {specs[kernel].name!r}, itself a bias")
    return kernel


def _columns(spec: VariableSpec, cluster: ClusterSpec) -> Columns:
    P1, P2 = cluster.num_workers, cluster.num_servers
    if P1 == 1:
        if spec.rows is None:
            return Columns(0)
        return Columns(0, rows=0) if spec.sparse else Columns(0, 0, 0)
    elements = spec.num_elements
    ps = cost.ps_node(elements, 1, P1, P2) if cluster.co_located else cost.ps_worker(elements, 1)
    ps *= spec.itemsize
    if spec.sparse and spec.rows is not None:
        return Columns(ps, rows=cost.rows_worker(spec.row_bytes, spec.rows, P1))
    if spec.factors is None or spec.rows is None:
        return Columns(ps)
    (M, N), K = spec.factors, spec.rows
    sent_bytes = DTYPE_BYTES[spec.sent_dtype]

    def in_bytes(values: Callable[[int], float]) -> float:
        """Of `values(K)`: what does not depend on K is as wide as the kernel."""
        return values(0) * spec.itemsize + (values(K) - values(0)) * sent_bytes

    if cluster.co_located:
        adam = in_bytes(lambda K: cost.adam_node(M, N, K, P1))
    else:
        adam = max(
            in_bytes(lambda K: cost.adam_server(M, N, K, P1)),
            in_bytes(lambda K: cost.adam_worker(M, N, K)),
        )
    return Columns(ps, cost.sfb_worker(M, N, K, P1) * sent_bytes, adam)


def _priced(spec: VariableSpec, dtype: str, cluster: ClusterSpec, choice: Choice) -> VariablePlan:
    """What `spec`, as it travels, costs; `dtype` is the variable's own."""
    rules = RULES[choice.scheme]
    columns = rules.columns(_columns(spec, cluster))
    return VariablePlan(
        name=spec.name,
        shape=spec.shape,
        dtype=dtype,
        wire_dtype=spec.dtype,
        scheme=choice.scheme,
        ps_bytes=round(columns.ps),
        sfb_bytes=None if columns.sfb is None else round(columns.sfb),
        adam_bytes=None if columns.adam is None else round(columns.adam),
        rows_bytes=columns.rows,
        worker_bytes=rules.worker_bytes(spec, cluster, columns),
        rows=spec.rows,
        factors=spec.factors,
        factor_dtype=spec.factor_dtype,
        rebuild_flops=rules.rebuild_flops(spec, cluster),
        reason=choice.reason,
    )
