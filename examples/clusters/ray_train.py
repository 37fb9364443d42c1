"""Trains a script on two workers of Ray Train, and starts again from its backup if one is lost.

python ray_train.py train.py
"""

import runpy
import sys
from pathlib import Path

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer


def train(config: dict[str, str]) -> None:
    """On every worker: Ray has set TF_CONFIG."""
    script = runpy.run_path(config["script"], run_name="__main__")
    script["strategy"].shutdown()  # Ray keeps the process; this ends what the strategy has started.


if __name__ == "__main__":
    TensorflowTrainer(
        train,
        train_loop_config={"script": str(Path(sys.argv[1]).resolve())},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(
            storage_path=str(Path("ray_results").resolve()),
            failure_config=FailureConfig(max_failures=1),
        ),
    ).fit()
