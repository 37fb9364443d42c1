"""The job's seed, where the environment has one: all runs of a job then draw alike."""

from __future__ import annotations

from collections.abc import Mapping

from poseidon_tf.errors import ConfigError

SEED = "POSEIDON_SEED"  # `poseidon-tf run` gives all tries of a job the same.
SEEDS = 2**31
_TOO_LARGE = 2**63  # Numbers of jobs, of which one is made, may be above SEEDS.


def read_seed(environ: Mapping[str, str]) -> int | None:
    """What rank 0's environment says; None if it says nothing.

    Raises:
      ConfigError: it is no whole number from 0 to 2**63 - 1.
    """
    told = environ.get(SEED, "").strip()
    if not told:
        return None
    if not (told.isascii() and told.isdecimal() and len(told) < 20 and int(told) < _TOO_LARGE):
        raise ConfigError(f"{SEED} must be a whole number from 0 to {_TOO_LARGE - 1}, got {told!r}")
    return int(told) % SEEDS
