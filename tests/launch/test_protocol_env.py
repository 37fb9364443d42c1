"""What tensors travel by: the argument, or else the environment."""

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.protocol_env import PROTOCOL, read_protocol
from poseidon_tf.transport.connections import ConnectionSettings, Protocol
from poseidon_tf.transport.security import Security

TLS = Security(ca="ca.pem", certificate="member.pem", key="member.key")


@pytest.mark.parametrize(
    "environ, argument, protocol",
    [
        ({}, None, "auto"),
        ({PROTOCOL: ""}, None, "auto"),
        ({PROTOCOL: "grpc"}, None, "grpc"),
        ({PROTOCOL: "grpc+tcp"}, None, "grpc+tcp"),
        ({PROTOCOL: "grpc"}, "grpc+tcp", "grpc+tcp"),
        ({PROTOCOL: "carrier pigeons"}, "auto", "auto"),
    ],
)
def test_the_argument_comes_before_the_environment(
    environ: dict[str, str], argument: Protocol | None, protocol: Protocol
) -> None:
    """Without either it is "auto"."""
    assert read_protocol(environ, argument) == protocol


@pytest.mark.parametrize("told", ["tcp", "GRPC", "grpc+verbs"])
def test_a_protocol_that_is_none_is_refused(told: str) -> None:
    """The error says what there is."""
    with pytest.raises(ConfigError, match="POSEIDON_PROTOCOL must be one of auto, grpc, grpc+.tcp"):
        read_protocol({PROTOCOL: told})


def test_tls_and_tcp_in_the_clear_exclude_each_other() -> None:
    """Nobody sends tensors in the clear by mistake; "auto" has no lanes then."""
    with pytest.raises(ConfigError, match="in the clear"):
        ConnectionSettings(security=TLS, protocol="grpc+tcp")
    assert not ConnectionSettings(security=TLS, protocol="auto").has_lanes
    assert ConnectionSettings(protocol="auto").has_lanes
    assert not ConnectionSettings(protocol="grpc").has_lanes
