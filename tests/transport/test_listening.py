"""On which of its addresses a process listens that is to be reached by another one."""

import socket

import psutil
import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.transport import listening
from poseidon_tf.transport.address import Address

pytestmark = pytest.mark.connections
LOOPBACK = next(
    name
    for name, addresses in psutil.net_if_addrs().items()
    if any(each.address == "127.0.0.1" for each in addresses)
)
# Of a network for documentation: nobody is there, but a route leads to it where there is one.
ELSEWHERE = Address("192.0.2.77", 5000)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_the_others_own_machine_its_host_is_ours(host: str) -> None:
    """As it is written: others know this machine by that name."""
    assert listening.host_towards(Address(host, 5000)) == host


def test_the_interface_that_leads_to_the_other_counts() -> None:
    """Nothing is sent, so nobody has to listen there yet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ELSEWHERE.host, ELSEWHERE.port))
        except OSError:  # A machine without any route.
            with pytest.raises(OSError):
                listening.host_towards(ELSEWHERE)
            return
        own, _ = probe.getsockname()
    assert listening.host_towards(ELSEWHERE) == own
    assert any(own == each.address for each in sum(psutil.net_if_addrs().values(), []))


def test_a_host_of_unknown_name_is_an_error() -> None:
    with pytest.raises(socket.gaierror):
        listening.host_towards(Address("no-such-host.invalid", 5000))


def test_an_interface_is_named_by_name_or_address() -> None:
    there = Address("127.0.0.1", 5000)
    assert listening.host_on(LOOPBACK, there) == "127.0.0.1"
    assert [listening.host_on(host, there) for host in ("127.0.0.1", "localhost")] == [
        "127.0.0.1",
        "localhost",
    ]
    assert listening.host_on("[::1]", there) == "::1"


def test_of_an_interfaces_addresses_one_counts_that_reaches_the_other() -> None:
    """An interface may have addresses of both kinds."""
    assert listening.host_on(LOOPBACK, Address("127.0.0.2", 5000)) == "127.0.0.1"
    assert listening.host_on(LOOPBACK, Address("::1", 5000)) == "::1"


def test_an_interface_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=f"interface 'eth77' is neither .*{LOOPBACK}"):
        listening.host_on("eth77", ELSEWHERE)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost.localdomain", "127.0.0.1", "127.1", "::1"]
)
def test_the_loopback_interface_by_its_own_names_is_meant(host: str) -> None:
    assert not listening.is_reached_elsewhere(host)
