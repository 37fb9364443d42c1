"""A task of a Slurm step, as `srun` starts it."""

from __future__ import annotations

import re
from dataclasses import replace

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.sources.told import Level, Process, Told, parsed_address, rank_and_size

# From here on the numbers of steps are those of batch scripts, interactive shells and the like.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0
# A name up to the first comma that is not within brackets; and a group of numbers within.
_FIRST_NAME = re.compile(r"(?:[^,\[\]]|\[[^\[\]]*\])+")
_NUMBERS = re.compile(r"\[(\w+)[^\[\]]*\]")


def slurm(process: Process) -> Told | None:
    """The step's tasks. A batch script and the shell of `salloc` are none: they are alone."""
    step = process.text("SLURM_STEP_ID")
    nodes = process.text("SLURM_STEP_NODELIST")
    if not step and not nodes:
        return None
    if step.isdigit() and int(step) >= _FIRST_SPECIAL_STEP:
        return None
    size_name = "SLURM_STEP_NUM_TASKS" if process.text("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
    found = rank_and_size(process, "SLURM_PROCID", size_name)
    if found is None:
        return None
    name = f"{process.text('SLURM_JOB_ID') or '?'}.{step or '0'}"
    first, node = None, ""
    if nodes and found[1] > 1:
        node = first_node(nodes)
        first = parsed_address("SLURM_STEP_NODELIST", node, port=process.port(f"slurm {name}"))
    config = ClusterConfig.ranked(*found, first, source=f"Slurm step {name}")
    return Told(
        config=replace(config, node=node),
        level=Level.SCHEDULER,
        unknown="SLURM_STEP_NODELIST is not set",
    )


def first_node(nodes: str) -> str:
    """The first of Slurm's list, which is the node of rank 0.

    Libraries that expand such lists sort them (ClusterShell), which is another order where the
    user has arranged the tasks, or are under the GPL (python-hostlist).

    Raises:
      ConfigError: it is no such list.

    >>> first_node("rack[2-3]n[07,01-04]-ib,login1")
    'rack2n07-ib'
    """
    match = _FIRST_NAME.match(nodes)
    name = _NUMBERS.sub(r"\1", match.group()) if match else ""
    if not match or "[" in name or nodes[match.end() :][:1] not in ("", ","):
        raise ConfigError(
            f"SLURM_STEP_NODELIST must be a list of nodes such as 'node[01-16]', got {nodes!r}"
        )
    return name
