"""The systems that are compared: how each is started, and how fast it trains a net."""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lab.hosts import Hosts
from lab.members import Members

ROWS = 32  # Of one worker's batch.
_BENCHMARKS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class System:
    """One way to train.

    Args:
      script: within `workers/`.
      venv: its virtual environment, in the repository; this process's own if None.
      options: of `PoseidonStrategy`; None for a script that takes none.
    """

    what: str
    script: str
    num_workers: int = 2
    venv: str | None = None
    options: dict[str, Any] | None = None

    @property
    def python(self) -> str:
        """The interpreter; RuntimeError where `make` has not built it."""
        if self.venv is None:
            return sys.executable
        python = _BENCHMARKS.parent / self.venv / "bin" / "python"
        if not python.exists():
            raise RuntimeError(
                f"{self.what} needs {self.venv}, which is not there: `make {self.venv}/installed` "
                f"builds it, or leave this system out with --systems"
            )
        return str(python)


PS = {"schemes": {"*": "ps"}}
IN_STEP, ACROSS = {"defer_updates": False}, {"defer_updates": True}
HALF = {"wire_dtype": "bfloat16"}
SYSTEMS = {
    # The ideal: with its half of the batch, and nobody to wait for.
    "alone": System("one worker alone", "poseidon_fit.py", num_workers=1, options={}),
    "planner": System("ours, as planned", "poseidon_fit.py", options={}),
    "ps": System("ours, PS only, updates in the step", "poseidon_fit.py", options=PS | IN_STEP),
    # Only dense kernels have factors; all of them, whatever the planner's rule says.
    "sfb": System("ours, SFB", "poseidon_fit.py", options={"schemes": {"*_dense?/kernel": "sfb"}}),
    "mirrored": System("MultiWorkerMirroredStrategy", "mirrored_fit.py", venv=".venv-tf-keras"),
    "ddp": System("DistributedDataParallel", "ddp_fit.py", venv=".venv-torch"),
    "jax": System("Keras on JAX, DataParallel", "jax_fit.py", venv=".venv-jax"),
    "ps-across": System(
        "ours, PS only, updates across the step", "poseidon_fit.py", options=PS | ACROSS
    ),
    "ps-16-bits": System(
        "ours, PS only, updates in the step, 16 bits",
        "poseidon_fit.py",
        options=PS | IN_STEP | HALF,
    ),
    "ps-across-16-bits": System(
        "ours, PS only, updates across the step, 16 bits",
        "poseidon_fit.py",
        options=PS | ACROSS | HALF,
    ),
}
# What is compared unless others are named: each system keeps its processes for the whole run.
USUAL = ("alone", "planner", "ps", "sfb", "mirrored", "ddp", "jax")
# PS only, in these modes of updating and sending.
MODES = {
    "step": "ps",
    "across": "ps-across",
    "16-bits": "ps-16-bits",
    "across-16-bits": "ps-across-16-bits",
}


class Peers:
    """`names` of `SYSTEMS`, all started and idle: each is measured beside the others."""

    def __init__(self, hosts: Hosts, names: Sequence[str]) -> None:
        self._hosts, self._names = hosts, names
        self._pythons = {name: SYSTEMS[name].python for name in names}
        self._jobs: dict[str, Members] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Peers:
        with self._stack as stack:
            for name in self._names:
                self._jobs[name] = stack.enter_context(self._members(name))
                self._jobs[name].ask("versions")  # Up before the next one is started.
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def versions(self) -> dict[str, dict[str, str]]:
        """Of the libraries that each system runs on."""
        return {name: job.ask("versions")[0] for name, job in self._jobs.items()}

    def train(self, name: str, net: str, *, warm_up: int, steps: int) -> dict[str, Any]:
        """Median seconds of a step on the slowest worker; what its link carried; the plan's bytes.

        "link_bytes" are those out of host 0 in one step, headers included; "node_bytes", of ours
        alone, the payload in and out of one that the plan expects.
        """
        before, _ = self._hosts.link_bytes(0)
        answers = self._jobs[name].ask("train", net=net, rows=ROWS, warm_up=warm_up, steps=steps)
        after, _ = self._hosts.link_bytes(0)
        return {
            "seconds": max(statistics.median(answer["seconds"]) for answer in answers),
            "link_bytes": (after - before) // (warm_up + steps),
            "node_bytes": answers[0].get("node_bytes"),
        }

    def first_gradient(self, net: str, *, warm_up: int, steps: int) -> float:
        """Seconds that "alone" takes from the input of a net to its first weight gradient."""
        order: dict[str, Any] = {"net": net, "rows": ROWS, "warm_up": warm_up, "steps": steps}
        return float(self._jobs["alone"].ask("first_gradient", **order)[0]["seconds"])

    def _members(self, name: str) -> Members:
        system = SYSTEMS[name]
        return Members(
            self._hosts,
            system.script,
            count=system.num_workers,
            python=self._pythons[name],
            args=[] if system.options is None else [json.dumps(system.options)],
            environ={
                "PYTHONPATH": str(_BENCHMARKS),  # For `nets`.
                "GLOO_SOCKET_IFNAME": "eth0" if self._hosts.is_shaped else "lo",
            },
        )
