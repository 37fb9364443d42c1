"""How often a job was started anew is what its launcher says."""

import pytest

from poseidon_tf.launch.restarts import read_restarts


@pytest.mark.parametrize(
    "environ, restarts",
    [
        ({}, 0),
        ({"POSEIDON_RESTARTS": "2", "SLURM_RESTART_COUNT": "7"}, 2),
        ({"SLURM_RESTART_COUNT": "3"}, 3),
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, 1),
        ({"POSEIDON_RESTARTS": "many", "SLURM_RESTART_COUNT": "-1"}, 0),
        ({"POSEIDON_RESTARTS": "9" * 30}, 0),
    ],
)
def test_the_first_launcher_that_tells_counts(environ: dict[str, str], restarts: int) -> None:
    assert read_restarts(environ) == restarts
