"""Where this machine lets a process listen; asked with a socket that is closed again at once.

And where others reach a process that listens: nothing is sent to find that out. Libraries that few
questions need are loaded with them: this is part of every server's start.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import time

from poseidon_tf.errors import ConfigError
from poseidon_tf.transport.address import Address

# The names of all interfaces, which gRPC takes for those of IPv6 as well.
ALL_INTERFACES = "0.0.0.0"
_RETRY_S = 0.2


def is_own(host: str) -> bool:
    """Whether `host` is this machine's, and not a name that another one stands in for."""
    reason = refusal(Address(host, 0))
    return reason is None or not (
        isinstance(reason, socket.gaierror) or reason.errno == errno.EADDRNOTAVAIL
    )


def is_elsewhere(host: str) -> bool:
    """Whether `host` is known here, as another machine: that of a balancer, or by mistake."""
    reason = refusal(Address(host, 0))
    return reason is not None and reason.errno == errno.EADDRNOTAVAIL


def silence_at(address: Address, *, timeout_s: float) -> OSError | None:
    """Why nobody accepts a connection at `address`; None if somebody does, within `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        left_s = deadline_s - time.monotonic()
        try:
            socket.create_connection(
                (address.host, address.port), timeout=max(left_s, _RETRY_S)
            ).close()
            return None
        except OSError as reason:
            if deadline_s - time.monotonic() <= _RETRY_S:
                return reason
        time.sleep(_RETRY_S)  # Nothing tells when somebody begins to listen.


def own_addresses() -> list[str]:
    """The IP addresses by which others may reach this machine, or else those of loopback."""
    import psutil

    found = [
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family in (socket.AF_INET, socket.AF_INET6) and "%" not in each.address
    ]
    return [each for each in found if not ipaddress.ip_address(each).is_loopback] or found


def is_reached_elsewhere(host: str) -> bool:
    """Whether `host` is a name that other machines look up to another address than this one.

    Debian writes a machine's own name into its /etc/hosts, with an address of the loopback
    interface. Only "localhost" means that interface everywhere.
    """
    if "localhost" in host:
        return False
    try:
        places = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return False
    return not _is_literal(host) and all(
        ipaddress.ip_address(place[4][0]).is_loopback for place in places
    )


def host_towards(other: Address) -> str:
    """The host of this machine that `other` is likely to reach, as this machine reaches it.

    On the machine of `other` that is its own host, as it is written.

    Raises:
      OSError: its name is unknown (socket.gaierror), or no route leads there.
    """
    if is_own(other.host):
        return other.host
    failure: OSError | None = None
    for family, kind, protocol, _, where in socket.getaddrinfo(
        other.host, other.port, type=socket.SOCK_DGRAM
    ):
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(where)  # Chooses a route; a datagram socket sends nothing.
                host, *_ = probe.getsockname()
                return str(host)
        except OSError as reason:
            failure = failure or reason
    raise failure or OSError(f"no address of {other.host}")


def host_on(interface: str, other: Address) -> str:
    """The host of this machine that the user names.

    Args:
      interface: the name of an interface, of whose addresses one counts that reaches `other`, or
        else the first; or a host of this machine.

    Raises:
      ConfigError: this machine has neither.
    """
    import psutil

    known = psutil.net_if_addrs()
    if interface not in known:
        host = interface.removeprefix("[").removesuffix("]")
        if is_own(host):
            return host
        raise ConfigError(
            f"interface {interface!r} is neither an interface nor an address of this machine, "
            f"which has {', '.join(sorted(known))}"
        )
    families = (socket.AF_INET, socket.AF_INET6)
    addresses = [each.address for each in known[interface] if each.family in families]
    if not addresses:
        raise ConfigError(f"interface {interface!r} has no IP address")
    reaching = [each for each in addresses if _reaches(each, other)]
    return str((reaching or addresses)[0])


def _reaches(host: str, other: Address) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        (here, *_) = socket.getaddrinfo(host, 0, family, socket.SOCK_DGRAM)
        (there, *_) = socket.getaddrinfo(other.host, other.port, family, socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(here[4])
            probe.connect(there[4])
    except OSError:
        return False
    return True


def _is_literal(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return False
    return True


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
