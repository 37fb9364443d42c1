"""Ports for the processes of a test that no other process takes before they listen.

A port that the system chooses may be chosen again as soon as it is closed, for another test that
runs at the same time. So every test process has ports of its own, below those that the system
chooses from.
"""

from __future__ import annotations

import errno
import functools
import itertools
import socket
from collections.abc import Iterator

from poseidon_tf.transport.address import Address

FIRST, END, NUM_OWN = 10_000, 32_000, 200


def free_addresses(count: int, host: str = "127.0.0.1") -> list[str]:
    """Addresses on the loopback interface, `host` or "::1", whose ports are free now."""
    candidates = itertools.islice(_own_ports(), NUM_OWN - 1)
    free = itertools.islice((port for port in candidates if _is_free(host, port)), count)
    addresses = [str(Address(host, port)) for port in free]
    assert len(addresses) == count, f"of the {NUM_OWN - 1} ports of this process all are taken"
    return addresses


@functools.cache
def _own_ports() -> Iterator[int]:
    """Those of this process, again and again: a port is used anew as late as possible."""
    for first in range(FIRST, END, NUM_OWN):
        mark = socket.socket()
        try:
            mark.bind(("127.0.0.1", first))  # Until this process ends. Nobody listens there.
        except OSError as error:
            mark.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            _marks.append(mark)
            return itertools.cycle(range(first + 1, first + NUM_OWN))
    raise RuntimeError(f"all ports from {FIRST} to {END} belong to other test processes")


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


_marks: list[socket.socket] = []
