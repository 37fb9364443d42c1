"""Networks as people use them: two workers train them as one process does.

The large ones take minutes and run with `make test-networks`, a middle-sized one with
`make test-thorough`, a small one always.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

SMALL, MIDDLE = ["transformer"], ["MobileNetV3Small"]
LARGE = ["VGG16", "ResNet50", "EfficientNetB0", "InceptionV3"]
# Sums in another order. Networks of keras.applications are compared in float64 (the script says
# why); there, as for the transformer in float32, one process differs from itself by less than a
# tenth of this when rows come in another order.
RTOL = 1e-5
# What a gradient may be that is 0 but for rounding: of a bias before a normalization, or of the
# keys' bias, which the softmax does not see.
ATOL = {"float32": 1e-9, "float64": 1e-12}

Findings = list[dict[str, Any]]


class Trained:
    """Where the weights of each way are, and what each worker found."""

    def __init__(self, folder: Path, nets: list[str]) -> None:
        self.nets, self._folder = nets, folder
        arguments = ("networks.py", str(folder))
        with ThreadPoolExecutor() as pool:  # Two processes at a time, as in the job.
            for done in [
                pool.submit(run_alone, *arguments, "alone", ",".join(half), timeout_s=400)
                for half in (nets[::2], nets[1::2])
                if half
            ]:
                done.result()
        with Job(*arguments, "poseidon", ",".join(nets)) as job:
            self.found: Findings = job.results(timeout_s=400)

    def weights(self, way: str, net: str) -> dict[str, np.ndarray]:
        with np.load(self._folder / f"{way}-{net}.npz") as arrays:
            return dict(arrays)


@pytest.fixture(
    scope="module",
    params=[
        SMALL,
        pytest.param(MIDDLE, marks=pytest.mark.thorough),
        pytest.param(LARGE, marks=[pytest.mark.networks, pytest.mark.timeout(900)]),
    ],
    ids=["small", "middle", "large"],
)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three steps of every network of the group, by each way."""
    return Trained(tmp_path_factory.mktemp("networks"), request.param)


def assert_equal(trained: Trained, net: str, *ways: str) -> None:
    """No variable differs by more than the tolerance, relative to its largest element."""
    expected, got = (trained.weights(way, net) for way in ways)
    assert sorted(got) == sorted(expected)
    for name, value in expected.items():
        allowed = RTOL * np.max(np.abs(value)) + ATOL.get(value.dtype.name, 0)
        assert np.max(np.abs(got[name] - value)) <= allowed, f"{net}: {name}"


def test_weights_are_those_of_one_process(trained: Trained) -> None:
    """Weights, moving statistics and momentum, which is all gradients so far, after three steps."""
    for net in trained.nets:
        assert_equal(trained, net, "alone", "poseidon")


def test_every_kernel_was_trained_by_more_than_the_tolerance(trained: Trained) -> None:
    """The comparison means something: no gradient is lost in what rounding may be."""
    for net in trained.nets:
        weights = trained.weights("alone", net)
        momenta = {name: m for name, m in weights.items() if name.endswith("kernel_momentum")}
        assert momenta
        for name, momentum in momenta.items():
            assert np.max(np.abs(momentum)) > 1000 * ATOL[momentum.dtype.name], f"{net}: {name}"


def test_rounding_in_one_process_is_within_the_tolerance(trained: Trained) -> None:
    """One process with the rows of each share in reverse order passes the same comparison."""
    for net in trained.nets:
        assert_equal(trained, net, "alone", "alone-reversed")


def test_weights_are_equal_bit_for_bit_on_all_workers(trained: Trained) -> None:
    """Both workers report the same digest for every network."""
    first, second = trained.found
    assert sorted(first["digests"]) == sorted(trained.nets)
    assert second["digests"] == first["digests"]


def test_layers_travel_as_factors_where_that_is_fewer_bytes(trained: Trained) -> None:
    """The two wide layers of VGG16, with their biases, and no other layer of these networks: the
    last ones of all have four units, and a sequence of the transformer has many rows."""
    wide = (
        {"fc1/kernel", "fc1/bias", "fc2/kernel", "fc2/bias"} if "VGG16" in trained.nets else set()
    )
    for found in trained.found:
        assert {name for name, scheme in found["schemes"].items() if scheme == "sfb"} == wide
