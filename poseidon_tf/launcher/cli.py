"""The ``poseidon-tf`` command: arguments in, one call, an exit code out.

Every command imports what it needs in its body, so that ``--help`` is quick and ``plan`` never
starts a process. Exit codes: 2 where the user can mend it, 1 for every other known failure.
"""

import sys
from typing import Any

import click

from poseidon_tf.errors import ConfigError, PlanError, PoseidonError
from poseidon_tf.launcher.option_values import worker_range
from poseidon_tf.launcher.plan_command import plan
from poseidon_tf.launcher.probe_command import probe
from poseidon_tf.launcher.status_command import status


class _Commands(click.Group):
    """Shows the package's own errors as one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PoseidonError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2 if isinstance(error, (ConfigError, PlanError)) else 1)


def _print_version(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if not is_asked or ctx.resilient_parsing:
        return
    from importlib import metadata

    try:
        version = metadata.version("poseidon-tf")
    except metadata.PackageNotFoundError:
        version = "(not installed: run from its source)"
    click.echo(f"poseidon-tf {version}")
    ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Multi-worker training for TensorFlow: parameter server and sufficient factors."""


# Options end where the script begins: all that follows it is the script's own.
@main.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--workers",
    required=True,
    metavar="N|MIN:MAX",
    callback=worker_range,
    help="Workers to start on this machine. MIN:MAX starts MAX, and after a failure as many fewer "
    "as were lost, but never under MIN.",
)
@click.option(
    "--servers",
    type=click.IntRange(min=1),
    help="Dedicated servers to start. Without it every worker brings its own.",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="How often to start the whole job anew after a process has failed.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long workers may take to save when this command is asked to stop.",
)
@click.argument("script")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def run(
    workers: tuple[int, int],
    servers: int | None,
    max_restarts: int,
    grace: float,
    script: str,
    args: tuple[str, ...],
) -> None:
    """Run SCRIPT as a job on this machine, once per worker.

    Every process gets its TF_CONFIG, and every line that it prints is led by its role. When one
    fails all are ended; the exit code is that of the first that failed. On Ctrl-C or SIGTERM the
    workers get SIGTERM, on which `fit` saves and ends; the exit code is then 130 or 143.

    With --workers MIN:MAX the job is started anew with one worker fewer for each that was killed,
    as by SIGKILL. On SIGUSR1 to this command the workers save and end, and the job is started
    anew with MAX; that is no restart. A script goes on from its BackupAndRestore.
    """
    from poseidon_tf.launch.cluster_env import current_environ
    from poseidon_tf.launcher.local import run_local
    from poseidon_tf.launcher.supervisor import Patience

    least, most = workers
    if least < most and not max_restarts:
        raise click.UsageError(
            f"--workers {least}:{most} is for a job that is started anew; give --max-restarts, or "
            f"--workers {most}"
        )
    sys.exit(
        run_local(
            [script, *args],
            num_workers=most,
            min_workers=least,
            num_servers=servers,
            environ=current_environ(),
            patience=Patience(grace_s=grace),
            max_restarts=max_restarts,
        )
    )


@main.command()
@click.option(
    "--keepalive",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Silence after which a connection counts as broken; the workers' keepalive_s.",
)
@click.option(
    "--resume",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a broken connection may take to be made again, until everyone has arrived; "
    "then rank 0's resume_s counts.",
)
@click.option(
    "--ports",
    type=click.IntRange(1, 65535),
    nargs=2,
    metavar="FIRST LAST",
    help="Ports for the TCP connections of its tensors.  [default: the system's choice]",
)
def server(keepalive: float, resume: float, ports: tuple[int, int] | None) -> None:
    """Serve as the `ps` task that TF_CONFIG names, until the job ends."""
    from poseidon_tf.launch.server_main import main as serve

    sys.exit(serve(keepalive_s=keepalive, resume_s=resume, ports=ports))


@main.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
@click.option("--output", default="timeline.json", show_default=True, help="File to write.")
@click.option("--html", metavar="FILE", help="Write a report for a browser instead.")
@click.option(
    "--run",
    "at",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Which run of a job that was restarted, counted back from the last one.",
)
def timeline(directory: str, output: str, html: str | None, at: int) -> None:
    """Join the traces that a job left in DIRECTORY into one file that Perfetto opens.

    With --html they become a report: what a step looks like, who waited for whom, and the plan.
    """
    import json
    from pathlib import Path

    from poseidon_tf.errors import ConfigError
    from poseidon_tf.trace import runs

    paths = sorted(Path(directory).glob("*.trace.json"))
    if not paths:
        raise ConfigError(f"no *.trace.json in {directory!r}; give PoseidonStrategy a timeline_dir")
    found = runs(paths)
    if at > len(found):
        raise ConfigError(f"--run {at}: {directory!r} has the traces of {len(found)} run(s)")
    run = found[at - 1]
    if html is not None:
        from poseidon_tf.launcher.report.page import page
        from poseidon_tf.launcher.report.steps import read

        Path(html).write_text(page(read(run.merged()), found, at), encoding="utf-8")
        click.echo(f"{len(run.traces)} traces in {html}; open it in a browser")
    else:
        Path(output).write_text(json.dumps(run.merged()))
        click.echo(f"{len(run.traces)} traces in {output}; open it at ui.perfetto.dev")
    if len(found) > 1:
        click.echo(f"they are of run {at} of {len(found)}, counted back from the last; see --run")


main.add_command(plan)
main.add_command(probe)
main.add_command(status)
