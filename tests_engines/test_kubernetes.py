"""Manifests, which no cluster runs here: they are YAML and hold what the strategy reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from poseidon_tf.launch.cluster_env import read_cluster
from tests_engines.engine import ROOT

FOLDER = ROOT / "examples" / "clusters" / "kubernetes"


def documents(name: str) -> dict[str, Any]:
    """Of a manifest, by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((FOLDER / name).read_text())}


def test_each_pod_of_the_indexed_job_is_one_of_its_workers() -> None:
    found = documents("indexed-job.yaml")
    job, service = found["Job"], found["Service"]
    pod = job["spec"]["template"]["spec"]
    environ = {each["name"]: each for each in pod["containers"][0]["env"]}
    index = environ["POSEIDON_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    values = {name: each["value"] for name, each in environ.items() if "value" in each}
    configs = [read_cluster({**values, "POSEIDON_RANK": str(rank)}) for rank in range(2)]
    assert [config.rank for config in configs] == [0, 1]
    spec = job["spec"]
    assert spec["completions"] == spec["parallelism"] == configs[0].num_workers
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    first = f"{job['metadata']['name']}-0.{pod['subdomain']}:5000"
    assert {config.coordinator_address for config in configs} == {first}


def test_the_tfjob_has_workers_and_servers_that_run_one_script() -> None:
    replicas = documents("tfjob.yaml")["TFJob"]["spec"]["tfReplicaSpecs"]
    assert set(replicas) == {"Worker", "PS"}
    for each in replicas.values():
        (container,) = each["template"]["spec"]["containers"]
        assert container["name"] == "tensorflow" and container["command"] == ["python", "train.py"]


def test_the_trainjob_has_one_process_per_node() -> None:
    trainer = documents("trainjob.yaml")["TrainJob"]["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 1)


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: Path(str(path)).name)
def test_a_manifest_says_that_it_has_not_been_run(path: Path) -> None:
    assert "# Not run" in path.read_text()
