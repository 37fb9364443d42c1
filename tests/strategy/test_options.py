"""Options check themselves once, and are what PoseidonStrategy takes."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

import poseidon_tf
from poseidon_tf.errors import ConfigError
from poseidon_tf.session.deadlines import Deadlines
from poseidon_tf.strategy.options import Options


@pytest.mark.parametrize(
    "given, text",
    [
        ({"schemes": {"*": "sbf"}}, r"schemes\['\*'\] must be 'ps', 'sfb' or 'rows', got 'sbf'"),
        (
            {"wire_dtype": {"*": "half"}},
            r"wire_dtype\['\*'\] must be 'bfloat16', 'float16' or 'float32', got 'half'",
        ),
        ({"kv_pair_bytes": 1}, "kv_pair_bytes must be from 4096 to 67108864, got 1"),
        ({"coalesce_bytes": -1}, "coalesce_bytes must be from 0 to 67108864, got -1"),
        ({"plan_by": "bits"}, "plan_by must be 'bytes' or 'time', got 'bits'"),
        (
            {"plan_by": "time", "step_seconds": 0.0},
            "step_seconds must be more than 0, got 0[.]0",
        ),
        ({"step_seconds": 1.0}, "step_seconds is for plan_by='time', and plan_by is 'bytes'"),
        (
            {"plan_by": "time", "plan": "plan.json"},
            "plan= says how every variable travels; leave it or plan_by out",
        ),
        ({"rows_per_step": 0}, "rows_per_step must be 1 or more, got 0"),
        ({"clip": "none"}, "clip must be 'sum' or 'local', got 'none'"),
        ({"write_on": "none"}, "write_on must be 'chief' or 'all', got 'none'"),
        ({"loss_weighting": "row"}, "loss_weighting must be 'replica' or 'sample', got 'row'"),
        ({"show_plan": "no"}, "show_plan must be 'print', 'log' or 'none', got 'no'"),
        ({"show_summary": 1}, "show_summary must be 'print', 'log' or 'none', got 1"),
        ({"protocol": "tcp"}, "protocol must be 'auto', 'grpc' or 'grpc[+]tcp', got 'tcp'"),
        ({"drift_check_steps": -1}, "drift_check_steps must be 1 or more, or 0 for never, got -1"),
        (
            {"alone": True, "cluster_resolver": object()},
            "alone=True trains without others, and cluster_resolver says who they are; leave one "
            "of them out",
        ),
        ({"metrics_port": 0}, "metrics_port must be within 1..65535, got 0"),
        ({"ports": (9, 8)}, r"ports must be \(first, last\) within 1..65535, got \(9, 8\)"),
    ],
)
def test_a_wrong_option_is_refused_with_what_it_may_be(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text}$"):
        Options(**given)


def test_options_do_not_change_once_they_are_checked() -> None:
    options = Options(clip="local")
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.clip = "sum"  # type: ignore[misc]


def test_no_deadlines_are_the_usual_ones() -> None:
    none: Any = None
    assert Options(deadlines=none).deadlines == Options().deadlines == Deadlines()


def test_the_strategy_takes_the_options_and_explains_each() -> None:
    """For people who ask, and for what completes their code."""
    parameters = inspect.signature(poseidon_tf.PoseidonStrategy).parameters
    assert parameters == inspect.signature(Options).parameters
    described = inspect.getdoc(poseidon_tf.PoseidonStrategy) or ""
    assert all(f"\n  {name}: " in described for name in parameters)


def test_an_option_that_there_is_not_is_named() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'clipp'"):
        poseidon_tf.PoseidonStrategy(clipp="sum")  # type: ignore[call-arg]
