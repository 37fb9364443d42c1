"""What the variables of each launcher and scheduler give, and what is said where one is wrong."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.cluster_env import read_cluster
from poseidon_tf.launch.sources.slurm import first_node

POSEIDON = {
    "POSEIDON_RANK": "1",
    "POSEIDON_WORLD_SIZE": "3",
    "POSEIDON_COORDINATOR": "node01:5000",
}
KERAS = {
    "KERAS_DISTRIBUTION_PROCESS_ID": "1",
    "KERAS_DISTRIBUTION_NUM_PROCESSES": "3",
    "KERAS_DISTRIBUTION_JOB_ADDRESSES": "node01:5000",
}
JAX = {
    "JAX_PROCESS_ID": "1",
    "JAX_NUM_PROCESSES": "3",
    "JAX_COORDINATOR_ADDRESS": "node01:5000",
}
TORCH = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "node01", "MASTER_PORT": "29500"}
TORCHRUN = {**TORCH, "TORCHELASTIC_RUN_ID": "none"}
TRAINER = {
    "PET_NODE_RANK": "1",
    "PET_NNODES": "3",
    "PET_MASTER_ADDR": "node01",
    "PET_MASTER_PORT": "29400",
}
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "3",
    "SLURM_STEP_NODELIST": "node[01-03]",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "3",
    "PMIX_NAMESPACE": "577372161",
    "PMIX_RANK": "1",
}
MVAPICH = {
    "MV2_COMM_WORLD_RANK": "1",
    "MV2_COMM_WORLD_SIZE": "3",
    "MV2_COMM_WORLD_LOCAL_SIZE": "3",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "3", "MPI_LOCALNRANKS": "3"}
SAGEMAKER = {"SM_HOSTS": '["algo-1", "algo-2", "algo-3"]', "SM_CURRENT_HOST": "algo-2"}


def port(job: str, first: int = 20000, last: int = 29999) -> int:
    return first + zlib.crc32(job.encode()) % (last - first + 1)


def without(environ: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environ.items() if key != name}


def tf_config(num_workers: int, index: int = 0, job: str = "worker", **jobs: Any) -> dict[str, str]:
    cluster = {"worker": [f"host{i}:1" for i in range(num_workers)], **jobs}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})}


@pytest.mark.parametrize(
    "environ, coordinator, source",
    [
        (POSEIDON, "node01:5000", "POSEIDON_RANK and POSEIDON_WORLD_SIZE"),
        (KERAS, "node01:5000", "KERAS_DISTRIBUTION_PROCESS_ID and _NUM_PROCESSES"),
        (JAX, "node01:5000", "JAX_PROCESS_ID and JAX_NUM_PROCESSES"),
        (TORCH, f"node01:{port('torchrun 29500 ')}", "RANK and WORLD_SIZE"),
        (TORCHRUN, f"node01:{port('torchrun 29500 none')}", "torchrun (RANK, WORLD_SIZE)"),
        (
            TRAINER,
            f"node01:{port('torchrun 29400 ')}",
            "Kubeflow Trainer (PET_NODE_RANK, PET_NNODES)",
        ),
        (SLURM, f"node01:{port('slurm 4711.0')}", "Slurm step 4711.0"),
        (
            OPEN_MPI,
            f"127.0.0.1:{port('mpi 577372161')}",
            "Open MPI (OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE)",
        ),
        (SAGEMAKER, f"algo-1:{port('sagemaker')}", "SageMaker (SM_HOSTS)"),
    ],
)
def test_rank_size_and_rank_0s_address_are_a_cluster(
    environ: dict[str, str], coordinator: str, source: str
) -> None:
    """The other addresses are open: each worker chooses its own and announces it."""
    config = read_cluster(environ)
    assert config == ClusterConfig(workers=(coordinator, "", ""), rank=1)
    assert (config.source, config.address, config.num_servers) == (source, "", 3)


@pytest.mark.parametrize("environ", [MVAPICH, MPICH])
def test_an_mpi_job_without_a_name_is_known_by_who_has_started_it(environ: dict[str, str]) -> None:
    config, again = read_cluster(environ), read_cluster(environ)
    host, _, chosen = config.coordinator_address.rpartition(":")
    assert host == "127.0.0.1" and 20000 <= int(chosen) <= 29999 and config == again


@pytest.mark.parametrize(
    "environ, names",
    [
        (POSEIDON, ["POSEIDON_RANK", "POSEIDON_WORLD_SIZE", "POSEIDON_COORDINATOR"]),
        (KERAS, list(KERAS)),
        (JAX, list(JAX)),
        (TORCH, list(TORCH)),
        (TRAINER, list(TRAINER)),
        (SLURM, ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NODELIST"]),
        (OPEN_MPI, ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"]),
        (MVAPICH, ["MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"]),
        (MPICH, ["PMI_RANK", "PMI_SIZE"]),
        (SAGEMAKER, list(SAGEMAKER)),
    ],
)
def test_a_missing_variable_is_named_with_what_to_set(
    environ: dict[str, str], names: list[str]
) -> None:
    for name in names:
        with pytest.raises(ConfigError, match="alone=True") as caught:
            read_cluster(without(environ, name))
        assert name in str(caught.value) and "POSEIDON_COORDINATOR" in str(caught.value)


@pytest.mark.parametrize(
    "environ, name, value, says",
    [
        (
            POSEIDON,
            "POSEIDON_RANK",
            "one",
            "POSEIDON_RANK must be a whole number from 0, got 'one'",
        ),
        (POSEIDON, "POSEIDON_RANK", "-1", "POSEIDON_RANK must be a whole number"),
        (POSEIDON, "POSEIDON_RANK", "3", "POSEIDON_RANK=3 is no rank below POSEIDON_WORLD_SIZE=3"),
        (POSEIDON, "POSEIDON_WORLD_SIZE", "1" * 5000, "POSEIDON_WORLD_SIZE must be a whole number"),
        (POSEIDON, "POSEIDON_WORLD_SIZE", "0", "no rank below POSEIDON_WORLD_SIZE=0"),
        (POSEIDON, "POSEIDON_COORDINATOR", "node01", "POSEIDON_COORDINATOR: .*'host:port'"),
        (KERAS, "KERAS_DISTRIBUTION_PROCESS_ID", "x", "PROCESS_ID must be a whole number"),
        (
            KERAS,
            "KERAS_DISTRIBUTION_JOB_ADDRESSES",
            "a:1, b:1",
            "ADDRESSES must list 1 address, rank 0's, or 3, one per process, got 2: a:1, b:1",
        ),
        (KERAS, "KERAS_DISTRIBUTION_JOB_ADDRESSES", "a:1,b,c:1", "ADDRESSES: .*'host:port', got"),
        (JAX, "JAX_NUM_PROCESSES", "x", "JAX_NUM_PROCESSES must be a whole number"),
        (JAX, "JAX_COORDINATOR_ADDRESS", "a/b", "JAX_COORDINATOR_ADDRESS: an address must read"),
        (JAX, "JAX_PROCESS_ID", "3", "JAX_PROCESS_ID=3 is no rank below JAX_NUM_PROCESSES=3"),
        (TORCH, "RANK", "x", "RANK must be a whole number"),
        (TORCH, "WORLD_SIZE", "1", "RANK=1 is no rank below WORLD_SIZE=1"),
        (TORCH, "MASTER_PORT", "x", "MASTER_PORT must be a whole number"),
        (TORCH, "MASTER_ADDR", "a b", "MASTER_ADDR: an address must read"),
        (TRAINER, "PET_NNODES", "1:4", "PET_NNODES must be a whole number from 0, got '1:4'"),
        (TRAINER, "PET_NODE_RANK", "3", "PET_NODE_RANK=3 is no rank below PET_NNODES=3"),
        (TRAINER, "PET_MASTER_PORT", "x", "PET_MASTER_PORT must be a whole number"),
        (TRAINER, "PET_MASTER_ADDR", "a b", "PET_MASTER_ADDR: an address must read"),
        (SLURM, "SLURM_PROCID", "x", "SLURM_PROCID must be a whole number"),
        (SLURM, "SLURM_NTASKS", "x", "SLURM_NTASKS must be a whole number"),
        (SLURM, "SLURM_STEP_NUM_TASKS", "1", "SLURM_PROCID=1 is no rank .*SLURM_STEP_NUM_TASKS=1"),
        (SLURM, "SLURM_STEP_NODELIST", "node[01", "must be a list of nodes .* got 'node\\[01'"),
        (SLURM, "SLURM_STEP_NODELIST", "node]", "must be a list of nodes"),
        (SLURM, "SLURM_STEP_NODELIST", ",", "must be a list of nodes"),
        (OPEN_MPI, "OMPI_COMM_WORLD_SIZE", "x", "OMPI_COMM_WORLD_SIZE must be a whole number"),
        (OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE", "x", "LOCAL_SIZE must be a whole number"),
        (MVAPICH, "MV2_COMM_WORLD_RANK", "x", "MV2_COMM_WORLD_RANK must be a whole number"),
        (MVAPICH, "MV2_COMM_WORLD_SIZE", "1", "RANK=1 is no rank below MV2_COMM_WORLD_SIZE=1"),
        (MVAPICH, "MV2_COMM_WORLD_LOCAL_SIZE", "x", "LOCAL_SIZE must be a whole number"),
        (MPICH, "PMI_RANK", "x", "PMI_RANK must be a whole number"),
        (MPICH, "PMI_SIZE", "1", "PMI_RANK=1 is no rank below PMI_SIZE=1"),
        (MPICH, "MPI_LOCALNRANKS", "x", "MPI_LOCALNRANKS must be a whole number"),
        (SAGEMAKER, "SM_HOSTS", "algo-1", "SM_HOSTS must be a JSON list .* got 'algo-1'"),
        (SAGEMAKER, "SM_HOSTS", "[]", "SM_HOSTS must be a JSON list"),
        (SAGEMAKER, "SM_HOSTS", "[1]", "SM_HOSTS must be a JSON list"),
        (SAGEMAKER, "SM_CURRENT_HOST", "algo-4", "SM_CURRENT_HOST must be one of .* got 'algo-4'"),
        (SAGEMAKER, "SM_HOSTS", '["algo-2", "algo-2"]', "SM_CURRENT_HOST must be one of the hosts"),
        (SAGEMAKER, "SM_HOSTS", '["a/b", "algo-2"]', "SM_HOSTS: an address must read"),
    ],
)
def test_a_malformed_variable_is_named(
    environ: dict[str, str], name: str, value: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        read_cluster({**environ, name: value})


@pytest.mark.parametrize(
    "environ",
    [
        {"POSEIDON_RANK": "0", "POSEIDON_WORLD_SIZE": "1"},
        {"KERAS_DISTRIBUTION_PROCESS_ID": "0", "KERAS_DISTRIBUTION_NUM_PROCESSES": "1"},
        {"JAX_PROCESS_ID": "0", "JAX_NUM_PROCESSES": "1"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1"},
        {"MASTER_ADDR": "node01", "MASTER_PORT": "29500"},
        {"PET_NODE_RANK": "0", "PET_NNODES": "1"},
        {**SLURM, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "PMIX_RANK": "0"},
        {"PMI_RANK": "0", "PMI_SIZE": "1"},
        {"SM_HOSTS": '["algo-1"]', "SM_CURRENT_HOST": "algo-1"},
        {name: "" for name in (*SLURM, *POSEIDON, *TORCH, *OPEN_MPI)},
    ],
)
def test_one_process_of_one_is_alone(environ: dict[str, str]) -> None:
    assert read_cluster(environ).is_single


@pytest.mark.parametrize(
    "environ",
    [
        without(without(SLURM, "SLURM_STEP_ID"), "SLURM_STEP_NODELIST"),
        {**SLURM, "SLURM_STEP_ID": str(0xFFFFFFFA)},
        {**SLURM, "SLURM_STEP_ID": str(0xFFFFFFFB)},
        {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "3", "SLURM_JOB_NODELIST": "node[01-03]"},
    ],
    ids=["batch script", "interactive step", "batch step", "salloc"],
)
def test_an_allocation_of_slurm_without_a_step_is_not_one_of_several(
    environ: dict[str, str],
) -> None:
    assert read_cluster(environ).is_single


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("node01", "node01"),
        ("node[01-16]", "node01"),
        ("node[07,01-04]", "node07"),
        ("zed1,abc[1-2]", "zed1"),
        ("rack[2-3]node[04-05,9]-ib,other", "rack2node04-ib"),
        ("10.0.0.1", "10.0.0.1"),
        ("a.b-c_d[1]", "a.b-c_d1"),
    ],
)
def test_the_node_of_rank_0_is_the_first_as_it_is_written(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_a_step_knows_its_own_number_of_tasks() -> None:
    """SLURM_NTASKS may be the allocation's."""
    assert read_cluster({**SLURM, "SLURM_STEP_NUM_TASKS": "2"}).num_workers == 2


