"""``poseidon-tf plan``: how a model's gradients would travel, and how long its steps would take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from poseidon_tf.errors import ConfigError
from poseidon_tf.launcher.option_values import (
    bits_per_s,
    doubling,
    scheme_by_pattern,
    wire_dtype_by_pattern,
)

if TYPE_CHECKING:
    from poseidon_tf.planner import Machines, ModelDescription, VariableSpec

PAYLOAD_SHARE = 0.956
"""Of Ethernet with frames of 1500 bytes; the rest are headers of Ethernet, IP and TCP."""


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False), metavar="MODEL")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Samples per worker and step. A description has its own.",
)
@click.option("--workers", type=click.IntRange(min=1), required=True, help="Number of workers, P1.")
@click.option("--servers", type=click.IntRange(min=1), help="Number of servers, P2.  [default: P1]")
@click.option(
    "--co-located/--dedicated",
    "co_located",
    default=None,
    help="Whether servers share the workers' hosts.  [default: co-located without --servers]",
)
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    callback=scheme_by_pattern,
    metavar="PATTERN=ps|sfb|rows",
    help="Choose the scheme of matching variables yourself. May be repeated; the last one wins.",
)
@click.option(
    "--wire-dtype",
    multiple=True,
    callback=wire_dtype_by_pattern,
    metavar="[PATTERN=]DTYPE",
    help="Round float32 gradients to bfloat16 or float16 before they leave; as float32 they stay.",
)
@click.option(
    "--plan-by",
    type=click.Choice(["bytes", "time"]),
    default="bytes",
    show_default=True,
    help="Choose the schemes with the fewest bytes, or those with the shortest step; the latter "
    "needs --link.",
)
@click.option(
    "--step-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Time of one step of one worker alone; adds the bandwidth that a node then needs.",
)
@click.option(
    "--link",
    callback=bits_per_s,
    metavar="RATE",
    help="Of every host, each way, such as 10gbit; adds what a step would take. "
    "Needs --step-seconds.",
)
@click.option(
    "--latency",
    type=click.FloatRange(min=0),
    default=50e-6,
    show_default=True,
    metavar="SECONDS",
    help="Of a message, one way.",
)
@click.option("--slow-worker", callback=bits_per_s, metavar="RATE", help="One worker's link.")
@click.option("--slow-server", callback=bits_per_s, metavar="RATE", help="One server's link.")
@click.option(
    "--cores",
    type=click.FloatRange(min=0, min_open=True),
    help="Of a host, free for communication.  [default: never waited for]",
)
@click.option(
    "--devices", type=click.IntRange(min=1), default=1, show_default=True, help="Of a worker, G."
)
@click.option(
    "--device-flops",
    type=click.FloatRange(min=0, min_open=True),
    metavar="FLOP/S",
    help="At which a device multiplies factors.  [default: as fast as the step]",
)
@click.option(
    "--curve",
    "counts",
    callback=doubling,
    metavar="FIRST:LAST",
    help="Add the speedup of so many workers, doubling, such as 1:4096. Needs --link.",
)
@click.option("--plot", metavar="FILE", help="Draw --curve, as .svg or .png; needs matplotlib.")
@click.option(
    "--describe",
    metavar="FILE.json",
    help="Save a description, which can be MODEL from then on: it needs no TensorFlow.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def plan(
    model: str,
    batch_size: int | None,
    workers: int,
    servers: int | None,
    co_located: bool | None,
    schemes: dict[str, str],
    wire_dtype: dict[str, str],
    plan_by: str,
    step_seconds: float | None,
    link: float | None,
    latency: float,
    slow_worker: float | None,
    slow_server: float | None,
    cores: float | None,
    devices: int,
    device_flops: float | None,
    counts: list[int],
    plot: str | None,
    describe: str | None,
    as_json: bool,
) -> None:
    """Show how every gradient of a model would travel, and how long its steps would take.

    MODEL is a Keras model in a file, or the description of one (see --describe).
    """
    from poseidon_tf.planner import ClusterSpec, Outlook, make_plan, plan_in_time

    if link is not None and step_seconds is None:
        raise click.UsageError("--link needs --step-seconds: what a step takes one worker alone")
    if counts and link is None:
        raise click.UsageError("--curve needs --link")
    if plan_by == "time" and link is None:
        raise click.UsageError("--plan-by time needs --link: over which a step is to be short")
    if counts and plan_by == "time":
        raise click.UsageError("--curve is of plans by bytes: ask for it without --plan-by time")
    if plot and not counts:
        raise click.UsageError("--plot draws --curve; say which, as in --curve 1:4096")
    description = None
    if link is not None or describe is not None or model.endswith(".json"):
        description = _description(model, batch_size)
        specs: Sequence[VariableSpec] = description.specs
    else:
        specs = _specs(model, batch_size)
    if describe is not None and description is not None:
        Path(describe).write_text(description.to_json(), encoding="utf-8")
        click.echo(f"described in {describe}", err=True)
    cluster = ClusterSpec(
        num_workers=workers,
        num_servers=workers if servers is None else servers,
        co_located=servers is None if co_located is None else co_located,
    )
    outlook = None
    if link is not None and step_seconds is not None and description is not None:
        machines = _machines(
            link=link,
            latency=latency,
            slow_worker=slow_worker,
            slow_server=slow_server,
            cores=cores,
            devices=devices,
            flops_per_s=device_flops or description.step_flops / step_seconds or None,
        )
        outlook = Outlook(timeline=description.timeline(step_seconds), machines=machines)
    if plan_by == "time" and outlook is not None:
        result = plan_in_time(specs, cluster, outlook, schemes=schemes, wire_dtype=wire_dtype)
    else:
        result = make_plan(specs, cluster, schemes=schemes, wire_dtype=wire_dtype)
    if step_seconds is None:
        click.echo(result.to_json() if as_json else result.table())
        return
    gbit_per_s = result.gbit_per_s(step_seconds)
    # The plan is JSON text already; its digest is of exactly these characters.
    data = {"plan": result.to_json(), "gbit_per_s": repr(gbit_per_s)}
    texts = [
        result.table(),
        f"each node needs {gbit_per_s:.2f} Gbit/s at {step_seconds:g} s a step",
    ]
    if plan_by == "time":
        from poseidon_tf.planner.table import human_bytes

        texts.append(
            f"KV pairs of at most {human_bytes(result.kv_pair_bytes)}, small variables together "
            f"up to {human_bytes(result.coalesce_bytes)}"
        )
    if outlook is not None:
        from poseidon_tf.planner import answers, questions

        timeline, machines = outlook.timeline, outlook.machines
        found = questions.answer(result, timeline, machines)
        data["prediction"] = json.dumps(answers.answer_json(found))
        texts += ["", answers.answer_text(found, machines)]
        if counts:
            points = questions.curve(
                specs,
                timeline,
                machines,
                counts,
                num_servers=servers,
                co_located=cluster.co_located,
                schemes=schemes,
            )
            data["curve"] = json.dumps(answers.curve_json(points))
            texts += ["", answers.curve_text(points)]
            if plot is not None:
                from poseidon_tf.launcher.curve_plot import draw_curve

                draw_curve(points, machines, plot)
    if as_json:
        click.echo("{" + ", ".join(f'"{key}": {text}' for key, text in data.items()) + "}")
    else:
        click.echo("\n".join(texts))


def _specs(model: str, batch_size: int | None) -> list[VariableSpec]:
    batch_size = _given(batch_size)
    from poseidon_tf.strategy.saved_model import specs_of_saved_model

    return specs_of_saved_model(model, batch_size=batch_size)


def _description(model: str, batch_size: int | None) -> ModelDescription:
    if not model.endswith(".json"):
        batch_size = _given(batch_size)
        from poseidon_tf.strategy.saved_model import description_of_saved_model

        return description_of_saved_model(model, batch_size=batch_size)
    from poseidon_tf.planner import ModelDescription

    try:
        text = Path(model).read_text(encoding="utf-8")
    except UnicodeDecodeError as failure:
        raise ConfigError(f"not a model's description: {model!r} ({failure})") from failure
    description = ModelDescription.from_json(text)
    if batch_size not in (None, description.batch_size):
        raise ConfigError(
            f"{model!r} describes a batch of {description.batch_size}, not of {batch_size}: "
            f"describe the model again with --batch-size {batch_size}, or leave --batch-size out"
        )
    return description


def _given(batch_size: int | None) -> int:
    if batch_size is None:
        raise click.UsageError("Missing option '--batch-size'.")
    return batch_size


def _machines(
    *,
    link: float,
    latency: float,
    slow_worker: float | None,
    slow_server: float | None,
    cores: float | None,
    devices: int,
    flops_per_s: float | None,
) -> Machines:
    from poseidon_tf.planner import Host, Link, Machines

    def link_of(bits_per_s: float) -> Link:
        return Link(bits_per_s=bits_per_s, latency_s=latency, payload_share=PAYLOAD_SHARE)

    return Machines(
        link=link_of(link),
        slow_worker=None if slow_worker is None else link_of(slow_worker),
        slow_server=None if slow_server is None else link_of(slow_server),
        host=None if cores is None else Host(cores=cores),
        devices=devices,
        flops_per_s=flops_per_s,
    )
