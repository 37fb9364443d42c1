"""Where this machine lets a process listen; asked with a socket that is closed again at once."""

from __future__ import annotations

import errno
import socket

from poseidon_tf.transport.address import Address

# The names of all interfaces, which gRPC takes for those of IPv6 as well.
ALL_INTERFACES = "0.0.0.0"


def is_own(host: str) -> bool:
    """Whether `host` is this machine's, and not a name that another one stands in for."""
    reason = refusal(Address(host, 0))
    return reason is None or not (
        isinstance(reason, socket.gaierror) or reason.errno == errno.EADDRNOTAVAIL
    )


def is_taken(reason: OSError | None) -> bool:
    """Whether somebody else listens there, who may end."""
    return reason is None or reason.errno == errno.EADDRINUSE


def refusal(address: Address) -> OSError | None:
    """Why nobody can listen at `address` now; None if somebody can.

    A name may stand for several addresses. It is taken if one of them is: whoever calls the name
    would reach whoever has that one. Otherwise one that can be had is enough.
    """
    try:
        places = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except socket.gaierror as unknown:
        return unknown
    refusals = [reason for place in places if (reason := _refusal(place)) is not None]
    taken = [reason for reason in refusals if reason.errno == errno.EADDRINUSE]
    if taken or len(refusals) == len(places):
        return (taken or refusals)[0]
    return None


_Place = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


def _refusal(place: _Place) -> OSError | None:
    family, kind, protocol, _, where = place
    try:
        with socket.socket(family, kind, protocol) as probe:
            # As gRPC does: connections of a process that has ended are no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as reason:
        return reason
    return None
