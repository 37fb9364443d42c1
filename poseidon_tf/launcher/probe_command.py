"""``poseidon-tf probe``: what the links between a job's hosts carry, measured before it trains."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from poseidon_tf.transport.connections import Protocol


@click.command()
@click.option("--json", "is_json", is_flag=True, help="Print JSON instead of tables.")
@click.option(
    "--start",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="Until when every process must have come, and how long a part of the probe may take.",
)
@click.option(
    "--protocol",
    type=click.Choice(["auto", "grpc", "grpc+tcp"]),
    help="What tensors travel by, as PoseidonStrategy has it.  [default: POSEIDON_PROTOCOL]",
)
@click.option(
    "--ports",
    type=click.IntRange(1, 65535),
    nargs=2,
    metavar="FIRST LAST",
    help="Ports for what chooses its own.  [default: the system's choice]",
)
def probe(
    is_json: bool, start: float, protocol: Protocol | None, ports: tuple[int, int] | None
) -> None:
    """Measure the links between the processes of a cluster, in about a second.

    Start it in place of a training script, once for each worker and with the same environment
    (TF_CONFIG, or under srun, mpirun or torchrun); servers of their own are started as always.
    Rank 0 prints bandwidth and answer times between all of them, with slow ways marked.
    """
    from poseidon_tf.errors import ConfigError
    from poseidon_tf.launch.found import find_cluster
    from poseidon_tf.launch.join import join
    from poseidon_tf.launch.server_main import ServerProcess
    from poseidon_tf.launcher.probe_view import as_json, as_text
    from poseidon_tf.session.deadlines import Deadlines
    from poseidon_tf.session.probe import Probe

    deadlines = Deadlines(start_s=start, step_s=start)
    config, settings = find_cluster(deadlines=deadlines, ports=ports, protocol=protocol)
    if config.role == "server":
        server = ServerProcess(
            config,
            index=config.rank,
            address=config.address,
            start_timeout_s=start,
            settings=settings,
        )
        sys.exit(server.serve())
    if config.is_single:
        raise ConfigError(
            "nothing shows that this process is one of several; start `poseidon-tf probe` as the "
            "job's script is started, once for each worker, with TF_CONFIG or under its launcher"
        )
    member = join(config, arithmetic={}, deadlines=deadlines, ports=ports, settings=settings)
    try:
        found = Probe(member.worker).measure()
    except BaseException as failure:
        member.leave(f"{type(failure).__name__}: {failure}")
        raise
    if config.rank == 0:
        click.echo(json.dumps(as_json(found)) if is_json else as_text(found))
    member.leave()
