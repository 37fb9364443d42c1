"""What the link between two hosts does, measured with plain TCP."""

from __future__ import annotations

import sys
from typing import NamedTuple

from lab.hosts import Hosts
from lab.members import Members

_MOST_BYTES = 1 << 28


class Carried(NamedTuple):
    """By a link: payload each way with both ways at once, and a round trip of one byte."""

    bits_per_s: float
    round_trip_s: float


def measured_link(hosts: Hosts, bits_per_s: float | None) -> Carried:
    """Between hosts 0 and 1, shaped to so much; None for as fast as it goes. Some seconds."""
    hosts.set_rate(bits_per_s)
    num_bytes = _MOST_BYTES if bits_per_s is None else min(_MOST_BYTES, int(bits_per_s / 8))
    try:
        with Members(hosts, "link_ends.py", count=2, python=sys.executable) as ends:
            answers = ends.ask("measure", num_bytes=num_bytes)
    finally:
        hosts.set_rate(None)
    found = Carried(
        min(answer["bits_per_s"] for answer in answers),
        max(answer["round_trip_s"] for answer in answers),
    )
    name = "unshaped" if bits_per_s is None else f"{bits_per_s / 1e6:.0f} Mbit/s"
    carried = f"{found.bits_per_s / 1e6:.0f} Mbit/s, {found.round_trip_s * 1e6:.0f} us"
    print(f"{name}: {carried}", flush=True)
    return found
