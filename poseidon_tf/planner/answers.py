"""Answers about a step, as a person reads them, and as JSON holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .machines import Machines
from .questions import WAYS, Answer, Point
from .simulate import Prediction


def answer_text(found: Answer, machines: Machines) -> str:
    """A line for each question, and what was assumed."""
    step, across = found.prediction, found.across_step
    if found.bottleneck is None:
        bottleneck = "none: no exchange makes a step 1 % longer"
    else:
        name, without_s = found.bottleneck
        bottleneck = f"{name}: without it a step takes {human_seconds(without_s)}"
    enough = f"{human_rate(found.enough_bits_per_s)} each way"
    if found.endless_link_s > step.compute_s:
        enough += f"; over an endless link a step takes {human_seconds(found.endless_link_s)}"
    lines = {
        "one worker alone": f"{human_seconds(step.compute_s)} a step",
        f"{step.num_workers} workers": (
            f"{human_seconds(step.step_s)} a step, speedup {step.speedup:.2f}"
        ),
        "across the step": (
            f"{human_seconds(across.step_s)} a step, speedup {across.speedup:.2f}, "
            "where each result is waited for when the next step reads it"
        ),
        "communication": (
            f"{human_seconds(step.communication_s)}, of which computation hides {step.hidden:.0%}"
        ),
        "bottleneck": bottleneck,
        "enough": enough,
        "assumed": assumptions(machines),
    }
    return "\n".join(f"{label:18}{value}" for label, value in lines.items())


def answer_json(found: Answer) -> dict[str, Any]:
    """The same with units in the names."""
    return {
        **_prediction_json(found.prediction),
        "across_the_step": _prediction_json(found.across_step),
        "bottleneck": None
        if found.bottleneck is None
        else {"name": found.bottleneck.name, "step_seconds_without": found.bottleneck.step_s},
        "enough_gbit_per_s": found.enough_bits_per_s / 1e9,
        "endless_link_step_seconds": found.endless_link_s,
    }


def assumptions(machines: Machines) -> str:
    """What the answers hold for."""
    link, host = machines.link, machines.host
    said = [
        f"{human_rate(link.bits_per_s)} each way",
        f"{human_seconds(link.latency_s)} one way",
        f"{1 - link.payload_share:.1%} for headers",
    ]
    if machines.slow_worker is not None:
        said.append(f"one worker at {human_rate(machines.slow_worker.bits_per_s)}")
    if machines.slow_server is not None:
        said.append(f"one server at {human_rate(machines.slow_server.bits_per_s)}")
    said.append(
        "processors are never waited for"
        if host is None
        else f"{host.cores:g} cores of a host for communication"
    )
    said.append(
        "factors multiply in no time"
        if machines.flops_per_s is None
        else f"factors multiply at {machines.flops_per_s / 1e12:.3g} TFLOP/s"
    )
    return ", ".join(said)


def curve_text(points: Sequence[Point]) -> str:
    """Speedups, a row for each number of workers."""
    from tabulate import tabulate  # Which training itself does not need.

    rows = [
        [point.num_workers, *(f"{point.predictions[way].speedup:.2f}" for way in WAYS)]
        for point in points
    ]
    headers = ["workers", *WAYS]
    table = tabulate(
        rows,
        headers=[header.replace(" ", "\n", 1) for header in headers],
        tablefmt="simple",
        colalign=("right",) * len(headers),
        disable_numparse=True,
    )
    return f"speedup over one worker\n{table}"


def curve_json(points: Sequence[Point]) -> list[dict[str, Any]]:
    """A row for each number of workers."""
    return [
        {
            "workers": point.num_workers,
            **{way: _prediction_json(point.predictions[way]) for way in WAYS},
        }
        for point in points
    ]


def human_seconds(seconds: float) -> str:
    """``0.512 s``, ``51.2 ms``, ``50 us``."""
    if seconds >= 0.1 or not seconds:
        return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.3g} us"


def human_rate(bits_per_s: float) -> str:
    """``2.5 Gbit/s``, ``100 Mbit/s``."""
    giga = bits_per_s / 1e9
    return f"{giga:.3g} Gbit/s" if giga >= 1 else f"{giga * 1e3:.3g} Mbit/s"


def _prediction_json(found: Prediction) -> dict[str, Any]:
    return {
        "compute_seconds": found.compute_s,
        "step_seconds": found.step_s,
        "communication_seconds": found.communication_s,
        "hidden": found.hidden,
        "speedup": found.speedup,
    }
