"""Every public member of a strategy gives what MultiWorkerMirroredStrategy's gives, or says no.

What differs is in docs/compatibility.md, under the member's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import Job

pytestmark = pytest.mark.processes

WORKS = {
    "colocate_vars_with",
    "configure",
    "distribute_datasets_from_function",
    "experimental_distribute_dataset",
    "experimental_distribute_datasets_from_function",
    "experimental_distribute_values_from_function",
    "experimental_local_results",
    "experimental_run",
    "extended",
    "gather",
    "group",
    "num_replicas_in_sync",
    "reduce",
    "run",
    "scope",
    "unwrap",
    "extended.batch_reduce_to",
    "extended.colocate_vars_with",
    "extended.experimental_require_static_shapes",
    "extended.reduce_to",
    "extended.update",
    "extended.value_container",
    "extended.variable_created_in_scope",
}
DIFFERS = {"extended.parameter_devices", "extended.worker_devices", "update_config_proto"}
REFUSED = {
    name: f"strategy.{name} of TensorFlow 1 shares no data among workers; call "
    for name in ("make_dataset_iterator", "make_input_fn_iterator")
}
ADDED = {
    "barrier",
    "check_drift",
    "num_workers",
    "plan",
    "rank",
    "shutdown",
    "statistics",
    "stop_requested",
}
ELSEWHERE = {"cluster_resolver"}  # It has tests of its own.
DOCUMENTED = Path(__file__).parents[2] / "docs" / "compatibility.md"
Findings = list[dict[str, Any]]


def found_by(way: str, **options: Any) -> Findings:
    with Job("members.py", way, **options) as job:
        return job.results()


@pytest.fixture(scope="module")
def workers() -> Findings:
    return found_by("poseidon")


@pytest.fixture(scope="module")
def reference() -> Findings:
    """What two workers of TensorFlow's own strategy find."""
    return found_by("multiworker", num_servers=0)


def test_every_public_member_is_in_one_of_the_lists(workers: Findings) -> None:
    """So that a new version's new member is noticed."""
    listed = [*WORKS, *DIFFERS, *REFUSED, *ELSEWHERE]
    assert sorted(workers[0]["public"]) == sorted(listed)


def test_it_adds_what_users_need_and_nothing_else(workers: Findings) -> None:
    """Neither the class nor an object of it, nor its `extended`: all else is private."""
    for worker in workers:
        assert worker["added"] == {"class": sorted(ADDED), "object": sorted(ADDED), "extended": []}


@pytest.mark.parametrize("name", sorted(WORKS))
def test_it_gives_what_tensorflows_gives(workers: Findings, reference: Findings, name: str) -> None:
    """On each worker, a value and no error."""
    for mine, theirs in zip(workers, reference, strict=True):
        assert mine["found"][name] == theirs["found"][name]
        assert "gives" in mine["found"][name]


@pytest.mark.parametrize("name", sorted(DIFFERS))
def test_what_differs_is_documented(workers: Findings, reference: Findings, name: str) -> None:
    """It gives something, and the documents say that it is not the same."""
    assert any(
        "**differs**" in line and f"`{name}`" in line
        for line in DOCUMENTED.read_text().splitlines()
    )
    for mine, theirs in zip(workers, reference, strict=True):
        assert "gives" in mine["found"][name]
        assert mine["found"][name] != theirs["found"][name]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused_says_what_to_call(workers: Findings, name: str) -> None:
    for mine in workers:
        error = mine["found"][name]
        assert error["raises"] == "ConfigError"
        assert error["text"].startswith(REFUSED[name])
