"""Where a node of Slurm is whose name is no host's; `tests_engines` has a Slurm that says so."""

import logging
import socket

import pytest

from poseidon_tf.launch.cluster_env import read_cluster
from poseidon_tf.launch.rendezvous import located
from poseidon_tf.launch.sources.by_slurm import host_of

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NODELIST": "localhost",
}


def test_a_node_with_the_name_of_a_host_is_that_host() -> None:
    assert host_of("localhost") == "localhost"


@pytest.mark.processes
def test_an_unknown_name_is_kept_with_a_warning_where_slurm_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may become known later, as names of machines that are just being started do."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with caplog.at_level(logging.WARNING, logger="poseidon_tf"):
        assert host_of("n1") == "n1"
    assert "no host named n1, a node of Slurm, is known here" in caplog.text
    assert "'scontrol --oneliner show node n1' does not tell its address" in caplog.text


def unknown(*args: object, **named: object) -> None:
    raise socket.gaierror("Name or service not known")


def test_only_the_name_of_a_node_is_looked_up() -> None:
    """An address that somebody gives for rank 0 is one."""
    config = read_cluster(SLURM)
    assert config.node == "localhost" and config.with_worker(1, "a:1").node == "localhost"
    assert located(config, interface="", timeout_s=1.0).node == ""
    assert read_cluster({**SLURM, "POSEIDON_COORDINATOR": "node01:5000"}).node == ""
