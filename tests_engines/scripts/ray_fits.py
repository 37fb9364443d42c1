"""Several fits in one session of Ray; writes `said.json` into the folder that holds FOUND.

Of each fit that file has its exception, and how many servers of its workers were left.
"""

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import ray
import remaining
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer

FOLDER = Path(os.environ["FOUND"]).parent
HERE = Path(__file__).parent
sys.path.insert(0, str(FOLDER))
from ray_train import train  # noqa: E402, I001  # The recipe's, which lies there.


def raises(config: dict[str, str]) -> None:
    from ray.train import get_context

    import poseidon_tf

    with poseidon_tf.PoseidonStrategy():
        if get_context().get_world_rank() == 1:
            raise ArithmeticError("no more")


def is_killed(config: dict[str, str]) -> None:
    os.environ["KILLED"] = "1"
    runpy.run_path(config["script"], run_name="__main__")


def fit(function: Any, script: Path, *, max_failures: int = 0) -> str:
    """Its exception, if it raises one."""
    trainer = TensorflowTrainer(
        function,
        train_loop_config={"script": str(script)},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(
            storage_path=str(FOLDER / "ray_results"),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


ray.init(num_cpus=4, include_dashboard=False)
said: dict[str, Any] = {}
for name, function, script, max_failures in (
    ("trained", train, FOLDER / "train.py", 0),
    ("raised", raises, FOLDER, 0),
    ("killed", is_killed, HERE / "backed_up.py", 1),
):
    said[name] = {
        "error": fit(function, script, max_failures=max_failures),
        "servers": remaining.servers(),
    }
ray.shutdown()
said["threads"] = remaining.threads()
(FOLDER / "said.json").write_text(json.dumps(said))
