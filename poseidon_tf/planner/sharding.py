"""Which server holds which part of what the servers sum.

A server sums what it holds for all workers, so the fullest server sets the pace: it holds at
most 1.05 times the mean.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from .plan import KVPair, Unit
from .units import RULES

SMALLEST_PAIR_BYTES = 4 * 1024
PAIRS_PER_SERVER = 64
"""A sum leaves when its pair is complete, so the first and the last of a server's pairs have the
link to themselves: a few per cent of its time, if there are so many."""
WORTH_CUTTING_BYTES = 64 * 1024
"""Smaller pairs cost more than they save, unless they balance the servers."""
BALANCE = 1.05
"""The fullest server against the mean."""


class _Part(NamedTuple):
    unit: int
    offset: int
    length: int
    itemsize: int


def place(
    units: Sequence[Unit],
    itemsizes: Sequence[int],
    *,
    num_servers: int,
    kv_pair_bytes: int,
) -> tuple[KVPair, ...]:
    """Cut every PS unit into KV pairs and give each pair a server.

    Pairs are at most `kv_pair_bytes`, and small enough that a server holds about 64. They go
    largest first to the emptiest server; where that leaves one server too full, the largest are
    made smaller, and no others: a pair costs a message each way on every worker. A model too small
    for that is laid out as one line of bytes and cut once per server.

    Args:
        itemsizes: bytes of one element of each unit.
        kv_pair_bytes: the largest pair.

    Returns:
        Pairs in order of (unit, index), `index` counting the pairs of a unit by offset. Every
        element of every PS unit is in exactly one.
    """
    if num_servers == 0:
        return ()
    whole = [
        _Part(unit.index, 0, unit.num_elements, itemsize)
        for unit, itemsize in zip(units, itemsizes, strict=True)
        if RULES[unit.scheme].is_summed_by_servers
    ]
    total_bytes = sum(part.length * part.itemsize for part in whole)
    about = max(WORTH_CUTTING_BYTES, total_bytes // (PAIRS_PER_SERVER * num_servers))
    pair_bytes = min(kv_pair_bytes, about)
    counts = [_num_pairs(part, pair_bytes) for part in whole]
    while True:
        parts = [
            piece for part, count in zip(whole, counts, strict=True) for piece in _cut(part, count)
        ]
        servers, fullest = _largest_first(parts, num_servers)
        if fullest * num_servers <= BALANCE * total_bytes:
            break
        if not _cut_finer(whole, counts):
            parts, servers = _one_line(whole, total_bytes, num_servers, kv_pair_bytes)
            break
    return _numbered(parts, servers)


def _cut_finer(whole: Sequence[_Part], counts: list[int]) -> bool:
    """Cut what has the largest pieces into one piece more each; False where all are small.

    Some at once, or a model on many servers would take long.
    """

    def piece_bytes(at: int) -> float:
        return whole[at].length * whole[at].itemsize / counts[at]

    pieces = [(-piece_bytes(at), at) for at in range(len(whole))]
    heapq.heapify(pieces)
    for _ in range(1 + sum(counts) // 16):
        _, at = pieces[0]
        if piece_bytes(at) <= SMALLEST_PAIR_BYTES:
            return False
        counts[at] += 1
        heapq.heapreplace(pieces, (-piece_bytes(at), at))
    return True


def _num_pairs(part: _Part, pair_bytes: int) -> int:
    return -(-part.length // max(1, pair_bytes // part.itemsize))


def _cut(part: _Part, count: int) -> list[_Part]:
    # Near-equal rather than full pairs and a small rest: equal pairs balance better.
    bounds = [part.offset + part.length * k // count for k in range(count + 1)]
    return [
        part._replace(offset=start, length=end - start)
        for start, end in zip(bounds, bounds[1:], strict=False)
    ]


def _largest_first(parts: Sequence[_Part], num_servers: int) -> tuple[list[int], int]:
    # Ties go to the lowest server, and equal parts stay in order of their unit: so a large
    # variable is striped over all servers, and every worker places alike.
    loads = [(0, server) for server in range(num_servers)]
    servers = [0] * len(parts)
    for at in sorted(range(len(parts)), key=lambda at: -parts[at].length * parts[at].itemsize):
        load, server = loads[0]
        servers[at] = server
        heapq.heapreplace(loads, (load + parts[at].length * parts[at].itemsize, server))
    return servers, max(load for load, _ in loads)


def _one_line(
    whole: Sequence[_Part], total_bytes: int, num_servers: int, kv_pair_bytes: int
) -> tuple[list[_Part], list[int]]:
    parts: list[_Part] = []
    servers: list[int] = []
    line_start = 0
    for part in whole:
        taken = 0
        for server in range(num_servers):
            share_end = total_bytes * (server + 1) // num_servers - line_start
            end = min(part.length, share_end // part.itemsize)
            if server == num_servers - 1:
                end = part.length
            if end > taken:
                share = part._replace(offset=taken, length=end - taken)
                pieces = _cut(share, _num_pairs(share, kv_pair_bytes))
                parts += pieces
                servers += [server] * len(pieces)
                taken = end
        line_start += part.length * part.itemsize
    return parts, servers


def _numbered(parts: Sequence[_Part], servers: Sequence[int]) -> tuple[KVPair, ...]:
    pairs: list[KVPair] = []
    for part, server in zip(parts, servers, strict=True):
        same_unit = bool(pairs) and pairs[-1].unit == part.unit
        index = pairs[-1].index + 1 if same_unit else 0
        pairs.append(KVPair(part.unit, index, part.offset, part.length, server))
    return tuple(pairs)