def test_steps_of_one_job_have_ports_of_their_own() -> None:
    first, second = (
        read_cluster({**SLURM, "SLURM_STEP_ID": step}).coordinator_address for step in "01"
    )
    assert first != second


def test_a_port_that_follows_from_the_job_is_one_of_those_that_it_may_use() -> None:
    for step in range(20):
        config = read_cluster({**SLURM, "SLURM_STEP_ID": str(step)}, ports=(6000, 6003))
        assert config.coordinator_address == f"node01:{port(f'slurm 4711.{step}', 6000, 6003)}"


def test_kubeflows_pytorchjob_tells_rank_0_localhost_and_the_others_its_pods_name() -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "job-master-0", "RANK": "0"}
    chief = read_cluster({**TORCH, **pod, "MASTER_ADDR": "localhost"})
    worker = read_cluster({**TORCH, "MASTER_ADDR": "job-master-0"})
    assert chief.coordinator_address == worker.coordinator_address
    agents = read_cluster({**TORCHRUN, **pod, "MASTER_ADDR": "localhost"})
    assert agents.coordinator_address.startswith("localhost:")


def test_keras_may_list_everybody() -> None:
    addresses = "10.0.0.1:1234,[0:0::1]:5,Node:6"
    config = read_cluster({**KERAS, "KERAS_DISTRIBUTION_JOB_ADDRESSES": addresses})
    assert config.workers == ("10.0.0.1:1234", "[::1]:5", "node:6")


