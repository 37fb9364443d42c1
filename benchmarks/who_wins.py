"""Who would be fastest on how many workers: servers, factors, a ring, or rings of rings?

    python benchmarks/who_wins.py [--plot docs/benchmarks/who-wins.svg]

The model of a step, for the networks of the paper on 2 to 4096 workers, each with its own batch.
Pure but for the picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from architectures import net as net_named
from published_curves import LATENCY_S, PAYLOAD_SHARE
from scaling_grid import specs, timeline

from poseidon_tf.planner import Host, Link, Machines
from poseidon_tf.planner.questions import Point, curve

NETS = ("vgg19", "alexnet", "inception-v3", "resnet-152")
GBE = (1.0, 10.0, 100.0)
COUNTS = tuple(2**power for power in range(1, 13))
SHOWN = (2, 8, 32, 128, 512, 4096)
CORES = 4.0
WAYS = ("PS", "SFB", "ring all-reduce", "hierarchical all-reduce")
"""What is compared; `hybrid` is the first two, chosen by layer."""
CLOSE = 1.01
"""Who is no more than a hundredth slower than the best has won too."""


def points(net_name: str, gbe: float, counts: Sequence[int] = COUNTS) -> list[Point]:
    """Predictions for all of `counts`, with a server on every worker's host."""
    net = net_named(net_name)
    machines = Machines(
        link=Link(bits_per_s=gbe * 1e9, latency_s=LATENCY_S, payload_share=PAYLOAD_SHARE),
        host=Host(cores=CORES),
        flops_per_s=3 * net.batch * net.flops / net.device_s,
    )
    return curve(
        specs(net),
        timeline(net),
        machines,
        counts,
        num_servers=None,
        co_located=True,
        schemes={},
    )


def winners(point: Point) -> tuple[str, ...]:
    """Those of `WAYS` that are fastest."""
    step_s = {way: point.predictions[way].step_s for way in WAYS}
    best_s = min(step_s.values())
    return tuple(way for way in WAYS if step_s[way] <= CLOSE * best_s)


def table(found: dict[tuple[str, float], list[Point]]) -> str:
    """Who is fastest, and its share of an ideal speedup, as Markdown."""
    header = ["network", "Gbit/s", *map(str, SHOWN)]
    lines = [header, ["---"] * len(header)]
    for (net, gbe), of_cell in found.items():
        cells = []
        for point in of_cell:
            if point.num_workers in SHOWN:
                who = winners(point)
                names = "any" if who == WAYS else ", ".join(_short(way) for way in who)
                cells.append(f"{names}: {_share(point, who[0]):.0%}")
        lines.append([net, f"{gbe:g}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(found: dict[tuple[str, float], list[Point]], path: Path) -> None:
    """A panel for each network and link: what part of an ideal speedup each way reaches."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        len(NETS), len(GBE), figsize=(10, 10), sharex=True, sharey=True, layout="constrained"
    )
    for (net, gbe), panel in zip(found, panels.flat, strict=True):
        for way, style in zip(WAYS, ("-", "-", "--", "--"), strict=True):
            shares = [_share(point, way) for point in found[net, gbe]]
            panel.plot(COUNTS, shares, style, linewidth=1, label=way)
        panel.set_xscale("log", base=2)
        panel.set_title(f"{net}, {gbe:g} Gbit/s", fontsize="small")
        panel.set_ylim(0, 1.05)
    for panel in panels[-1]:
        panel.set_xlabel("workers")
    for panel in panels[:, 0]:
        panel.set_ylabel("of an ideal speedup")
    panels[0, 0].legend(fontsize="x-small")
    figure.savefig(path)
    plt.close(figure)


def _share(point: Point, way: str) -> float:
    return point.predictions[way].speedup / point.num_workers


def _short(way: str) -> str:
    return way.removesuffix(" all-reduce")


def main() -> None:
    """Print the table, and draw it where that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plot", type=Path, help="a picture, as .svg")
    options = parser.parse_args()
    found = {(net, gbe): points(net, gbe) for net in NETS for gbe in GBE}
    print(table(found))
    if options.plot is not None:
        draw(found, options.plot)
        print(f"written to {options.plot}")


if __name__ == "__main__":
    main()
