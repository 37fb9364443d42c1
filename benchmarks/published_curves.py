"""What others have published, and what the model of a step says of the same machines.

    python benchmarks/published_curves.py [--plot docs/benchmarks/published.svg]

`published_curves.json` has the figures with their sources. Of a curve the model is given the
network, the batch, a step of one worker and the link as printed. Where hosts evidently moved less
than that (`calibrated_at`), the link is what one point of the curve shows, and the others are
predicted.
Pure but for the picture: the standard library and the planner.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from architectures import NETS, Net
from architectures import net as net_named
from layers import Layer, vgg16
from scaling_grid import specs, timeline

from poseidon_tf.planner import (
    ClusterSpec,
    Link,
    Machines,
    Prediction,
    Summing,
    make_plan,
    predict,
)
from poseidon_tf.planner.exchanges import Exchange, exchanges_of
from poseidon_tf.planner.simulate import arrivals, end_of_next_reads

DATA = Path(__file__).with_name("published_curves.json")
PAYLOAD_SHARE = 0.956  # Of Ethernet, without the headers.
LATENCY_S = 50e-6
P3_SLICE_BYTES = 160_000
_LAYERS: dict[str, Callable[[], list[Layer]]] = {"vgg16": vgg16}


class Row(NamedTuple):
    """A point that was published, and its prediction.

    Attributes:
        gbe: of the link that was assumed, in Gbit/s; None where it is all of them.
        bound: what the relative error is known to be within.
        why: why they part, where they do.
    """

    name: str
    net: str
    workers: int
    gbe: float | None
    published: float
    predicted: float
    bound: float
    is_overlapped: bool
    is_calibration: bool
    why: str

    @property
    def error(self) -> float:
        return self.predicted / self.published - 1


def curve_rows(data: dict[str, Any]) -> list[Row]:
    """Speedups over one worker."""
    rows = []
    for curve in data["curves"]:
        net, at = _net(curve), curve.get("calibrated_at")
        baseline_s = curve.get("baseline_s", net.device_s)
        seconds = curve.get("seconds") or {
            workers: int(workers) * baseline_s / speedup
            for workers, speedup in curve["speedup"].items()
        }
        bits_per_s = curve["gbe"] * 1e9
        if at is not None:
            bits_per_s = _calibrated(curve, net, at, seconds[str(at)])
        for workers, step_s in seconds.items():
            count = int(workers)
            found = _curve_prediction(curve, net, count, bits_per_s)
            rows.append(
                Row(
                    name=curve["name"],
                    net=curve["net"],
                    workers=count,
                    gbe=bits_per_s / 1e9,
                    published=count * baseline_s / step_s,
                    predicted=count * baseline_s / found.step_s,
                    bound=curve["bound"],
                    is_overlapped=curve["mode"] != "no_overlap",
                    is_calibration=count == at,
                    why=curve.get("why", ""),
                )
            )
    return rows


def gain_rows(data: dict[str, Any]) -> list[Row]:
    """How many times as fast as without P3, at the bandwidth where that is most."""
    return [
        Row(
            name=gain["name"],
            net=gain["net"],
            workers=gain["workers"],
            gbe=None,
            published=gain["gain"],
            predicted=_p3_gain(gain),
            bound=gain["bound"],
            is_overlapped=True,
            is_calibration=False,
            why=gain.get("why", ""),
        )
        for gain in data["gains"]
    ]


def mean_error(rows: Sequence[Row]) -> float:
    """Of predictions: points that the model was given do not count."""
    errors = [abs(row.error) for row in rows if not row.is_calibration]
    return sum(errors) / len(errors)


def _curve_prediction(
    curve: dict[str, Any], net: Net, workers: int, bits_per_s: float
) -> Prediction:
    servers = curve.get("servers", {}).get(str(workers), workers)
    cluster = ClusterSpec(num_workers=workers, num_servers=servers, co_located=True)
    schemes = {} if curve["mode"] == "hybrid" else {"*": "ps"}
    summing = Summing.RING if curve["mode"] == "ring" else Summing.SERVERS
    times = timeline(net, overlaps=curve["mode"] != "no_overlap")
    plan = make_plan(specs(net), cluster, schemes=schemes)
    return predict(plan, times, _machines(net, bits_per_s), summing=summing)


def _calibrated(curve: dict[str, Any], net: Net, workers: int, step_s: float) -> float:
    """The link over which a step of so many workers takes so long."""
    low, high = 1e8, float(curve["gbe"]) * 1e9
    while high / low > 1.0001:
        middle = (low * high) ** 0.5
        if _curve_prediction(curve, net, workers, middle).step_s > step_s:
            low = middle
        else:
            high = middle
    return high


def _p3_gain(gain: dict[str, Any]) -> float:
    """The most over all bandwidths; so the time of a step has no influence.

    Both begin the next step where its reads allow. Before, a tensor is pulled when all of it was
    pushed, and the first that exists goes first; after, slices are, and the first that is needed.
    """
    net, workers = _net(gain), gain["workers"]
    cluster = ClusterSpec(num_workers=workers, num_servers=workers, co_located=True)
    plan = make_plan(
        specs(net), cluster, schemes={"*": "ps"}, kv_pair_bytes=P3_SLICE_BYTES, coalesce_bytes=0
    )
    slices = exchanges_of(plan, timeline(net))
    tensors = [each._replace(last_bytes=each.device_bytes) for each in slices]

    def step_s(exchanges: list[Exchange], machines: Machines, *, by_need: bool) -> float:
        arrived_s = arrivals(exchanges, machines, across_step=by_need)
        nothing_s = [0.0] * len(exchanges)
        return end_of_next_reads(exchanges, arrived_s, nothing_s, compute_s=net.device_s)

    rates = [_machines(net, 1e8 * 1.1**step, latency_s=0.0) for step in range(75)]
    return max(
        step_s(tensors, at, by_need=False) / step_s(slices, at, by_need=True) for at in rates
    )


def _machines(net: Net, bits_per_s: float, *, latency_s: float = LATENCY_S) -> Machines:
    link = Link(bits_per_s=bits_per_s, latency_s=latency_s, payload_share=PAYLOAD_SHARE)
    flops_per_s = 3 * net.batch * net.flops / net.device_s
    return Machines(link=link, flops_per_s=flops_per_s)


def _net(entry: dict[str, Any]) -> Net:
    """With the batch and the step of `entry`; as slow per operation as VGG19-22K if it has none."""
    name, batch = entry["net"], entry.get("batch", 32)
    layers = net_named(name).layers if name in NETS else tuple(_LAYERS[name]())
    model = net_named("vgg19-22k")
    flops = sum(layer.flops for layer in layers)
    device_s = entry.get("alone_s") or model.device_s * batch * flops / model.batch / model.flops
    return Net(name, batch, device_s, layers)


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    lines = [
        "| who | network | workers | Gbit/s | published | model | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rate = "best" if row.gbe is None else f"{row.gbe:.3g}"
        error = "given" if row.is_calibration else f"{row.error:+.1%}"
        figures = f"{row.published:.2f} | {row.predicted:.2f} | {error}"
        lines.append(f"| {row.name} | {row.net} | {row.workers} | {rate} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Print both tables, and draw the curves where that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plot", type=Path, help="a picture, as .svg")
    options = parser.parse_args()
    data = json.loads(DATA.read_text())
    curves, gains = curve_rows(data), gain_rows(data)
    print(table(curves))
    overlapped = [row for row in curves if row.is_overlapped]
    print(
        f"mean error {mean_error(overlapped):.1%} where sending begins during backpropagation, "
        f"{mean_error(curves):.1%} over all"
    )
    print(table(gains))
    if options.plot is not None:
        from plots import draw_published

        print(f"written to {draw_published(curves, options.plot)}")


if __name__ == "__main__":
    main()
