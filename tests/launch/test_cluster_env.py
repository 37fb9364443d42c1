"""TF_CONFIG becomes ranks and addresses, or an error that says what to mend."""

import json
from typing import Any

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.cluster_env import read_cluster


def environ(cluster: Any, task: Any, **more: Any) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task, **more})}


def task(job: str, index: Any = 0) -> dict[str, Any]:
    return {"type": job, "index": index}


WORKERS = ["a:1", "b:1"]


@pytest.mark.parametrize(
    "cluster, job, index, rank, address",
    [
        ({"worker": WORKERS}, "worker", 0, 0, "a:1"),
        ({"worker": WORKERS}, "worker", 1, 1, "b:1"),
        ({"chief": ["c:1"], "worker": WORKERS}, "chief", 0, 0, "c:1"),
        ({"chief": ["c:1"], "worker": WORKERS}, "worker", 0, 1, "a:1"),
        ({"worker": WORKERS, "chief": ["c:1"]}, "worker", 1, 2, "b:1"),
        ({"master": ["c:1"], "worker": WORKERS}, "master", 0, 0, "c:1"),
        ({"master": ["c:1"], "worker": WORKERS}, "worker", 1, 2, "b:1"),
    ],
)
def test_the_chief_is_rank_0_and_the_workers_follow(
    cluster: dict[str, list[str]], job: str, index: int, rank: int, address: str
) -> None:
    config = read_cluster(environ(cluster, task(job, index)))
    assert (config.role, config.rank, config.address) == ("worker", rank, address)
    assert config.coordinator_address == config.workers[0]
    assert config.num_workers == sum(map(len, cluster.values()))


def test_without_ps_every_worker_brings_a_server() -> None:
    config = read_cluster(environ({"worker": WORKERS}, task("worker")))
    assert config.co_located and not config.is_single
    assert (config.servers, config.num_servers) == ((), 2)


def test_a_ps_task_is_a_server() -> None:
    cluster = {"chief": ["c:1"], "worker": ["a:1"], "ps": ["s:1", "s:2", "s:3"]}
    config = read_cluster(environ(cluster, task("ps", 2)))
    assert (config.role, config.rank, config.address) == ("server", 2, "s:3")
    assert (config.workers, config.num_servers) == (("c:1", "a:1"), 3)
    assert not config.co_located


def test_one_worker_with_a_server_is_not_alone() -> None:
    config = read_cluster(environ({"worker": ["a:1"], "ps": ["s:1"]}, task("worker")))
    assert not config.is_single and config.num_servers == 1


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"TF_CONFIG": ""},
        {"TF_CONFIG": " \n"},
        {"TF_CONFIG": "{}"},
        {"TF_CONFIG": '{"environment": "cloud"}'},
        environ({}, {}),
        environ({"worker": ["a:1"]}, task("worker")),
        environ({"chief": ["a:1"]}, task("chief")),
        environ({"chief": ["a:1"], "worker": [], "ps": []}, task("chief")),
    ],
)
def test_a_worker_alone_has_no_server_and_no_port(variables: dict[str, str]) -> None:
    config = read_cluster(variables)
    assert config == ClusterConfig.single() and config.is_single
    assert (config.num_workers, config.num_servers, config.rank) == (1, 0, 0)
    assert (config.address, config.coordinator_address) == ("", "")


@pytest.mark.parametrize("index", [1, "1", "01"])
def test_an_index_may_be_text(index: int | str) -> None:
    """As TensorFlow's own resolver takes it."""
    assert read_cluster(environ({"worker": WORKERS}, task("worker", index))).rank == 1


def test_a_job_may_be_an_object_of_indices() -> None:
    """In whatever order: the index counts, as in TensorFlow's ClusterSpec."""
    as_object = {"worker": {"10": "k:1"} | {str(i): f"{'abcdefghij'[i]}:1" for i in range(10)}}
    as_list = {"worker": [f"{name}:1" for name in "abcdefghijk"]}
    for index in (0, 2, 10):
        config = read_cluster(environ(as_object, task("worker", index)))
        assert config == read_cluster(environ(as_list, task("worker", index)))
    assert read_cluster(environ({"worker": {"0": "a:1"}}, task("worker"))).is_single


@pytest.mark.parametrize("index", ["1", "999999999"])
def test_an_object_with_gaps_cannot_form_a_cluster(index: str) -> None:
    """Kubeflow's enableDynamicWorker tells a worker of itself and the servers alone."""
    cluster = {"worker": {index: "b:1"}, "ps": ["s:1"]}
    with pytest.raises(ConfigError, match="no address of worker 0, .*enableDynamicWorker"):
        read_cluster(environ(cluster, task("worker", int(index))))


def test_addresses_are_written_in_one_way() -> None:
    """However TF_CONFIG writes them, errors, messages and connections have one text."""
    config = read_cluster(environ({"worker": ["[0:0::1]:01", "Node:2"]}, task("worker")))
    assert config.workers == ("[::1]:1", "node:2")


@pytest.mark.parametrize("listed", [{}, {"evaluator": ["e:1"]}, {"evaluator": ["no port"]}])
def test_an_evaluator_is_alone_and_need_not_be_listed(listed: dict[str, list[str]]) -> None:
    config = read_cluster(environ({"worker": WORKERS, **listed}, task("evaluator")))
    assert config.is_single and config.role == "evaluator"