@pytest.mark.parametrize("host, written", [("fd00::1", "[fd00::1]"), ("[fd00::1]", "[fd00::1]")])
def test_an_ipv6_host_needs_no_brackets_where_it_has_no_port(host: str, written: str) -> None:
    torch = read_cluster({**TORCH, "MASTER_ADDR": host})
    assert torch.coordinator_address == f"{written}:{port('torchrun 29500 ')}"
    jax = read_cluster({**JAX, "JAX_COORDINATOR_ADDRESS": host})
    assert jax.coordinator_address == f"{written}:{port('JAX_COORDINATOR_ADDRESS')}"


@pytest.mark.parametrize("environ", [SLURM, TORCH, TORCHRUN, TRAINER, OPEN_MPI, MPICH, KERAS, JAX])
def test_our_own_variable_says_where_rank_0_is_whoever_says_the_rest(
    environ: dict[str, str],
) -> None:
    config = read_cluster({**environ, "POSEIDON_COORDINATOR": "other:7"})
    assert config == ClusterConfig(workers=("other:7", "", ""), rank=1)


@pytest.mark.parametrize(
    "environ",
    [
        {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
        without(OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE"),
        {**MPICH, "MPI_LOCALNRANKS": "1"},
        without(MPICH, "MPI_LOCALNRANKS"),
        {**MVAPICH, "MV2_COMM_WORLD_LOCAL_SIZE": "2"},
        without(MVAPICH, "MV2_COMM_WORLD_LOCAL_SIZE"),
    ],
)
def test_mpi_on_several_hosts_needs_an_address(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="says worker rank 1 of 3, but not where rank 0 is"):
        read_cluster(environ)
    config = read_cluster({**environ, "POSEIDON_COORDINATOR": "node01:5000"})
    assert config.workers == ("node01:5000", "", "")


@pytest.mark.parametrize(
    "environ",
    [
        {"PMIX_RANK": "0"},
        {"POSEIDON_COORDINATOR": "node01:5000"},
        {"KERAS_DISTRIBUTION_JOB_ADDRESSES": "node01:5000,node02:5000"},
        {"JAX_COORDINATOR_ADDRESS": "node01:5000"},
    ],
)
def test_a_sign_of_others_that_says_no_more_is_refused(environ: dict[str, str]) -> None:
    ((name, value),) = environ.items()
    with pytest.raises(ConfigError, match=f"one of several .{name}={value}.*POSEIDON_WORLD_SIZE"):
        read_cluster(environ)


def told(environ: dict[str, str], rank: int, size: int) -> dict[str, str]:
    """The variables of a source, with another rank and size."""
    first, second, *_ = environ
    return {**environ, first: str(rank), second: str(size)}


def slurm(rank: int, size: int) -> dict[str, str]:
    return {**SLURM, "SLURM_PROCID": str(rank), "SLURM_NTASKS": str(size)}


@pytest.mark.parametrize(
    "environ",
    [
        SLURM | OPEN_MPI,
        SLURM | without(MPICH, "MPI_LOCALNRANKS"),
        SLURM | MVAPICH,
        SLURM | TORCH,
        SLURM | POSEIDON,
        SAGEMAKER | OPEN_MPI,
        SAGEMAKER | POSEIDON,
        POSEIDON | KERAS | JAX | TORCH | OPEN_MPI | SLURM,
        TRAINER | TORCHRUN,
        tf_config(3, 1) | POSEIDON | {"POSEIDON_COORDINATOR": "host0:1"},
        tf_config(3, 1) | SLURM,
    ],
)
def test_sources_that_agree_are_fine(environ: dict[str, str]) -> None:
    config = read_cluster(environ)
    assert (config.rank, config.num_workers) == (1, 3) and config.coordinator_address


@pytest.mark.parametrize(
    "environ, first, second",
    [
        (POSEIDON | slurm(0, 3), "POSEIDON_RANK and", "Slurm step 4711.0 says worker rank 0 of 3"),
        (POSEIDON | slurm(1, 4), "POSEIDON_RANK and", "Slurm step 4711.0 says worker rank 1 of 4"),
        (told(POSEIDON, 0, 1) | SLURM, "WORLD_SIZE says worker rank 0 of 1", "rank 1 of 3"),
        (POSEIDON | told(JAX, 0, 3), "POSEIDON_RANK and", "JAX_NUM_PROCESSES says worker rank 0"),
        (KERAS | told(JAX, 2, 3), "KERAS_DIST", "JAX_NUM_PROCESSES says worker rank 2 of 3"),
        (told(JAX, 0, 3) | TORCH, "JAX_NUM_PROCESSES says worker rank 0", "WORLD_SIZE says"),
        (told(TORCH, 0, 3) | SLURM, "RANK and WORLD_SIZE says worker rank 0 of 3", "rank 1 of 3"),
        (told(TORCHRUN, 0, 1) | SLURM, r"torchrun .* says worker rank 0 of 1", "rank 1 of 3"),
        (told(TORCHRUN, 0, 2) | SLURM, r"torchrun .* says worker rank 0 of 2", "rank 1 of 3"),
        (told(OPEN_MPI, 0, 2) | SLURM, r"Open MPI .* says worker rank 0 of 2", "rank 1 of 3"),
        (told(MVAPICH, 0, 2) | SLURM, r"MVAPICH .* says worker rank 0 of 2", "rank 1 of 3"),
        (OPEN_MPI | told(MVAPICH, 0, 3), r"Open MPI .* rank 1 of 3", "MVAPICH .* rank 0 of 3"),
        (told(TRAINER, 0, 3) | SLURM, r"Kubeflow Trainer .* says worker rank 0", "rank 1 of 3"),
        (without(told(MPICH, 0, 3), "MPI_LOCALNRANKS") | SLURM, "Slurm", "MPI .* rank 0 of 3"),
        (tf_config(3, 0) | POSEIDON, "TF_CONFIG says worker rank 0 of 3", "POSEIDON_WORLD_SIZE"),
        (tf_config(1) | SLURM, "TF_CONFIG says worker rank 0 of 1", "Slurm step .* rank 1 of 3"),
        (tf_config(1) | TORCHRUN, "TF_CONFIG says worker rank 0 of 1", "torchrun .* rank 1 of 3"),
        (tf_config(1) | OPEN_MPI, "TF_CONFIG says worker rank 0 of 1", "Open MPI .* rank 1 of 3"),
        (tf_config(1) | SAGEMAKER, "TF_CONFIG says worker rank 0 of 1", "SageMaker .* rank 1 of 3"),
        (told(POSEIDON, 0, 3) | SAGEMAKER, "POSEIDON_RANK and", "SageMaker .* rank 1 of 3"),
        (told(OPEN_MPI, 0, 2) | SAGEMAKER, r"Open MPI .* rank 0 of 2", "SageMaker .* rank 1 of 3"),
        (told(TORCHRUN, 0, 2) | SAGEMAKER, r"torchrun .* rank 0 of 2", "SageMaker .* rank 1 of 3"),
        (slurm(0, 3) | SAGEMAKER, "Slurm step .* rank 0 of 3", "SageMaker .* rank 1 of 3"),
    ],
)
def test_sources_that_contradict_each_other_are_both_named(
    environ: dict[str, str], first: str, second: str
) -> None:
    with pytest.raises(ConfigError, match=f"{first}.*, but .*{second}.*unset the one .*alone=True"):
        read_cluster(environ)


@pytest.mark.parametrize(
    "environ, rank, size",
    [
        (told(TORCHRUN, 5, 8) | SLURM, 5, 8),  # Four of torchrun's in each of two tasks or so.
        (told(TORCHRUN, 0, 3) | SLURM, 0, 3),  # One in each: the agents number themselves.
        (told(TORCH, 5, 8) | SLURM, 5, 8),
        (told(TORCHRUN, 5, 8) | OPEN_MPI | slurm(1, 2), 5, 8),
        ({**told(OPEN_MPI, 5, 8), "OMPI_COMM_WORLD_LOCAL_SIZE": "8"} | SLURM, 5, 8),
        ({**told(MPICH, 5, 8), "MPI_LOCALNRANKS": "8"} | SLURM, 5, 8),
        (told(TORCHRUN, 5, 8) | {**TRAINER, "PET_NNODES": "1:4"}, 5, 8),
        ({**told(OPEN_MPI, 2, 4), "OMPI_COMM_WORLD_LOCAL_SIZE": "4"} | SAGEMAKER, 2, 4),
    ],
)
def test_the_innermost_launcher_counts(environ: dict[str, str], rank: int, size: int) -> None:
    """A launcher that each task of another one has started; its job reaches all of them."""
    config = read_cluster(environ)
    assert (config.rank, config.num_workers) == (rank, size)
    assert "Slurm" not in config.source


@pytest.mark.parametrize(
    "environ", [tf_config(2) | SLURM, tf_config(2, ps=["s:1"]) | slurm(2, 3) | OPEN_MPI]
)
def test_tf_config_of_several_counts_whatever_launchers_say(environ: dict[str, str]) -> None:
    """Its roles may have other numbers than their tasks; a user has set it on purpose."""
    assert read_cluster(environ).workers == ("host0:1", "host1:1")


def test_an_evaluator_is_alone_beside_others() -> None:
    assert read_cluster(tf_config(2, job="evaluator") | SLURM).role == "evaluator"


def test_a_task_of_its_own_says_nothing_of_others() -> None:
    """One step of Slurm may start one task of a cluster."""
    config = read_cluster(POSEIDON | slurm(0, 1))
    assert (config.rank, config.num_workers) == (1, 3)


def test_two_addresses_of_rank_0_are_refused() -> None:
    with pytest.raises(ConfigError, match="TF_CONFIG lists rank 0 at host0:1, .* is other:7"):
        read_cluster({**tf_config(2), "POSEIDON_COORDINATOR": "other:7"})


class Resolver:
    """As `tf.distribute.cluster_resolver` has it, without TensorFlow."""

    def __init__(self, cluster: dict[str, Any], task_type: Any, task_id: Any) -> None:
        self._cluster, self.task_type, self.task_id = cluster, task_type, task_id

    def cluster_spec(self) -> Resolver:
        return self

    def as_dict(self) -> dict[str, Any]:
        if not isinstance(self._cluster, dict):
            raise RuntimeError("nvidia-smi is not there")
        return self._cluster


def test_a_resolver_comes_before_the_environment() -> None:
    cluster = {"chief": ["c:1"], "worker": ["a:1"], "ps": ["s:1"]}
    config = read_cluster(SLURM, resolver=Resolver(cluster, "worker", 0))
    assert config == ClusterConfig(workers=("c:1", "a:1"), servers=("s:1",), rank=1)
    assert config.source == "Resolver"
    assert read_cluster({}, resolver=Resolver(cluster, "ps", 0)).role == "server"


def test_a_resolver_that_knows_no_cluster_leaves_it_to_the_environment() -> None:
    assert read_cluster(SLURM, resolver=Resolver({}, None, None)).num_workers == 3
    assert read_cluster({}, resolver=Resolver({}, None, None)).is_single


@pytest.mark.parametrize(
    "resolver, environ, says",
    [
        (Resolver({"worker": ["a:1"]}, None, None), {}, "Resolver's task 'type' must be one of"),
        (Resolver({"worker": ["a"]}, "worker", 0), {}, "Resolver, worker 0: .*'host:port'"),
        (
            Resolver(None, "worker", 0),  # type: ignore[arg-type]
            {},
            r"Resolver.cluster_spec\(\) raises RuntimeError: nvidia-smi is not there",
        ),
        (
            Resolver({"worker": ["a:1", "b:1"]}, "worker", 0),
            tf_config(2, 1),
            "Resolver says worker rank 0 of 2, but TF_CONFIG says worker rank 1 of 2",
        ),
        (
            Resolver({"worker": ["a:1"]}, "worker", 0),
            SLURM,
            "Resolver says worker rank 0 of 1, but",
        ),
    ],
)
def test_a_resolver_that_says_something_wrong_is_named(
    resolver: Resolver, environ: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        read_cluster(environ, resolver=resolver)
