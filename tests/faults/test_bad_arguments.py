"""Arguments that cannot work: every worker hears what is wrong, and nobody hangs."""

from typing import Any

import pytest

from poseidon_tf import ConfigError
from tests.faults.faults_jobs import everyone, outputs, thread_errors
from tests.support.jobs import Job


def errors(what: str) -> list[str]:
    """What `fit` raised on rank 0 and on rank 1, in a job that all members leave with 1."""
    with Job("bad_arguments.py", what) as job:
        assert set(job.wait(timeout_s=90.0)) == {1}, outputs(job)
        assert not thread_errors(job), outputs(job)
        return [worker.results()["error"] for worker in job.workers]


@pytest.mark.processes
def test_a_scheme_that_a_variable_cannot_have_is_refused_on_all_workers() -> None:
    """The error names the variable, the pattern that asked, and why it cannot be."""
    for error in errors("impossible"):
        expected = "PlanError: 'sequential/norm/gamma' cannot be 'sfb' as '*/norm/gamma' asks: "
        assert error.startswith(expected) and len(error) > len(expected)


@pytest.mark.processes
def test_a_pattern_without_a_variable_is_refused_on_all_workers() -> None:
    """The error lists the names that a pattern could match."""
    for error in errors("unmatched"):
        assert error.startswith("PlanError: pattern '*/fc9/kernel' matches no variable")
        for name in ("fc1/kernel", "fc1/bias", "norm/gamma", "norm/beta", "fc2/kernel", "fc2/bias"):
            assert name in error


@pytest.mark.processes
def test_other_schemes_on_one_worker_are_refused_on_all() -> None:
    """Plans that differ are not trained with; the error names the ranks and the difference."""
    for error in errors("schemes"):
        assert error.startswith("PlanError: rank 0 and rank 1 have different plans; ")
        assert "variable 0 (sequential/fc1/kernel): scheme is sfb against ps" in error


@pytest.mark.processes
def test_rounding_on_one_worker_alone_is_refused_on_all() -> None:
    """Its server would sum what was rounded and what was not; the error names both types."""
    for error in errors("wire_dtype"):
        assert error.startswith("PlanError: rank 0 and rank 1 have different plans; ")
        assert "variable 0 (sequential/fc1/kernel): wire_dtype is float32 against bfloat16" in error


@pytest.mark.processes
def test_another_dtype_on_one_worker_is_refused_on_all() -> None:
    """The error names the first variable that differs, with both dtypes."""
    for error in errors("dtype"):
        assert error.startswith("PlanError: the workers have different variables")
        assert "fc1/kernel float32 (32, 16) on rank 0" in error
        assert "fc1/kernel float64 (32, 16) on rank 1" in error


@pytest.mark.processes
def test_jit_compile_is_refused_and_the_job_can_go_on_without() -> None:
    """Only the call is refused: the same job trains a model that is compiled as it should be."""
    with Job("bad_arguments.py", "jit") as job:
        for results in job.results():
            assert results["error"].startswith("ConfigError: jit_compile=True")
            assert "jit_compile=False" in results["error"]
            assert results["steps"] == 2
        assert not any(thread_errors(job)), [member.output() for member in everyone(job)]


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"schemes": {"*": "sbf"}}, r"schemes\['\*'\] must be 'ps', 'sfb' or 'rows', got 'sbf'"),
        (
            {"wire_dtype": "float8"},
            "wire_dtype must be 'bfloat16', 'float16' or 'float32', got 'float8'",
        ),
        ({"clip": "none"}, "clip must be 'sum' or 'local', got 'none'"),
        ({"write_on": "none"}, "write_on must be 'chief' or 'all', got 'none'"),
        ({"show_plan": "no"}, "show_plan must be 'print', 'log' or 'none', got 'no'"),
        ({"rows_per_step": 0}, "rows_per_step must be 1 or more, got 0"),
        ({"rows_per_step": -8}, "rows_per_step must be 1 or more, got -8"),
        ({"ports": (5, 1)}, r"ports must be \(first, last\) within 1..65535, got \(5, 1\)"),
        ({"ports": (0, 9)}, r"got \(0, 9\)"),
        ({"ports": (60000, 70000)}, r"got \(60000, 70000\)"),
        ({"kv_pair_bytes": 1000}, "kv_pair_bytes must be from 4096 to 67108864, got 1000"),
        ({"kv_pair_bytes": 2**27}, "kv_pair_bytes must be from 4096 to 67108864, got 134217728"),
        ({"coalesce_bytes": -1}, "coalesce_bytes must be from 0 to 67108864, got -1"),
        ({"coalesce_bytes": 2**27}, "coalesce_bytes must be from 0 to 67108864, got 134217728"),
    ],
)
def test_numbers_out_of_range_are_refused_by_the_constructor(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong number is an error before anything is started, not at the first step."""
    from poseidon_tf import PoseidonStrategy  # Loads TensorFlow.

    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ConfigError, match=message):
        PoseidonStrategy(**arguments)
