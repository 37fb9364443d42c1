"""Whatever is raised in a member's process, every part of it that was there is ended."""

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.cluster_env import ClusterConfig
from poseidon_tf.launch.server_main import ServerProcess
from poseidon_tf.transport.server import Server
from tests.support.jobs import free_addresses


def is_free(address):
    """Whether another process could listen there now."""
    Server(address, max_streams=1).stop()
    return True


def test_a_server_that_cannot_arrive_gives_its_port_back():
    """Its address was good; that of the coordinator is not."""
    (address,) = free_addresses(1)
    config = ClusterConfig(workers=("nonsense",), servers=(address,), role="server")
    with pytest.raises(ConfigError, match="nonsense"):
        ServerProcess(config, index=0, address=address).serve()
    assert is_free(address)
