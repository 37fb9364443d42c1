"""That a job is started anew, how often, and with other sizes: where whoever starts it says so."""

from __future__ import annotations

from collections.abc import Mapping

# Both set by `poseidon-tf run`.
RESTARTS = "POSEIDON_RESTARTS"
ELASTIC = "POSEIDON_ELASTIC"
_NAMES = (RESTARTS, "SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")


def is_elastic(environ: Mapping[str, str]) -> bool:
    """Whether the next try may have more workers or fewer, and goes on where this one is."""
    return environ.get(ELASTIC) == "1"


def read_restarts(environ: Mapping[str, str]) -> int:
    """The number that the launcher gives; 0 where it gives none."""
    told = (environ.get(name, "") for name in _NAMES)
    return next((int(text) for text in told if text.isdecimal() and len(text) < 7), 0)
