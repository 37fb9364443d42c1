"""Trains a script on two tasks of Spark, which start together: barrier mode.

spark-submit --master "local-cluster[2,1,1024]" spark_train.py train.py
"""

import os
import runpy
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from pyspark import BarrierTaskContext, SparkFiles
from pyspark.sql import SparkSession

NUM_WORKERS = 2


def train(partition: Iterator[str]) -> Iterator[str]:
    """On every worker: tell the strategy who it is and where rank 0 is, then run the script."""
    context = BarrierTaskContext.get()
    hosts = [task.address.rpartition(":")[0] for task in context.getTaskInfos()]
    with socket.socket() as probe:
        probe.bind(("", 0))  # A port that is free on this host; rank 0's counts.
        ports = context.allGather(str(probe.getsockname()[1]))
    os.environ["POSEIDON_RANK"] = str(context.partitionId())
    os.environ["POSEIDON_WORLD_SIZE"] = str(len(hosts))
    os.environ["POSEIDON_COORDINATOR"] = f"{hosts[0]}:{ports[0]}"
    for name in partition:
        script = runpy.run_path(SparkFiles.get(name), run_name="__main__")
        script["strategy"].shutdown()  # Spark ends the process with no word to the others.
    return iter(())


if __name__ == "__main__":
    script = Path(sys.argv[1])
    # A process for each script: TensorFlow would keep what another one has left, such as its seed.
    builder = SparkSession.builder.config("spark.python.worker.reuse", False)
    with builder.appName(script.name).getOrCreate() as session:
        session.sparkContext.addFile(str(script.resolve()))
        tasks = session.sparkContext.parallelize([script.name] * NUM_WORKERS, NUM_WORKERS)
        # Spark starts a stage of this kind again, with all workers, only if another one follows.
        tasks.barrier().mapPartitions(train).repartition(1).collect()
