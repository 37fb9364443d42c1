"""The hosts of a training job on SageMaker, one process each."""

from __future__ import annotations

import json

from poseidon_tf.errors import ConfigError
from poseidon_tf.launch.cluster import ClusterConfig
from poseidon_tf.launch.sources.told import Level, Process, Told, incomplete, parsed_address


def sagemaker(process: Process) -> Told | None:
    """`SM_HOSTS` and `SM_CURRENT_HOST`."""
    text, current = process.text("SM_HOSTS"), process.text("SM_CURRENT_HOST")
    if not text and not current:
        return None
    if not current:
        raise incomplete(process, "SM_HOSTS", "SM_CURRENT_HOST")
    if not text:
        raise incomplete(process, "SM_CURRENT_HOST", "SM_HOSTS")
    try:
        hosts = json.loads(text)
    except ValueError:
        hosts = None
    if not isinstance(hosts, list) or not hosts or not all(isinstance(h, str) for h in hosts):
        raise ConfigError(
            f'SM_HOSTS must be a JSON list of hosts such as ["algo-1", "algo-2"], got {text!r}'
        )
    if hosts.count(current) != 1:
        raise ConfigError(
            f"SM_CURRENT_HOST must be one of the hosts in SM_HOSTS={text}, got {current!r}"
        )
    first = parsed_address("SM_HOSTS", hosts[0], port=process.port("sagemaker"))
    return Told(
        config=ClusterConfig.ranked(
            hosts.index(current), len(hosts), first, source="SageMaker (SM_HOSTS)"
        ),
        level=Level.SCHEDULER,
    )
