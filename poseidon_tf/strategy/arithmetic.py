"""What the bits of a matrix product depend on besides its operands.

Every worker rebuilds a dense kernel's gradient for itself, so all must get the same bits. Tried
on CPUs: another instruction set, oneDNN on or off, or another number of threads changes them.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

# The extensions that TensorFlow's and oneDNN's kernels choose between.
_EXTENSIONS = ("avx", "avx2", "fma", "avx512", "avx_vnni", "amx", "asimd", "sve", "bf16")


def arithmetic_facts(device: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Facts to compare between workers; where one differs, rebuilt products may differ too.

    Args:
      device: that the replica runs on.
      environ: TensorFlow's settings in the environment.
    """
    threads = (
        tf.config.threading.get_intra_op_parallelism_threads()
        or int(environ.get("TF_NUM_INTRAOP_THREADS") or 0)
        or _num_usable_cpus()
    )
    return {
        "TensorFlow version": tf.__version__,
        "device kind": _device_kind(device),
        "instruction set": _instruction_set(),
        "TF_ENABLE_ONEDNN_OPTS": environ.get("TF_ENABLE_ONEDNN_OPTS", "unset"),
        "number of intra-op threads": threads,
    }


def _num_usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _device_kind(device: str) -> str:
    kind = tf.DeviceSpec.from_string(device).device_type or "CPU"
    for physical in tf.config.list_physical_devices(kind):
        details = tf.config.experimental.get_device_details(physical)
        return f"{kind} {details.get('device_name', '')}".strip()
    return kind


def _instruction_set() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return f"{platform.machine()} {platform.processor()}"
    for line in cpuinfo.read_text().splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            known = [f for f in flags.split() if any(e in f for e in _EXTENSIONS)]
            return f"{platform.machine()} {' '.join(sorted(known))}"
    return platform.machine()
