"""Joins the cluster, or gives up after as many seconds as its argument says."""

import sys

import poseidon_tf
from poseidon_tf import ConfigError, StartTimeout

try:
    poseidon_tf.PoseidonStrategy(deadlines=poseidon_tf.Deadlines(start_s=float(sys.argv[1])))
except (ConfigError, StartTimeout) as error:
    print(f"\n{type(error).__name__}: {error}", flush=True)
    raise
