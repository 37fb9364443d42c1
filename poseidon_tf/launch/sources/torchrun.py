"""PyTorch's variables: of torchrun, of Kubeflow's PyTorchJob and of Kubeflow Trainer.

Rank 0 never listens on the port that they name: torchrun's agent may do so.
"""

from __future__ import annotations

from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.sources.told import Level, Process, Told, parsed_address, rank_and_size
from poseidon_tf.transport.address import Address

_AGENT = "TORCHELASTIC_RUN_ID"  # Set by torchrun itself.


def torchrun(process: Process) -> Told | None:
    """`RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`."""
    found = rank_and_size(process, "RANK", "WORLD_SIZE")
    if found is None:
        return None
    agent = process.text(_AGENT)
    source = "torchrun (RANK, WORLD_SIZE)" if agent else "RANK and WORLD_SIZE"
    return Told(
        config=ClusterConfig.ranked(*found, _first(process, "", agent), source=source),
        level=Level.AGENT,
        is_inner=bool(agent),
        unknown="MASTER_ADDR and MASTER_PORT must be set",
    )


def kubeflow_trainer(process: Process) -> Told | None:
    """`PET_NODE_RANK`, `PET_NNODES`, `PET_MASTER_ADDR` and `PET_MASTER_PORT`.

    They are the options of a torchrun on each node; within one they say nothing of this process.
    """
    if process.text(_AGENT):
        return None
    found = rank_and_size(process, "PET_NODE_RANK", "PET_NNODES")
    if found is None:
        return None
    source = "Kubeflow Trainer (PET_NODE_RANK, PET_NNODES)"
    return Told(
        config=ClusterConfig.ranked(*found, _first(process, "PET_"), source=source),
        level=Level.SCHEDULER,
        unknown="PET_MASTER_ADDR and PET_MASTER_PORT must be set",
    )


def _first(process: Process, prefix: str, run: str = "") -> Address | None:
    """Rank 0's host, and a port that follows from the one on which the job is coordinated."""
    host, port = f"{prefix}MASTER_ADDR", f"{prefix}MASTER_PORT"
    if not process.text(host) or not process.text(port):
        return None
    job = f"torchrun {process.number(port)} {run}"
    text = process.text(host)
    if text == "localhost" and not run and process.text("KUBERNETES_SERVICE_HOST"):
        # PyTorchJob tells rank 0 so, of itself; the others hear the name of its pod.
        text = process.text("HOSTNAME") or text
    return parsed_address(host, text, port=process.port(job))
