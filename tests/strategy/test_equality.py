"""Workers together train the net that one process trains on the joined batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

THOROUGH = pytest.mark.thorough
NUM_WORKERS = [2, pytest.param(3, marks=THOROUGH)]
NETS = ["dense", "conv", "lstm", "shared"]
BOTH = "momentum,adam"
# By way and number of workers. Wherever the planner mixes both ways, three workers go through both
# at once, and each optimizer gets sums that have come by either.
OPTIMIZERS = {
    ("auto", 2): BOTH,
    ("ps", 2): "momentum",
    ("sfb", 2): "momentum",
    ("auto", 3): "momentum",
    ("ps", 3): BOTH,
    ("sfb", 3): BOTH,
}
JOBS = [
    *((*job, OPTIMIZERS[job]) for job in (("auto", 2), ("ps", 2), ("sfb", 2), ("auto", 3))),
    *(pytest.param(way, 3, BOTH, marks=THOROUGH) for way in ("ps", "sfb")),
    *(
        pytest.param(*job, "adam", marks=THOROUGH)
        for job, optimizers in OPTIMIZERS.items()
        if optimizers == "momentum"
    ),
]
PLAIN_KERNELS = {
    "dense/dense_plain_1/kernel",
    "dense/dense_plain_2/kernel",
    "dense/dense_plain_out/kernel",
    "conv/conv_plain_1/kernel",
    "conv/conv_plain_out/kernel",
    "lstm/lstm_plain_1/kernel",
    "lstm/lstm_plain_out/kernel",
    "shared_plain_1/kernel",
    "shared_plain_out/kernel",
}
# Kernels that have no single product, and the operation that the reason names.
OTHER_KERNELS = {
    "conv/conv_1/kernel": "Conv2DBackpropFilter",
    "conv/conv_2/kernel": "Conv2DBackpropFilter",
    "lstm/recurrent/lstm_cell/kernel": "While",
    "lstm/recurrent/lstm_cell/recurrent_kernel": "While",
    "shared_twice/kernel": "AddN",
}

Findings = list[dict[str, Any]]


def cases(optimizers: str) -> list[str]:
    return sorted(f"{net} {optimizer}" for net in NETS for optimizer in optimizers.split(","))


def run_job(
    folder: Path, way: str, num_workers: int, optimizers: str, nets: Sequence[str] = NETS
) -> Findings:
    arguments = ("equality.py", str(folder), way, ",".join(nets), optimizers)
    with Job(*arguments, num_workers=num_workers) as job:
        return job.results(timeout_s=240)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The weights that one process ends with, without any strategy."""
    folder = tmp_path_factory.mktemp("alone")
    run_alone("equality.py", str(folder), "plain")
    return dict(np.load(folder / "plain-0.npz"))


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., tuple[Path, Findings]]:
    """The folder with the weights and the findings of a job, which runs once."""
    done: dict[tuple[str, int, str], tuple[Path, Findings]] = {}

    def get(way: str, num_workers: int, optimizers: str = "") -> tuple[Path, Findings]:
        job = way, num_workers, optimizers or OPTIMIZERS[way, num_workers]
        if job not in done:
            folder = tmp_path_factory.mktemp("-".join(map(str, job)))
            done[job] = folder, run_job(folder, *job)
        return done[job]

    return get


