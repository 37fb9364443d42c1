"""`poseidon-tf status`: how a job is doing, once or again and again."""

from __future__ import annotations

import contextlib
import json
import sys
import time

import click


@click.command()
@click.argument("address")
@click.option("--once", is_flag=True, help="Show it once and exit.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON, one line each time.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time from one look to the next.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long an answer may take.",
)
def status(address: str, once: bool, is_json: bool, interval: float, timeout: float) -> None:
    """Show how the job is doing whose worker rank 0 is at ADDRESS (host:port).

    Token and certificates are taken from the environment, as the job's members take them. It ends
    with the job: with 0, or with 1 if the job has failed.
    """
    from rich.console import Console
    from rich.live import Live

    from poseidon_tf.coordinator.asking import StatusQuestion
    from poseidon_tf.errors import PeerLost, StartTimeout
    from poseidon_tf.launch.cluster_env import current_environ
    from poseidon_tf.launch.security_env import read_security
    from poseidon_tf.launcher.status_view import as_json, as_table
    from poseidon_tf.transport.connections import ConnectionSettings

    settings = ConnectionSettings(security=read_security(current_environ()))
    width = None if sys.stdout.isatty() else 200
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    with contextlib.ExitStack() as parts:
        parts.enter_context(contextlib.suppress(KeyboardInterrupt))
        question = StatusQuestion(address, settings)
        parts.callback(question.close)
        live = None
        seen = None
        while True:
            try:
                found = question.ask(timeout_s=timeout)
            except (PeerLost, StartTimeout):
                if seen is None:
                    raise
                click.echo(
                    "the coordinator is gone: the job is over, and how it ended is not known here",
                    err=True,
                )
                sys.exit(1)
            seen = found
            if is_json:
                click.echo(json.dumps(as_json(found)))
            elif live is not None:
                live.update(as_table(found), refresh=True)
            elif once or not console.is_terminal:
                console.print(as_table(found))
            else:
                live = parts.enter_context(
                    Live(as_table(found), console=console, auto_refresh=False)
                )
            if once or found.phase in ("failed", "ended"):
                break
            time.sleep(interval)
    if seen is not None and seen.failure:
        sys.exit(1)
