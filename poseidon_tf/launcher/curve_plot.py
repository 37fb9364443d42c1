"""Draws predicted speedups against the number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from poseidon_tf.errors import ConfigError
from poseidon_tf.planner.answers import assumptions
from poseidon_tf.planner.machines import Machines
from poseidon_tf.planner.questions import WAYS, Point


def draw_curve(points: Sequence[Point], machines: Machines, path: str) -> None:
    """Write a picture, whose kind the ending of `path` says, such as ``.svg`` or ``.png``.

    Raises:
        ConfigError: matplotlib is not installed, or draws no such kind.
    """
    try:
        import matplotlib
    except ImportError as failure:
        raise ConfigError(
            "--plot draws with matplotlib, which is not installed: pip install matplotlib"
        ) from failure
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 6), layout="constrained")
    kinds = figure.canvas.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in kinds:
        pyplot.close(figure)
        raise ConfigError(f"--plot draws {', '.join(sorted(kinds))}; got {path!r}")
    counts = [point.num_workers for point in points]
    axes.plot(counts, counts, "k:", linewidth=1, label="ideal")
    for way in WAYS:
        speedups = [point.predictions[way].speedup for point in points]
        axes.plot(counts, speedups, "--" if "all-reduce" in way else "-", marker=".", label=way)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(xlabel="workers", ylabel="speedup over one worker")
    axes.set_title(assumptions(machines), fontsize="x-small")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path)
    pyplot.close(figure)
