"""The processes that measure a cell, and what they are told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lab.hosts import Hosts
from lab.members import Members
from scaling_grid import Cell

MIRRORED_PYTHON = Path(__file__).resolve().parent.parent / ".venv-tf-keras/bin/python"


def members_of(hosts: Hosts, cell: Cell, *args: str) -> Members:
    """The processes of the cell's job, with further arguments for them."""
    if cell.is_mirrored:
        python = str(MIRRORED_PYTHON)
        return Members(hosts, "mirrored_emulated.py", count=cell.workers, python=python)
    args = (*args, "--updates", cell.updates, "--wire-dtype", cell.wire)
    if cell.is_in_lockstep:
        args = (*args, "--lockstep")
    script = "poseidon_emulated.py"
    return Members(hosts, script, count=cell.workers, python=sys.executable, args=args)


def order_of(cell: Cell, scale: int) -> dict[str, Any]:
    """What they must know of the cell to prepare and to train."""
    wanted = {name: getattr(cell, name) for name in ("net", "mode", "dilation", "rebuild", "pace")}
    return {**wanted, "scale": scale}
