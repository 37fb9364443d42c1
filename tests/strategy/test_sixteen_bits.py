"""Gradients that are rounded to 16 bits before they leave: what is trained, and what travels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from poseidon_tf.planner import Plan, Scheme
from tests.support.jobs import Job, run_alone

pytestmark = pytest.mark.processes

FITS = ["momentum", "clipped", "accumulated", "scaled", "eager"]
TOGETHER = [*FITS, "changed", "taped", "skipped", "digits"]
STEPS = 4


class Trained(NamedTuple):
    """A job, and where its weights are, with those of one process."""

    folder: Path
    workers: list[dict[str, Any]]
    outputs: list[str]


def trained(folder: Path, cases: list[str], **job: Any) -> Trained:
    with Job("halves.py", str(folder), ",".join(cases), **job) as running:
        workers = running.results(timeout_s=280)
        outputs = [worker.output() for worker in running.workers]
    return Trained(folder, workers, outputs)


def one_process_too(found: Trained, cases: list[str], num_local: int = 1) -> None:
    """Let one process train the same, rounding as this job's workers do."""
    arguments = (str(found.folder), ",".join(cases), str(len(found.workers)), str(num_local))
    run_alone("halves_alone.py", *arguments, timeout_s=240)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two workers with their own servers, over lanes."""
    environ = {"POSEIDON_PROTOCOL": "grpc+tcp"}
    folder = tmp_path_factory.mktemp("together")
    found = trained(folder, TOGETHER, num_servers=0, environ=environ)
    one_process_too(found, FITS)
    return found


def weights(folder: Path, name: str) -> list[np.ndarray]:
    with np.load(folder / f"{name}.npz") as saved:
        return [saved[key] for key in saved.files]


def apart(ones: list[np.ndarray], others: list[np.ndarray]) -> float:
    """The mean distance of two models' numbers."""
    pairs = zip(ones, others, strict=True)
    return float(np.concatenate([np.abs(one - other).ravel() for one, other in pairs]).mean())


def check_weights(found: Trained, case: str) -> None:
    """They are those of one process that rounds alike, not of one that does not.

    Workers and it do not compute each gradient with the same bits, and now and then the last of
    them decides which way a number is rounded: such numbers are few, and no further off than that.
    """
    own, alike, exact = (
        weights(found.folder, f"{case}{kind}") for kind in ("", "-rounded", "-exact")
    )
    assert apart(own, exact) > 1e-7, "nothing was rounded"
    assert apart(own, alike) < 0.02 * apart(own, exact)
    for one, other in zip(own, alike, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("case", FITS)
def test_weights_are_those_of_one_process_that_rounds_alike(job: Trained, case: str) -> None:
    """By servers, factors and rows; clipped, accumulated, under a loss scale, and eagerly."""
    check_weights(job, case)


@pytest.mark.parametrize("case", TOGETHER)
def test_workers_hold_the_same_bits(job: Trained, case: str) -> None:
    first, second = job.workers
    assert first[f"{case}-digest"] == second[f"{case}-digest"]


def test_every_scheme_took_part_in_both_types_and_in_neither(job: Trained) -> None:
    plan = Plan.from_json(job.workers[0]["momentum-plan"])
    found = {(variable.scheme, variable.sent_dtype) for variable in plan.variables}
    narrow = {(scheme, "bfloat16") for scheme in Scheme}
    assert found == narrow | {
        (scheme, dtype) for scheme in (Scheme.PS, Scheme.SFB) for dtype in ("float16", "float32")
    }


def test_the_plans_bytes_travel(job: Trained) -> None:
    """To the byte, where no two rows of a batch are one."""
    for found in job.workers:
        plan = Plan.from_json(found["momentum-plan"])
        for scheme in Scheme:
            planned = sum(v.worker_bytes for v in plan.variables if v.scheme is scheme)
            assert found["momentum-payload"][str(scheme)] == STEPS * planned > 0


def test_moving_statistics_are_not_rounded(job: Trained) -> None:
    """They are means of what the workers have, to nearly all of float32's digits."""
    own, alike = (weights(job.folder, f"momentum{kind}")[9:11] for kind in ("", "-rounded"))
    for one, other in zip(own, alike, strict=True):
        assert one.shape == (64,)
        assert np.abs(one - other).mean() < 2**-13 * np.abs(one).mean()  # Of bfloat16 it is 2^-10.


def test_a_gradient_that_goes_whole_is_rounded_too(job: Trained) -> None:
    """Rank 1's of three kernels and their biases; each then has the bytes of its type."""
    for name in ("bf_factors", "fp_factors", "exact_factors"):
        assert re.search(
            f"'halves/{name}/kernel' in this trace .* so it travels wh", job.outputs[1]
        )
    row_bytes = (48 + 64) * 2 + (64 + 64) * 2 + (48 + 96) * 4
    whole_bytes = (48 + 1) * 64 * 2 + (64 + 1) * 64 * 2 + (48 + 1) * 96 * 4
    for found in job.workers:
        assert found["changed-payload"]["sfb"] == 3 * 12 * row_bytes + whole_bytes


def test_an_overflow_under_a_loss_scale_skips_the_step_on_all(job: Trained) -> None:
    """In float16, on one worker; `check_numerics` takes it for what it is."""
    for found in job.workers:
        assert found["skipped-steps"] == STEPS - 1
        assert found["skipped-finite"]


def test_handwritten_digits_are_still_read(job: Trained) -> None:
    """Though a share of every last batch is empty, and contributes zeros."""
    assert all(found["digits-accuracy"] >= 0.95 for found in job.workers)


def test_neither_protocol_nor_memory_changes_a_bit(job: Trained, tmp_path: Path) -> None:
    """A dedicated server that is told by gRPC alone sums to the same bits."""
    found = trained(tmp_path, ["momentum"], num_servers=1, environ={"POSEIDON_PROTOCOL": "grpc"})
    digests = {worker["momentum-digest"] for worker in (*found.workers, *job.workers)}
    assert len(digests) == 1


@pytest.mark.thorough
def test_several_replicas_are_joined_in_float32(tmp_path: Path) -> None:
    """Each rounds what it contributes, and its worker what they contribute together."""
    cases = ["momentum", "eager"]
    found = trained(tmp_path, cases, num_servers=0, environ={"LOCAL_REPLICAS": "2"})
    one_process_too(found, cases, 2)
    for case in cases:
        assert found.workers[0][f"{case}-digest"] == found.workers[1][f"{case}-digest"]
        check_weights(found, case)


@pytest.mark.thorough
def test_three_workers_round_alike(tmp_path: Path) -> None:
    found = trained(tmp_path, FITS, num_workers=3, num_servers=2)
    one_process_too(found, FITS)
    for case in FITS:
        assert len({worker[f"{case}-digest"] for worker in found.workers}) == 1
        check_weights(found, case)


def test_what_overflows_in_float16_is_named(tmp_path: Path) -> None:
    """On both workers: rank 1, step and variable, where float16 ends, and what does not end."""
    with Job("halves.py", str(tmp_path), "overflowing", num_servers=0) as running:
        assert 0 not in running.wait(timeout_s=120)
        errors = [worker.results()["overflowing-error"] for worker in running.workers]
        name = re.escape(f"worker rank 1 ({running.workers[1].address})")
    for error in errors:
        assert re.search(
            rf"{name}, step 1: .*halves/fp_\w+/\w+\\?' is not finite: 0 NaN and \d+ infinite among "
            r"its \d+ numbers, the first at \(.*\); float16 ends at 65504, bfloat16 only where "
            "float32 does",
            error,
        ), error
