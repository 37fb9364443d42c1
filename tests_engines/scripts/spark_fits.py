"""Several fits in one session of Spark; writes `said.json` into the folder that holds FOUND.

Of each fit that file has its exception, and how many servers of its workers were left.
"""

import json
import os
import sys
from pathlib import Path

import remaining
from pyspark.sql import SparkSession

FOLDER = Path(os.environ["FOUND"]).parent
HERE = Path(__file__).parent
sys.path.insert(0, str(FOLDER))
from spark_train import train  # noqa: E402, I001  # The recipe's, which lies there.

with SparkSession.builder.config("spark.python.worker.reuse", False).getOrCreate() as session:
    context = session.sparkContext
    context.addPyFile(str(FOLDER / "spark_train.py"))

    def fit(script: Path) -> str:
        """Its exception, if it raises one."""
        context.addFile(str(script))
        tasks = context.parallelize([script.name] * 2, 2)
        try:
            tasks.barrier().mapPartitions(train).repartition(1).collect()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    said = {
        script.stem: {"error": fit(script), "servers": remaining.servers()}
        for script in (HERE / "no_more.py", HERE / "backed_up.py")
    }
(FOLDER / "said.json").write_text(json.dumps({**said, "threads": remaining.threads()}))
