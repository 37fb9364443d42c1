"""All sources in their order, and which one counts where several say something.

Rule 1: no process that was started as one of several trains alone in silence.
Rule 2: what every member can be given alike comes before what launchers set by themselves.
Rule 3: of launchers that start each other the innermost counts, so it comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.sources.mpi import mvapich, open_mpi, pmi
from poseidon_tf.launch.sources.sagemaker import sagemaker
from poseidon_tf.launch.sources.slurm import slurm
from poseidon_tf.launch.sources.stated import COORDINATOR, jax, keras, poseidon
from poseidon_tf.launch.sources.tf_config import cluster_resolver, tf_config
from poseidon_tf.launch.sources.told import OR_ALONE, WHAT_TO_DO, Level, Process, Told
from poseidon_tf.launch.sources.torchrun import kubeflow_trainer, torchrun

_GIVEN: tuple[Callable[[Process], Told | None], ...] = (
    cluster_resolver,
    tf_config,
    poseidon,
    keras,
    jax,
)
_LAUNCHERS: tuple[Callable[[Process], Told | None], ...] = (
    torchrun,
    open_mpi,
    mvapich,
    kubeflow_trainer,
    slurm,
    sagemaker,
    pmi,
)
# Say that there are others, but not how many.
_SIGNS = (
    "PMIX_RANK",
    COORDINATOR,
    "KERAS_DISTRIBUTION_JOB_ADDRESSES",
    "JAX_COORDINATOR_ADDRESS",
)


def choose(process: Process) -> Told | None:
    """What counts; None where nothing says anything.

    Rank 0's address is empty in it where the process is one of several and no source has it.

    Raises:
      ConfigError: a source is incomplete or malformed, two contradict each other, or there is a
        sign of others and no source.
    """
    found = [told for read in _GIVEN if (told := read(process))]
    is_settled = bool(found) and found[0].level is Level.LISTED and not _is_lone_worker(found[0])
    if not is_settled:  # Else it counts, whatever launchers say.
        launched = [told for read in _LAUNCHERS if (told := read(process))]
        found += sorted(launched, key=lambda told: -told.level)
    if not found:
        _refuse_signs(process)
        return None
    first, *others = found
    for other in others:
        if not _may_differ(first, other) and _differ(first, other):
            raise ConfigError(
                f"{first.words}, but {other.words}; unset the one that is wrong, {OR_ALONE}"
            )
    return _with_coordinator(process, first)


def _is_lone_worker(told: Told) -> bool:
    return told.config.is_single and told.config.role == "worker"


def _differ(first: Told, other: Told) -> bool:
    return (first.config.role, first.config.rank, first.config.num_workers) != (
        other.config.role,
        other.config.rank,
        other.config.num_workers,
    )


def _may_differ(inner: Told, outer: Told) -> bool:
    """Whether a task of `outer` has started `inner`, a launcher whose job reaches all of them."""
    if outer.level.is_launcher and outer.config.num_workers == 1:
        return True  # A task of its own says nothing of others.
    if not outer.level.is_launcher or not inner.level.is_launcher or inner.level <= outer.level:
        return False
    more = inner.config.num_workers - outer.config.num_workers
    return more > 0 or (more == 0 and inner.is_inner)


def _refuse_signs(process: Process) -> None:
    seen = [f"{name}={process.text(name)}" for name in _SIGNS if process.text(name)]
    if seen:
        raise ConfigError(
            f"this process is one of several ({', '.join(seen)}), but nothing says which, and of "
            f"how many; {WHAT_TO_DO}"
        )


def _with_coordinator(process: Process, told: Told) -> Told:
    """Rank 0 is where `POSEIDON_COORDINATOR` says, whoever says the rest."""
    if told.config.is_single or told.config.role != "worker" or not process.text(COORDINATOR):
        return told
    address = str(process.address(COORDINATOR))
    known = told.config.coordinator_address
    if told.level is Level.LISTED and address != known:
        raise ConfigError(
            f"{told.config.source} lists rank 0 at {known}, but {COORDINATOR} is {address}; unset "
            "the one that is wrong"
        )
    return replace(told, config=told.config.with_worker(0, address))
