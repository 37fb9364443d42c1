"""The host on which a worker listens that nothing has given an address."""

import logging
import socket
import time

import pytest

from poseidon_tf.errors import ConfigError, StartTimeout
from poseidon_tf.launch import rendezvous
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.rendezvous import check_own_address, located
from poseidon_tf.transport import listening

pytestmark = pytest.mark.connections


def worker(rank: int, coordinator: str = "127.0.0.1:5000") -> ClusterConfig:
    return ClusterConfig(workers=(coordinator, "", ""), rank=rank)


@pytest.mark.parametrize(
    "coordinator, address",
    [("127.0.0.1:5000", "127.0.0.1:0"), ("[::1]:5000", "[::1]:0"), ("localhost:1", "localhost:0")],
)
def test_it_is_the_one_that_leads_to_rank_0_and_the_port_is_still_to_choose(
    coordinator: str, address: str
) -> None:
    config = located(worker(1, coordinator), interface="", timeout_s=1.0)
    assert config.workers == (coordinator, address, "") and config.address == address


def test_an_interface_may_be_named() -> None:
    config = located(worker(2), interface="localhost", timeout_s=1.0)
    assert config.workers == ("127.0.0.1:5000", "", "localhost:0")
    with pytest.raises(ConfigError, match="interface 'eth77' is neither"):
        located(worker(2), interface="eth77", timeout_s=1.0)


@pytest.mark.parametrize(
    "config",
    [
        worker(0),
        ClusterConfig.single(),
        ClusterConfig(workers=("a:1", "b:1"), rank=1),
        ClusterConfig(workers=("a:1",), servers=("s:1",), role="server"),
    ],
)
def test_who_has_an_address_or_needs_none_keeps_it(config: ClusterConfig) -> None:
    assert located(config, interface="eth77", timeout_s=0.0) is config


def test_a_name_that_stays_unknown_is_waited_for_as_long_as_the_start_may_take(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Rank 0's host may get its name after this process has started, as in Kubernetes."""
    begun_s = time.monotonic()
    with pytest.raises(StartTimeout) as caught:
        located(worker(1, "no-such-host.invalid:5000"), interface="", timeout_s=1.5)
    assert time.monotonic() - begun_s >= 1.5
    assert "worker rank 1 cannot find the host of worker rank 0 (no-such-host.invalid:5000)" in str(
        caught.value
    )
    assert "its name is unknown here" in str(caught.value) and "for 1.5 s" in str(caught.value)
    (record,) = caplog.records
    assert "trying again for 1.5 s" in record.getMessage()


NOBODYS = "203.0.113.1"  # For documentation.


def test_an_address_is_another_machines_only_if_it_is_known_and_not_here() -> None:
    assert listening.is_elsewhere(NOBODYS) and listening.is_elsewhere("2001:db8::1")
    for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "no-such-host.invalid"):
        assert not listening.is_elsewhere(host), host


@pytest.mark.parametrize(
    "config",
    [
        ClusterConfig(workers=("a:1", f"{NOBODYS}:5000"), servers=("b:1",), rank=1),
        ClusterConfig(workers=("a:1",), servers=(f"{NOBODYS}:5000",), role="server"),
    ],
)
def test_a_member_that_was_given_another_machines_address_says_so(
    config: ClusterConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Something may forward to it, which this machine itself need not reach."""
    with caplog.at_level(logging.WARNING, logger="poseidon_tf"):
        check_own_address(config)
    (record,) = caplog.records
    name = f"{config.role} rank {config.rank} is to be reached at {NOBODYS}:5000, which is no "
    assert name in record.getMessage() and "mend its address in TF_CONFIG" in record.getMessage()


def test_rank_0_needs_an_address_that_leads_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an address of this machine as if it were another's; `tests_hosts` has two machines."""
    monkeypatch.setattr(listening, "is_elsewhere", lambda host: True)
    monkeypatch.setattr(rendezvous, "_FORWARDED_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as forwards:
        address = f"127.0.0.1:{forwards.getsockname()[1]}"
        check_own_address(worker(0, address))
    with pytest.raises(ConfigError) as caught:
        check_own_address(worker(0, address))
    text = str(caught.value)
    assert f"worker rank 0 is to be reached at {address}, which is no address of this" in text
    assert "Connection refused" in text and "set POSEIDON_COORDINATOR" in text
