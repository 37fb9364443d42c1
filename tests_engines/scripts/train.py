"""Runs a script as if by itself, then writes down as whom and what it has trained, or its refusal.

Environment:
  DIGITS: the script; it has a `model` and a `strategy`.
  FOUND: the folder for one file per process.
  RESOLVER: where it is set, JSON with all workers' addresses and this one's rank, of which the
    strategy learns by a `cluster_resolver`.
"""

import functools
import hashlib
import json
import os
import runpy
import time
from pathlib import Path

import tensorflow as tf

import poseidon_tf

if "RESOLVER" in os.environ:
    workers, task_id = json.loads(os.environ["RESOLVER"])
    poseidon_tf.PoseidonStrategy = functools.partial(  # type: ignore[misc, assignment]
        poseidon_tf.PoseidonStrategy,
        cluster_resolver=tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": workers}), task_type="worker", task_id=task_id
        ),
    )


def write(**found: object) -> None:
    (Path(os.environ["FOUND"]) / f"{os.getpid()}.json").write_text(json.dumps(found))


begun_s = time.monotonic()
try:
    trained = runpy.run_path(os.environ["DIGITS"], run_name="__main__")
except poseidon_tf.ConfigError:
    write(refused_s=time.monotonic() - begun_s)
    raise
weights = b"".join(weight.tobytes() for weight in trained["model"].get_weights())
strategy = trained["strategy"]
write(
    rank=strategy.rank,
    workers=strategy.num_replicas_in_sync,
    digest=hashlib.sha256(weights).hexdigest(),
)
