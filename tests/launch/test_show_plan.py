"""Where rank 0 shows a new plan: on standard output, in the log, or nowhere."""

import logging
from typing import Any

import pytest

from poseidon_tf import PoseidonStrategy
from poseidon_tf.planner import ClusterSpec, VariableSpec, make_plan


@pytest.mark.parametrize(
    "show_plan, is_printed, is_logged",
    [("print", True, False), ("log", False, True), ("none", False, False)],
)
def test_a_plan_is_shown_where_it_is_wanted(
    show_plan: Any,
    is_printed: bool,
    is_logged: bool,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real strategy; a job's plan goes the same way."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    strategy = PoseidonStrategy(show_plan=show_plan)
    spec = VariableSpec(name="fc/kernel", shape=(8, 8), dtype="float32")
    plan = make_plan([spec], ClusterSpec(num_workers=2, num_servers=2, co_located=True))
    with caplog.at_level(logging.INFO, logger="poseidon_tf"):
        strategy._announce(plan)
    assert ("as planned: " in capsys.readouterr().out) is is_printed
    logged = [record.getMessage() for record in caplog.records if record.name == "poseidon_tf"]
    assert any("as planned: " in text for text in logged) is is_logged
