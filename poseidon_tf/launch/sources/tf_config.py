"""Clusters that list every member with its role: `TF_CONFIG`, and a `cluster_resolver`."""

from __future__ import annotations

import json
from typing import Any

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.sources.told import Level, Process, Told
from poseidon_tf.transport.address import Address

_CHIEF_JOBS = ("chief", "master")
_JOBS = (*_CHIEF_JOBS, "worker", "ps", "evaluator")
_EXAMPLE = (
    'TF_CONFIG looks like {"cluster": {"worker": ["host0:5000", "host1:5000"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


def tf_config(process: Process) -> Told | None:
    """The cluster that `TF_CONFIG` describes."""
    text = process.text("TF_CONFIG")
    if not text:
        return None
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"TF_CONFIG must be JSON, got {text!r} ({error}). {_EXAMPLE}") from error
    config = _object(parsed, "TF_CONFIG")
    if not config.get("cluster") and not config.get("task"):
        return None  # "{}", as TensorFlow itself reads it.
    return _told("TF_CONFIG", config.get("cluster"), config.get("task"))


def cluster_resolver(process: Process) -> Told | None:
    """What one of `tf.distribute.cluster_resolver` says, if it knows of any cluster."""
    resolver = process.resolver
    if resolver is None:
        return None
    name = type(resolver).__name__
    try:
        cluster = resolver.cluster_spec().as_dict()
    except Exception as error:  # Whatever it asks of its scheduler or cloud.
        raise ConfigError(
            f"cluster_resolver: {name}.cluster_spec() raises {type(error).__name__}: {error}; "
            "leave cluster_resolver out if the environment describes the cluster, or give a "
            "tf.distribute.cluster_resolver.SimpleClusterResolver with every member's address"
        ) from error
    if not cluster:
        return None
    # It may know its task only once it has been asked for the cluster.
    task = {"type": resolver.task_type, "index": resolver.task_id}
    return _told(name, cluster, task)


def _told(source: str, cluster: Any, task: Any) -> Told:
    return Told(config=_read(source, cluster, task), level=Level.LISTED)


def _read(source: str, told_cluster: Any, told_task: Any) -> ClusterConfig:
    """This task's config.

    The chief is rank 0 and worker i is then rank i + 1; without a chief worker i is rank i.
    An evaluator, and the only worker of a cluster without ``ps``, gets a single cluster.
    """
    cluster = _object(told_cluster, f"{source}'s 'cluster'")
    task = _object(told_task, f"{source}'s 'task'")
    jobs = _addresses_by_job(source, cluster)
    chiefs = jobs["chief"] + jobs["master"]
    workers, servers = chiefs + jobs["worker"], jobs["ps"]
    if len(chiefs) > 1:
        raise ConfigError(
            f"{source} may list one chief (or master), got {len(chiefs)}: {', '.join(chiefs)}; "
            "move the others to 'worker'"
        )
    if not workers:
        raise ConfigError(
            f"{source}'s 'cluster' needs at least one 'worker' or 'chief', got {cluster!r}; "
            "servers alone cannot train"
        )

    job, index = _task_of(source, task, jobs)
    if job == "evaluator":
        return ClusterConfig.single("evaluator", source=source)
    if job == "ps":
        return ClusterConfig(
            workers=workers, servers=servers, role="server", rank=index, source=source
        )
    if len(workers) == 1 and not servers:
        return ClusterConfig.single(source=source)
    rank = index + len(chiefs) if job == "worker" else 0
    return ClusterConfig(workers=workers, servers=servers, rank=rank, source=source)


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict) or (not value and name != "TF_CONFIG"):
        got = "nothing" if value is None else repr(value)
        raise ConfigError(f"{name} must be a JSON object that is not empty, got {got}. {_EXAMPLE}")
    return value


def _addresses_by_job(source: str, cluster: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Every job's addresses, checked; an evaluator's are taken unread, as nobody calls it."""
    jobs: dict[str, tuple[str, ...]] = dict.fromkeys(_JOBS, ())
    owners: dict[Address, str] = {}
    for job, tasks in cluster.items():
        if job not in jobs:
            raise ConfigError(
                f"{source}'s 'cluster' has the unknown job {job!r}; known are {', '.join(_JOBS)}"
            )
        if job == "evaluator":
            continue
        addresses = []
        for index, text in enumerate(_tasks(source, job, tasks)):
            owner = f"{job} {index}"
            if not isinstance(text, str):
                raise ConfigError(f"{source}, {owner}: an address is a string, got {text!r}")
            try:
                address = Address.parse(text)
            except ConfigError as error:
                raise ConfigError(f"{source}, {owner}: {error}") from error
            other = owners.setdefault(address, owner)
            if other != owner:
                raise ConfigError(
                    f"{source} gives {other} and {owner} the same address {address}; "
                    "every task needs its own port"
                )
            addresses.append(str(address))
        jobs[job] = tuple(addresses)
    return jobs


def _tasks(source: str, job: str, tasks: Any) -> list[Any]:
    """A job's addresses by index: from a list, or from an object whose keys are the indices."""
    if isinstance(tasks, list):
        return tasks
    if not isinstance(tasks, dict):
        raise ConfigError(
            f"{source} must give {job!r} a list of 'host:port' addresses, or an object "
            f'{{"0": "host:port", ...}}, got {tasks!r}'
        )
    by_index: dict[int, Any] = {}
    for key, address in tasks.items():
        index = _index(key)
        if index is None or index < 0 or index in by_index:
            raise ConfigError(
                f"{source}'s {job!r} must have each index once as a key, counted from 0, got "
                f"{key!r} in {tasks!r}"
            )
        by_index[index] = address
    for index in range(len(by_index)):
        if index not in by_index:
            raise ConfigError(
                f"{source}'s {job!r} has no address of {job} {index}, got {tasks!r}; every member "
                "must know all others, so give all of them, as a list or as an object without gaps "
                "(Kubeflow: leave enableDynamicWorker off)"
            )
    return [by_index[index] for index in range(len(by_index))]


def _index(value: Any) -> int | None:
    """An index, which TensorFlow takes as text too; None if it is none."""
    # The length keeps int() away from a string of thousands of digits.
    if isinstance(value, str) and value.isascii() and len(value) <= 9:
        is_number = value.removeprefix("-").isdigit()
        return int(value) if is_number else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _task_of(
    source: str, task: dict[str, Any], jobs: dict[str, tuple[str, ...]]
) -> tuple[str, int]:
    """The task's job and its index in that job's list."""
    job, index = task.get("type"), _index(task.get("index"))
    if not isinstance(job, str) or job not in jobs:
        raise ConfigError(f"{source}'s task 'type' must be one of {', '.join(_JOBS)}, got {job!r}")
    if index is None:
        raise ConfigError(f"{source}'s task 'index' must be an integer, got {task.get('index')!r}")
    # An evaluator need not be listed in the cluster: nobody waits for it.
    limit = len(jobs[job]) if job != "evaluator" else index + 1
    if not 0 <= index < limit:
        raise ConfigError(
            f"{source}'s task is {job} {index}, but its 'cluster' lists {limit} {job} "
            f"address(es), counted from 0; add this task's address or mend its index"
        )
    return job, index
