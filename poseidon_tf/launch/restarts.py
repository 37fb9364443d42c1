"""How often the job was started anew, where whoever starts it says so."""

from __future__ import annotations

from collections.abc import Mapping

RESTARTS = "POSEIDON_RESTARTS"  # Set by `poseidon-tf run`.
_NAMES = (RESTARTS, "SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")


def read_restarts(environ: Mapping[str, str]) -> int:
    """The number that the launcher gives; 0 where it gives none."""
    told = (environ.get(name, "") for name in _NAMES)
    return next((int(text) for text in told if text.isdecimal() and len(text) < 7), 0)