def test_what_kubeflow_adds_is_ignored() -> None:
    assert read_cluster(
        environ({"worker": WORKERS}, task("worker", 1), environment="cloud")
    ) == read_cluster(environ({"worker": WORKERS}, task("worker", 1)))


def test_without_an_argument_this_process_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", environ({"worker": WORKERS}, task("worker", 1))["TF_CONFIG"])
    assert read_cluster().rank == 1


@pytest.mark.parametrize(
    "text, says",
    [
        ("{'worker': 1}", "must be JSON, got \"{'worker': 1}\""),
        ("[1]", r"TF_CONFIG must be a JSON object .*got \[1\]"),
        ('{"cluster": {"worker": ["a:1"]}}', "'task' must be .* got nothing"),
        ('{"task": {"type": "worker", "index": 0}}', "'cluster' must be .* got nothing"),
        ('{"cluster": ["a:1"], "task": {"type": "worker", "index": 0}}', "'cluster' must be"),
        ('{"cluster": {"worker": ["a:1"]}, "task": "worker"}', "'task' must be"),
    ],
)
def test_text_that_is_no_cluster_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_cluster({"TF_CONFIG": text})


@pytest.mark.parametrize(
    "cluster, of, says",
    [
        ({"worker": WORKERS}, {"index": 0}, "'type' must be one of chief.* got None"),
        ({"worker": WORKERS}, task("boss"), "'type' must be one of chief.* got 'boss'"),
        ({"worker": WORKERS}, task(["ps"]), "'type' must be one of"),  # type: ignore[arg-type]
        ({"worker": WORKERS}, {"type": "worker"}, "'index' must be an integer, got None"),
        ({"worker": WORKERS}, task("worker", "one"), "'index' must be an integer, got 'one'"),
        ({"worker": WORKERS}, task("worker", ""), "'index' must be an integer, got ''"),
        ({"worker": WORKERS}, task("worker", "1.0"), "'index' must be an integer, got '1.0'"),
        ({"worker": WORKERS}, task("worker", "2"), "worker 2, but .* lists 2 worker"),
        ({"worker": WORKERS}, task("worker", "-1"), "worker -1, but"),
        ({"worker": WORKERS}, task("worker", "1" * 5000), "'index' must be an integer"),
        ({"worker": WORKERS}, task("worker", 1.0), "'index' must be an integer, got 1.0"),
        ({"worker": WORKERS}, task("worker", True), "'index' must be an integer, got True"),
        ({"worker": WORKERS}, task("worker", 2), "worker 2, but .* lists 2 worker"),
        ({"worker": WORKERS}, task("worker", -1), "worker -1, but"),
        ({"worker": WORKERS}, task("evaluator", -1), "evaluator -1, but"),
        ({"worker": WORKERS}, task("chief"), "chief 0, but .* lists 0 chief"),
        ({"worker": WORKERS}, task("ps"), "ps 0, but .* lists 0 ps"),
        ({"chief": ["c:1", "c:2"], "worker": ["a:1"]}, task("worker"), "one chief .* got 2"),
        ({"chief": ["c:1"], "master": ["c:2"]}, task("chief"), "one chief .* got 2: c:1, c:2"),
        ({"ps": ["s:1"]}, task("ps"), "at least one 'worker' or 'chief'.*cannot train"),
        ({"workers": WORKERS}, task("worker"), "unknown job 'workers'; known are chief"),
        ({"worker": "a:1"}, task("worker"), "'worker' a list .* got 'a:1'"),
        ({"worker": {"0": "a:1", "zero": "b:1"}}, task("worker"), "each index once .* got 'zero'"),
        ({"worker": {"0": "a:1", "00": "b:1"}}, task("worker"), "each index once .* got '00'"),
        ({"worker": {"-1": "a:1"}}, task("worker"), "each index once .* got '-1'"),
        ({"worker": {"0": "a:1", "1": 7}}, task("worker"), "worker 1: an address is a string"),
        ({"worker": {"0": "a:1", "1": "a:1"}}, task("worker"), "worker 0 and worker 1 the same"),
        ({"worker": ["[::1]:1", "[0:0::1]:1"]}, task("worker"), "worker 0 and worker 1 the same"),
        ({"worker": ["a:1", 7]}, task("worker"), "worker 1: an address is a string, got 7"),
        ({"worker": ["a:1", "b"]}, task("worker"), "worker 1: .*'host:port', got 'b'"),
        ({"worker": ["a:1", "a:1"]}, task("worker"), "worker 0 and worker 1 the same .* a:1"),
        ({"worker": ["a:1"], "ps": ["A:01"]}, task("worker"), "worker 0 and ps 0 the same"),
        ({"worker": ["a:1"], "ps": ["s:1", "s:1"]}, task("worker"), "ps 0 and ps 1 the same"),
    ],
)
def test_a_wrong_cluster_is_refused_in_words(
    cluster: dict[str, Any], of: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        read_cluster(environ(cluster, of))


def test_a_rank_outside_its_cluster_cannot_be_built() -> None:
    with pytest.raises(ConfigError, match="rank=2"):
        ClusterConfig(workers=("a:1", "b:1"), rank=2)
    with pytest.raises(ConfigError, match="rank=0"):
        ClusterConfig(workers=("a:1",), role="server")
