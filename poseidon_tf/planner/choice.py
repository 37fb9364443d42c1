"""Chooses the scheme of one variable: Algorithm 1, the user's wish, and the reason in words."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import PlanError
from . import cost
from .plan import Scheme
from .specs import DTYPE_BYTES, ClusterSpec, VariableSpec
from .table import human_bytes, human_count

ROWS_UNKNOWN = "rows unknown: pass rows_per_step="


class Choice(NamedTuple):
    """A scheme, and why."""

    scheme: Scheme
    reason: str


class Wish(NamedTuple):
    """A scheme that the user asks for, by a pattern of names."""

    scheme: Scheme
    pattern: str


_ALONE = Choice(Scheme.PS, "one worker: nothing to send")


def choose(
    spec: VariableSpec, cluster: ClusterSpec, wish: Wish | None, arithmetic_differs: str
) -> Choice:
    """The scheme of a variable that is not the bias of another."""
    return (
        _choose_sparse(spec, cluster, wish)
        if spec.sparse
        else _choose_dense(spec, cluster, wish, arithmetic_differs)
    )


def follow(
    spec: VariableSpec,
    kernel: VariableSpec,
    kernel_choice: Choice,
    cluster: ClusterSpec,
    wish: Wish | None,
) -> Choice:
    """The scheme of a bias: its kernel's, since the kernel's factor holds its gradient."""
    _refuse_rows(spec, wish)
    if cluster.num_workers == 1:
        return _ALONE
    if kernel_choice.scheme is Scheme.PS:
        if wish is not None and wish.scheme is Scheme.SFB:
            raise PlanError(
                f"{spec.name!r} cannot be 'sfb' as {wish.pattern!r} asks: its kernel "
                f"{kernel.name!r} goes through the parameter server"
            )
        return Choice(Scheme.PS, "PS: its kernel goes through the parameter server")
    if wish is not None and wish.scheme is Scheme.PS:
        return Choice(Scheme.PS, f"asked for by {wish.pattern!r}")
    return Choice(Scheme.SFB, f"column sum of {kernel.name}'s factor")


def _choose_dense(
    spec: VariableSpec, cluster: ClusterSpec, wish: Wish | None, arithmetic_differs: str
) -> Choice:
    _refuse_rows(spec, wish)
    obstacle = ""
    if spec.factors is None:
        obstacle = spec.why_not or "no product"
    elif spec.rows is None:
        obstacle = f"rows unknown: {spec.why_not}" if spec.why_not else ROWS_UNKNOWN
    if obstacle and wish is not None and wish.scheme is Scheme.SFB:
        raise PlanError(f"{spec.name!r} cannot be 'sfb' as {wish.pattern!r} asks: {obstacle}")
    if cluster.num_workers == 1:
        return _ALONE
    if spec.factors is None or spec.rows is None:
        return Choice(Scheme.PS, f"PS: {obstacle}")
    if wish is not None:
        return Choice(wish.scheme, f"asked for by {wish.pattern!r}")
    if arithmetic_differs:
        return Choice(Scheme.PS, f"PS: {arithmetic_differs}")
    return _by_rule(spec, spec.factors, spec.rows, cluster)


def _choose_sparse(spec: VariableSpec, cluster: ClusterSpec, wish: Wish | None) -> Choice:
    if wish is not None and wish.scheme is Scheme.SFB:
        raise PlanError(
            f"{spec.name!r} cannot be 'sfb' as {wish.pattern!r} asks: its gradient is rows of a "
            "table, not a product; ask for 'rows'"
        )
    if wish is not None and wish.scheme is Scheme.PS and spec.why_rows:
        raise PlanError(
            f"{spec.name!r} cannot be 'ps' as {wish.pattern!r} asks: {spec.why_rows}, which a sum "
            f"would hide; ask for 'rows', as in schemes={{..., {spec.name!r}: 'rows'}}"
        )
    if cluster.num_workers == 1:
        return _ALONE
    if wish is not None:
        return Choice(wish.scheme, f"asked for by {wish.pattern!r}")
    if spec.why_rows:
        return Choice(Scheme.ROWS, f"rows: {spec.why_rows}")
    if spec.rows is None:
        # A step touches few rows of any table that is worth thinking about.
        why = spec.why_not or "pass rows_per_step="
        return Choice(Scheme.ROWS, f"rows: how many is unknown, {why}; the table has many")
    K, P1, P2 = spec.rows, cluster.num_workers, cluster.num_servers
    pays = cost.rows_pay(spec.row_bytes, spec.num_bytes, K, P1, P2, co_located=cluster.co_located)
    table = cost.ps_busiest(spec.num_bytes, 1, P1, P2, co_located=cluster.co_located)
    reason = (
        f"2K(P1-1) rows = {human_bytes(cost.rows_worker(spec.row_bytes, K, P1))} "
        f"{'<=' if pays else '>'} {_opponent(cluster)} = {human_bytes(round(table))}"
    )
    return Choice(Scheme.ROWS if pays else Scheme.PS, reason)


def _by_rule(spec: VariableSpec, factors: tuple[int, int], K: int, cluster: ClusterSpec) -> Choice:
    M, N = factors
    P1, P2 = cluster.num_workers, cluster.num_servers
    sent_bytes = DTYPE_BYTES[spec.sent_dtype]
    pays = cost.sfb_pays(
        M,
        N,
        K,
        P1,
        P2,
        cluster.co_located,
        factor_bytes=sent_bytes,
        kernel_bytes=spec.itemsize,
    )
    ps_values = cost.ps_busiest(M, N, P1, P2, co_located=cluster.co_located)
    widths = ["", ""]
    if sent_bytes != spec.itemsize:
        widths = [f" x {sent_bytes} B", f" x {spec.itemsize} B"]
    reason = (
        f"2K(P1-1)(M+N) = {human_count(cost.sfb_worker(M, N, K, P1))}{widths[0]} "
        f"{'<=' if pays else '>'} {_opponent(cluster)} = {human_count(ps_values)}{widths[1]}"
    )
    return Choice(Scheme.SFB if pays else Scheme.PS, reason)


def _opponent(cluster: ClusterSpec) -> str:
    return "2MN(P1+P2-2)/P2" if cluster.co_located else "max(2MN, 2P1MN/P2)"


def _refuse_rows(spec: VariableSpec, wish: Wish | None) -> None:
    if wish is not None and wish.scheme is Scheme.ROWS:
        raise PlanError(
            f"{spec.name!r} cannot be 'rows' as {wish.pattern!r} asks: its gradient is dense; ask "
            "for 'ps'"
        )
