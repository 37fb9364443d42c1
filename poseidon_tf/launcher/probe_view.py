"""What a job's workers have measured of their links: tables for people, JSON for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from poseidon_tf.planner import Measured
from poseidon_tf.planner.answers import human_rate, human_seconds

MARK = "!"


def as_json(found: Measured) -> dict[str, Any]:
    """All figures with their units, and what follows from them."""
    return {
        "workers": [
            {**asdict(each), "servers": _ways(each.servers), "workers": _ways(each.workers)}
            | {"link_bits_per_s": found.link_bits_per_s(rank)}
            for rank, each in enumerate(found.seen)
        ],
        "slow": [way._asdict() for way in found.slow_ways()],
        "took_s": found.took_s,
    }


def as_text(found: Measured) -> str:
    """Two matrices, a row for each worker; slow ways are marked, and named below."""
    slow = found.slow_ways()
    marked = {(way.sender, way.receiver) for way in slow}
    ranks, servers = range(len(found.seen)), range(len(found.seen[0].servers))

    def rate(sender: str, receiver: str, bits_per_s: float) -> str:
        mark = MARK if (sender, receiver) in marked else ""
        return f"{bits_per_s / 1e9:.2f}{mark}"

    rates, trips = [], []
    for rank, each in enumerate(found.seen):
        me = f"worker {rank}"
        from_workers = [
            "-" if other == rank else rate(f"worker {other}", me, each.workers[other].bits_per_s)
            for other in ranks
        ]
        from_servers = [
            "memory"
            if index == each.own_server
            else rate(f"server {index}", me, each.servers[index].bits_per_s)
            for index in servers
        ]
        rates.append([me, *from_workers, *from_servers, f"{found.link_bits_per_s(rank) / 1e9:.2f}"])
        to_workers = [
            "-" if other == rank else f"{each.workers[other].round_trip_s * 1e3:.2f}"
            for other in ranks
        ]
        to_servers = [f"{way.round_trip_s * 1e3:.2f}" for way in each.servers]
        trips.append([me, *to_workers, *to_servers])
    columns = [*(f"worker {rank}" for rank in ranks), *(f"server {index}" for index in servers)]
    first = found.seen[0]
    price = (
        f"A sum of one number takes {human_seconds(first.sum_s)}. On rank 0 a message takes "
        f"{human_seconds(first.message_s)} of a core, a GB {first.byte_s * 1e9:.2g} s to send or "
        f"receive and {first.sum_byte_s * 1e9:.2g} s to add. Measured in {found.took_s:.1f} s."
    )
    return "\n".join(
        [
            "Gbit/s that a worker (row) receives from each other, all at once; its link in all:",
            _table(["", *columns, "link"], rates),
            "",
            "ms until an answer over gRPC:",
            _table(["", *columns], trips),
            "",
            price,
            *(
                f"{MARK} slow: {way.sender} to {way.receiver}, {human_rate(way.bits_per_s)}; "
                f"usual are {human_rate(way.usual_bits_per_s)}"
                for way in slow
            ),
        ]
    )


def _ways(ways: Any) -> list[dict[str, float]]:
    return [way._asdict() for way in ways]


def _table(headers: list[str], rows: list[list[str]]) -> str:
    return tabulate(
        rows,
        headers=headers,
        tablefmt="simple",
        colalign=("left", *["right"] * (len(headers) - 1)),
        disable_numparse=True,
    )