@pytest.mark.parametrize("way, num_workers, optimizers", JOBS)
def test_weights_are_those_of_one_process_on_the_joined_batch(
    trained: Any, alone: dict[str, np.ndarray], way: str, num_workers: int, optimizers: str
) -> None:
    """Five steps give the reference's weights for every net and optimizer."""
    folder, _ = trained(way, num_workers, optimizers)
    together = np.load(folder / f"{way}-0.npz")
    wanted = {
        name: weight
        for name, weight in alone.items()
        if name.rsplit(" ", 1)[0] in cases(optimizers)
    }
    assert sorted(together.files) == sorted(wanted)
    assert sorted({name.rsplit(" ", 1)[0] for name in wanted}) == cases(optimizers)
    for name, expected in wanted.items():
        np.testing.assert_allclose(together[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("way, num_workers, optimizers", JOBS)
def test_weights_are_equal_bit_for_bit_on_all_workers(
    trained: Any, way: str, num_workers: int, optimizers: str
) -> None:
    """Every worker reports the same digest for every net and optimizer."""
    _, found = trained(way, num_workers, optimizers)
    assert len(found) == num_workers
    assert sorted(found[0]["digests"]) == cases(optimizers)
    assert all(worker["digests"] == found[0]["digests"] for worker in found)


@pytest.mark.parametrize("way, num_workers, optimizers", JOBS)
def test_all_workers_have_the_same_plan(
    trained: Any, way: str, num_workers: int, optimizers: str
) -> None:
    """Names, schemes and reasons are equal."""
    _, found = trained(way, num_workers, optimizers)
    assert found[0]["plan"]
    assert all(worker["plan"] == found[0]["plan"] for worker in found)


def test_two_runs_of_a_job_give_the_same_bits(trained: Any, tmp_path: Path) -> None:
    """A job with servers and factors, repeated, ends with the same digests. Gradients of three
    workers may arrive in any order; with two of them it could not be seen in a sum."""
    _, first = trained("auto", 3)
    for worker in run_job(tmp_path, "auto", 3, OPTIMIZERS["auto", 3], ["dense", "conv"]):
        assert sorted(worker["digests"]) == ["conv momentum", "dense momentum"]
        assert worker["digests"].items() <= first[0]["digests"].items()


@pytest.mark.thorough
def test_servers_beside_the_workers_change_no_bit(tmp_path: Path) -> None:
    """Servers that share their workers' memory give the weights of dedicated ones, which are those
    of one process, for gradients of many KV pairs."""
    run_alone("equality.py", str(tmp_path), "plain", "wide")
    digests = []
    for num_servers in (2, 0):
        arguments = ("equality.py", str(tmp_path), "ps", "wide")
        with Job(*arguments, num_workers=3, num_servers=num_servers) as job:
            digests += [found["digests"] for found in job.results(timeout_s=240)]
    assert len(digests) == 6 and all(each == digests[0] for each in digests)
    alone, together = np.load(tmp_path / "plain-0.npz"), np.load(tmp_path / "ps-0.npz")
    assert sorted(together.files) == sorted(alone.files)
    for name, expected in alone.items():
        np.testing.assert_allclose(together[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["ps", "sfb"])
def test_two_replicas_on_each_worker_give_the_same_weights(
    tmp_path: Path, alone: dict[str, np.ndarray], way: str
) -> None:
    """Their gradients are summed, and their factors joined, before anything is sent."""
    with Job("equality.py", str(tmp_path), way, environ={"LOCAL_REPLICAS": "2"}) as job:
        first, second = job.results(timeout_s=240)
    assert first["digests"] == second["digests"]
    together = np.load(tmp_path / f"{way}-0.npz")
    for name, expected in alone.items():
        np.testing.assert_allclose(together[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.thorough
@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("way", ["auto", "ps", "sfb"])
def test_updates_across_the_step_give_the_same_bits_after_every_epoch(
    tmp_path: Path, way: str, num_workers: int
) -> None:
    """As those in the step, on every worker, for every net and optimizer."""
    found = {}
    for updates in ("across", "in"):
        arguments = ("equality.py", str(tmp_path), way, ",".join(NETS), BOTH)
        environ = {"UPDATES": updates, "EPOCHS": "2"}
        with Job(*arguments, num_workers=num_workers, environ=environ) as job:
            found[updates] = job.results(timeout_s=300)
    expected = found["in"][0]["epochs"]
    assert sorted(expected) == cases(BOTH)
    assert all(len(set(digests)) == 2 for digests in expected.values())
    for worker in (*found["across"], *found["in"]):
        assert worker["epochs"] == expected
    # Of each two epochs of five steps all but the last.
    assert {worker["deferred"] for worker in found["across"]} == {2 * 4 * len(expected)}
    assert {worker["deferred"] for worker in found["in"]} == {0}


@pytest.mark.parametrize("num_workers", NUM_WORKERS)
def test_factors_travel_where_they_were_asked_for(trained: Any, num_workers: int) -> None:
    """In the SFB runs exactly the plain dense kernels, with their biases, go as factors."""
    _, found = trained("sfb", num_workers)
    as_factors = {name for name, scheme, _ in found[0]["plan"] if scheme == "sfb"}
    biases = {name.replace("/kernel", "/bias") for name in PLAIN_KERNELS}
    assert as_factors == PLAIN_KERNELS | biases


@pytest.mark.parametrize("num_workers", NUM_WORKERS)
@pytest.mark.parametrize("way", ["sfb", "auto"])
def test_kernels_without_a_single_product_go_through_the_servers(
    trained: Any, way: str, num_workers: int
) -> None:
    """Convolutions, the LSTM and the shared layer fall back to PS and the plan says why."""
    _, found = trained(way, num_workers)
    plan = {name: (scheme, reason) for name, scheme, reason in found[0]["plan"]}
    for name, operation in OTHER_KERNELS.items():
        scheme, reason = plan[name]
        assert scheme == "ps"
        assert "not a single product" in reason and operation in reason


def test_nothing_travels_as_factors_where_servers_were_asked_for(trained: Any) -> None:
    """With `"*": "ps"` every variable of every net goes through the servers."""
    _, found = trained("ps", 2)
    assert {scheme for _, scheme, _ in found[0]["plan"]} == {"ps"}


@pytest.mark.parametrize("num_workers", NUM_WORKERS)
def test_the_planner_mixes_both_ways(trained: Any, num_workers: int) -> None:
    """By the rule the wide kernels go as factors and the narrow last ones do not."""
    _, found = trained("auto", num_workers)
    plan = {name: scheme for name, scheme, _ in found[0]["plan"]}
    narrow = {name for name in PLAIN_KERNELS if "_out/" in name}
    assert {plan[name] for name in PLAIN_KERNELS - narrow} == {"sfb"}
    assert {plan[name] for name in narrow} == {"ps"}
