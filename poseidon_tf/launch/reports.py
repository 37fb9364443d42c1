"""How a member of a local job tells the launcher why it ends, besides what it prints.

The launcher opens a file without a name for each member, which inherits it: nothing is left of it
however the job ends, and nobody waits for a reader. The environment says which descriptor it is.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

VARIABLE = (
    "POSEIDON_TF_REPORT"  # Descriptor, device and inode: of a stranger's file none is written.
)
_MAX_BYTES = 64 * 1024


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Why a member ends.

    Attributes:
      is_own: its own script has failed; else it has heard of the failure.
      at_s: when that was, by the machine's monotonic clock.
      lines: for people.
    """

    is_own: bool
    at_s: float
    lines: tuple[str, ...]


@final
class ReportFile:
    """The launcher's end, for one member."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self.descriptor = self._file.fileno()
        status = os.fstat(self.descriptor)
        self.environ = {VARIABLE: f"{self.descriptor}:{status.st_dev}:{status.st_ino}"}

    def read(self) -> Report | None:
        """What the member has said; None if nothing, or not all of it yet."""
        try:
            fields = json.loads(os.pread(self.descriptor, _MAX_BYTES, 0))
        except ValueError:
            return None
        return Report(
            is_own=bool(fields["is_own"]),
            at_s=float(fields["at_s"]),
            lines=tuple(map(str, fields["lines"])),
        )

    def close(self) -> None:
        self._file.close()


def tell_launcher(environ: Mapping[str, str], lines: Sequence[str], *, is_own: bool) -> bool:
    """Say why this process ends; of several calls the first one counts.

    Returns:
      False if no launcher listens.
    """
    if not environ.get(VARIABLE):
        return False
    descriptor, *identity = map(int, environ[VARIABLE].split(":"))
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False  # It was not inherited: this is a process that the member has started.
    if [status.st_dev, status.st_ino] != identity:
        return False
    if status.st_size == 0:
        fields = {"is_own": is_own, "at_s": time.monotonic(), "lines": list(lines)}
        os.pwrite(descriptor, json.dumps(fields).encode(), 0)
    return True
