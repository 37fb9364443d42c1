"""Values moved per iteration, in plus out, under each communication scheme.

Symbols, used as names throughout this file:
    M, N    rows and columns of the layer's weight matrix
    K       rows of the layer's input on one worker (samples, or samples x tokens)
    P1, P2  number of workers, number of servers
Reference: Zhang et al., Poseidon, USENIX ATC 2017, Table 1 and Algorithm 1.

    scheme   server                 worker           server and worker on one node
    PS       2 P1 MN / P2           2 MN             2 MN (P1 + P2 - 2) / P2
    SFB      -                      2K (P1-1)(M+N)   2K (P1-1)(M+N)
    Adam     P1 MN + P1 K (M+N)     K (M+N) + MN     (P1-1)(MN + KM + KN)

A variable without factors has its number of elements for MN. A sparse gradient is not in the
table: its K rows go to each peer, as factors do, each of so many bytes with its index.

    rows     -                      2K (P1-1) row    2K (P1-1) row
"""

from __future__ import annotations


def ps_server(M: int, N: int, P1: int, P2: int) -> float:
    """``2 P1 MN / P2``: every worker's gradient comes in and every worker's weights go out."""
    return 2 * P1 * M * N / P2


def ps_worker(M: int, N: int) -> float:
    """``2 MN``: the gradient goes out, the sum comes in."""
    return 2 * M * N


def ps_node(M: int, N: int, P1: int, P2: int) -> float:
    """``2 MN (P1 + P2 - 2) / P2``: a worker and a server, less what they tell each other."""
    return 2 * M * N * (P1 + P2 - 2) / P2


def sfb_worker(M: int, N: int, K: int, P1: int) -> float:
    """``2K (P1-1)(M+N)``: K pairs of factors to and from each peer; there is no server."""
    return 2 * K * (P1 - 1) * (M + N)


def rows_worker(row_bytes: int, K: int, P1: int) -> int:
    """``2K (P1-1) row``, in bytes: K rows with their indices to and from each peer."""
    return 2 * K * (P1 - 1) * row_bytes


def adam_server(M: int, N: int, K: int, P1: int) -> float:
    """``P1 MN + P1 K (M+N)``: factors come in, the whole matrix goes out, from one server."""
    return P1 * M * N + P1 * K * (M + N)


def adam_worker(M: int, N: int, K: int) -> float:
    """``K (M+N) + MN``: factors go out, the whole matrix comes in."""
    return K * (M + N) + M * N


def adam_node(M: int, N: int, K: int, P1: int) -> float:
    """``(P1-1)(MN + KM + KN)``: the node that holds the matrix, and serves the others."""
    return (P1 - 1) * (M * N + K * M + K * N)


def ps_busiest(M: int, N: int, P1: int, P2: int, *, co_located: bool) -> float:
    """What SFB is compared with: the busiest node where the parameter server is used."""
    if co_located:
        return ps_node(M, N, P1, P2)
    return max(ps_worker(M, N), ps_server(M, N, P1, P2))


def sfb_pays(
    M: int,
    N: int,
    K: int,
    P1: int,
    P2: int,
    co_located: bool,
    *,
    factor_bytes: int = 1,
    kernel_bytes: int = 1,
) -> bool:
    """Algorithm 1: ``2K (P1-1)(M+N) <= 2 MN (P1+P2-2) / P2``; a tie goes to SFB.

    Dedicated servers change the right side to ``max(2 MN, 2 P1 MN / P2)``. Where factors are
    narrower than the kernel each side counts in its own bytes per value.
    """
    # Times P2: whole numbers, so that a tie is a tie on every machine.
    factors = 2 * K * (P1 - 1) * (M + N) * factor_bytes * P2
    return factors <= _ps_busiest_times_P2(M * N * kernel_bytes, P1, P2, co_located)


def rows_pay(
    row_bytes: int, table_bytes: int, K: int, P1: int, P2: int, *, co_located: bool
) -> bool:
    """The same rule for sparse rows against their dense table."""
    rows = rows_worker(row_bytes, K, P1) * P2
    return rows <= _ps_busiest_times_P2(table_bytes, P1, P2, co_located)


def _ps_busiest_times_P2(size: int, P1: int, P2: int, co_located: bool) -> int:
    return 2 * size * (P1 + P2 - 2 if co_located else max(P1, P2))


def rebuild_flops(M: int, N: int, K: int, P1: int) -> int:
    """``2 P1 K M N``: every worker multiplies the rows of all workers, not just its own K."""
    return 2 * P1 * K * M * N
