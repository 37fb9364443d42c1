"""Manifests, which no cluster runs here: they hold what the strategy reads.

What their makers publish reads them in an environment of its own, `.venv-kubernetes`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from poseidon_tf.launch.cluster_env import read_cluster
from tests_engines.engine import ROOT, SCRIPTS

FOLDER = ROOT / "examples" / "clusters" / "kubernetes"
PYTHON = ROOT / ".venv-kubernetes" / "bin" / "python"


def documents(name: str) -> dict[str, Any]:
    """Of a manifest, by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((FOLDER / name).read_text())}


def check_workers_of(job: dict[str, Any], first: str) -> None:
    """Each pod of an indexed Job is one of its workers; `first` is the address of the first."""
    pod = job["template"]["spec"]
    environ = {each["name"]: each for each in pod["containers"][0]["env"]}
    index = environ["POSEIDON_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    values = {name: each["value"] for name, each in environ.items() if "value" in each}
    configs = [read_cluster({**values, "POSEIDON_RANK": str(rank)}) for rank in range(2)]
    assert [config.rank for config in configs] == [0, 1]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == configs[0].num_workers
    assert {config.coordinator_address for config in configs} == {first}


def test_each_pod_of_the_indexed_job_is_one_of_its_workers() -> None:
    found = documents("indexed-job.yaml")
    job, service = found["Job"], found["Service"]
    name, subdomain = job["metadata"]["name"], job["spec"]["template"]["spec"]["subdomain"]
    check_workers_of(job["spec"], f"{name}-0.{subdomain}:5000")
    assert subdomain == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}


def test_each_pod_of_the_jobset_is_one_of_its_workers() -> None:
    job_set = documents("jobset.yaml")["JobSet"]
    (job,) = job_set["spec"]["replicatedJobs"]
    name, network = job_set["metadata"]["name"], job_set["spec"]["network"]
    first = f"{name}-{job['name']}-0-0.{network['subdomain']}:5000"
    check_workers_of(job["template"]["spec"], first)
    assert job["replicas"] == 1 and network["enableDNSHostnames"]


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


def read_by_their_makers(*paths: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PYTHON, SCRIPTS / "published.py", *paths],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.processes
def test_their_makers_read_the_manifests() -> None:
    """Kubernetes, JobSet and Kubeflow know every field, and miss none."""
    read = read_by_their_makers(*sorted(FOLDER.iterdir()))
    assert read.returncode == 0, read.stderr
    assert read.stdout.split() == ["Service", "Job", "JobSet", "TFJob", "TrainJob"]


@pytest.mark.processes
@pytest.mark.parametrize(
    "name, field",
    [
        ("indexed-job.yaml", "parallelism"),
        ("jobset.yaml", "enableDNSHostnames"),
        ("tfjob.yaml", "cleanPodPolicy"),
        ("trainjob.yaml", "numProcPerNode"),
    ],
)
def test_a_field_that_their_makers_do_not_know_is_found(
    tmp_path: Path, name: str, field: str
) -> None:
    wrong = tmp_path / name
    wrong.write_text((FOLDER / name).read_text().replace(field, f"{field}s"))
    read = read_by_their_makers(wrong)
    assert read.returncode == 1 and f"{field}s" in read.stderr, read.stderr
