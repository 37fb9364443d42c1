"""Runs tests of Keras's own, with ours in place of MirroredStrategy.

Arguments: where the results are written, as XML of JUnit; then pytest's.
"""

import os
import sys
import warnings
from collections.abc import Sequence

import pytest
import tensorflow as tf

from poseidon_tf import PoseidonStrategy


def strategy(devices: Sequence[str]) -> PoseidonStrategy:
    return PoseidonStrategy(devices=devices)


def main() -> None:
    warnings.simplefilter("ignore")
    tf.distribute.MirroredStrategy = strategy
    results, *arguments = sys.argv[1:]
    options = ["--noconftest", "-p", "no:cacheprovider", "-c", os.devnull, f"--junitxml={results}"]
    sys.exit(pytest.main([*options, *arguments]))


if __name__ == "__main__":
    main()
