"""Rank and size that somebody gives for this job: in variables of ours, of Keras's or of JAX's."""

from __future__ import annotations

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.sources.told import Level, Process, Told, parsed_address, rank_and_size

COORDINATOR = "POSEIDON_COORDINATOR"


def poseidon(process: Process) -> Told | None:
    """`POSEIDON_RANK` and `POSEIDON_WORLD_SIZE`; `POSEIDON_COORDINATOR` holds for every source."""
    found = rank_and_size(process, "POSEIDON_RANK", "POSEIDON_WORLD_SIZE")
    if found is None:
        return None
    return Told(
        config=ClusterConfig.ranked(*found, None, source="POSEIDON_RANK and POSEIDON_WORLD_SIZE"),
        level=Level.STATED,
        unknown=f"{COORDINATOR} is not set",
    )


def keras(process: Process) -> Told | None:
    """What `keras.distribution.initialize` reads: everybody's address, or rank 0's alone."""
    name = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
    found = rank_and_size(
        process, "KERAS_DISTRIBUTION_PROCESS_ID", "KERAS_DISTRIBUTION_NUM_PROCESSES"
    )
    if found is None:
        return None
    rank, size = found
    source = "KERAS_DISTRIBUTION_PROCESS_ID and _NUM_PROCESSES"
    texts = [text.strip() for text in process.text(name).split(",") if text.strip()]
    if size == 1 or not texts:
        config = ClusterConfig.ranked(rank, size, None, source=source)
    elif len(texts) == 1:
        first = parsed_address(name, texts[0], port=process.port(name))
        config = ClusterConfig.ranked(rank, size, first, source=source)
    elif len(texts) == size:
        addresses = [str(parsed_address(name, text)) for text in texts]
        config = ClusterConfig(workers=tuple(addresses), rank=rank, source=source)
    else:
        raise ConfigError(
            f"{name} must list 1 address, rank 0's, or {size}, one per process, got {len(texts)}: "
            f"{', '.join(texts)}"
        )
    return Told(config=config, level=Level.STATED, unknown=f"{name} is not set")


def jax(process: Process) -> Told | None:
    """What `jax.distributed.initialize` reads; Kubeflow Trainer's runtime for JAX sets it."""
    name = "JAX_COORDINATOR_ADDRESS"
    found = rank_and_size(process, "JAX_PROCESS_ID", "JAX_NUM_PROCESSES")
    if found is None:
        return None
    first = process.address(name, job=name) if process.text(name) else None
    return Told(
        config=ClusterConfig.ranked(*found, first, source="JAX_PROCESS_ID and JAX_NUM_PROCESSES"),
        level=Level.STATED,
        unknown=f"{name} is not set",
    )
