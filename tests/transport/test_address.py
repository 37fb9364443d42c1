"""An address is read, compared and written in one way."""

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.transport.address import Address


@pytest.mark.parametrize(
    "text, host, port",
    [
        ("localhost:1", "localhost", 1),
        ("10.0.0.7:65535", "10.0.0.7", 65535),
        ("0.0.0.0:5", "0.0.0.0", 5),
        ("job-worker-0.ns.svc:2222", "job-worker-0.ns.svc", 2222),
        ("[::1]:2222", "::1", 2222),
        ("[::]:2222", "::", 2222),
        ("[fd00::ffff:1.2.3.4]:2222", "fd00::ffff:102:304", 2222),
        ("[::ffff:1.2.3.4]:2222", "::ffff:1.2.3.4", 2222),
        ("[fe80::1%eth0]:2222", "fe80::1%eth0", 2222),
    ],
)
def test_an_address_splits_at_its_last_colon(text: str, host: str, port: int) -> None:
    """The host has no brackets; what is written can be read again, and is the same."""
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "one, other, written",
    [
        ("[0:0:0:0:0:0:0:1]:22", "[::1]:022", "[::1]:22"),
        ("[FD00::00AB]:22", "[fd00:0::ab]:22", "[fd00::ab]:22"),
        ("Node-1:22", "node-1:22", "node-1:22"),
        ("[FE80::1%eth0]:22", "[fe80:0::1%eth0]:22", "[fe80::1%eth0]:22"),
    ],
)
def test_what_means_the_same_is_equal_and_written_alike(one: str, other: str, written: str) -> None:
    """So that no member is taken for two, and messages can be compared."""
    assert Address.parse(one) == Address.parse(other)
    assert hash(Address.parse(one)) == hash(Address.parse(other))
    assert str(Address.parse(one)) == str(Address.parse(other)) == written


def test_another_zone_or_port_is_another_address() -> None:
    """A link-local address means another machine on another interface."""
    here = Address.parse("[fe80::1%eth0]:22")
    assert here != Address.parse("[fe80::1%eth1]:22") and here != here.with_port(23)
    assert str(here.with_port(23)) == "[fe80::1%eth0]:23"


@pytest.mark.parametrize(
    "text, name",
    [("[fe80::1%eth0]:1", "fe80::1"), ("[0:0::1]:1", "::1"), ("10.0.0.7:1", "10.0.0.7")],
)
def test_a_certificate_has_neither_brackets_nor_zone(text: str, name: str) -> None:
    """A zone is this machine's own name for an interface."""
    assert Address.parse(text).name_in_certificates == name


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "host:port"),
        ("host", "host:port"),
        (":80", "host:port"),
        ("host:", "host:port"),
        ("[]:80", "host:port"),
        ("[::1]", "host:port"),
        ("grpc://host:80", "host:port"),
        ("unix:/tmp/socket:80", "host:port"),
        ("my host:80", "host:port"),
        ("::1:80", "brackets"),
        ("::1", "brackets"),
        ("[host]:80", "brackets are for an IPv6 address"),
        ("[10.0.0.7]:80", "brackets are for an IPv6 address"),
        ("[:::1]:80", "brackets are for an IPv6 address"),
        ("[::\0]:80", "brackets are for an IPv6 address"),
        ("host:0", "1 to 65535"),
        ("host:65536", "1 to 65535"),
        ("host:-1", "1 to 65535"),
        ("host:http", "1 to 65535"),
        ("host:٣", "1 to 65535"),  # A digit to isdigit(), not to a socket.
        ("host:" + "9" * 5000, "1 to 65535"),
    ],
)
def test_what_is_no_address_is_refused(text: str, says: str) -> None:
    """The message says how one reads."""
    with pytest.raises(ConfigError, match=says):
        Address.parse(text)


def test_port_0_is_for_who_asks_the_system() -> None:
    """Nobody can be called there."""
    assert Address.parse("[::1]:0", lowest_port=0) == Address("::1", 0)
    with pytest.raises(ConfigError, match="0 to 65535"):
        Address.parse("[::1]:65536", lowest_port=0)
