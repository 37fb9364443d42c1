"""Workers that wait for each other by hand: rank 0 saves, all load; then one does not come.

Argument: a folder.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from report import result

import poseidon_tf

path = Path(sys.argv[1]) / "table.npy"
deadlines = poseidon_tf.Deadlines(step_s=4.0, stall_report_s=1.0, stall_repeat_s=60.0)
strategy = poseidon_tf.PoseidonStrategy(deadlines=deadlines)


def error_of(program: Callable[[], object]) -> list[str]:
    try:
        program()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


found = []
for turn in range(3):
    if strategy.rank == 0:
        np.save(path, np.full(300_000, turn))
    strategy.barrier("saved")
    found.append(int(np.load(path).sum()) // 300_000)
    strategy.barrier()
result("loaded", found)
result("traced", error_of(lambda: tf.function(strategy.barrier)()))
result("replica", error_of(lambda: strategy.run(strategy.barrier)))
if strategy.rank == 0 and strategy.num_workers > 1:
    result("missed", error_of(lambda: strategy.barrier("last")))
elif strategy.rank == 1:
    result("missed", error_of(lambda: strategy.check_drift([])))
