"""The job's seed: from the environment, where that has one."""

import re

import pytest

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.seed_env import read_seed


@pytest.mark.parametrize(
    "told, seed",
    [
        (None, None),
        ("", None),
        (" ", None),
        ("0", 0),
        (" 7\n", 7),
        ("2147483647", 2**31 - 1),
        ("2147483655", 7),
    ],
)
def test_it_is_what_the_variable_says(told: str | None, seed: int | None) -> None:
    """Blank counts as nothing."""
    assert read_seed({} if told is None else {"POSEIDON_SEED": told}) == seed


@pytest.mark.parametrize(
    "told", ["-1", "9223372036854775808", "9" * 5000, "seven", "1.0", "0x7", "٣"]
)
def test_what_is_no_seed_is_refused(told: str) -> None:
    says = re.escape("POSEIDON_SEED must be a whole number from 0 to 9223372036854775807, got ")
    with pytest.raises(ConfigError, match=says):
        read_seed({"POSEIDON_SEED": told})
