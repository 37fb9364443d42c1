"""Trains a script on two to four workers of Ray Train: on as many as there is room for.

python ray_elastic.py train.py

When one is lost, or when there is room for more, Ray starts all anew with another number.
"""

import os
import runpy
import secrets
import sys
from pathlib import Path

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer


def train(config: dict[str, str]) -> None:
    """On every worker: Ray has set TF_CONFIG."""
    os.environ["POSEIDON_SEED"] = config["seed"]  # All runs have the data in one order.
    script = runpy.run_path(config["script"], run_name="__main__")
    script["strategy"].shutdown()  # Ray keeps the process; this ends what the strategy has started.


if __name__ == "__main__":
    TensorflowTrainer(
        train,
        train_loop_config={
            "script": str(Path(sys.argv[1]).resolve()),
            "seed": str(secrets.randbelow(2**31)),
        },
        scaling_config=ScalingConfig(num_workers=(2, 4)),
        run_config=RunConfig(
            storage_path=str(Path("ray_results").resolve()),
            failure_config=FailureConfig(max_failures=3),
        ),
    ).fit()
