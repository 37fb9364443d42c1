"""Memory of a training process, and of the server that it started, while it trains."""

from __future__ import annotations

from typing import Any

import keras
import psutil

KINDS = ("rss", "uss", "pss")


class MemorySamples(keras.callbacks.Callback):
    """Takes the memory of this process and of the server that it started, every so many steps."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.samples: list[dict[str, Any]] = []
        self._every = every

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (batch + 1) % self._every == 0:
            own = psutil.Process()
            sample: dict[str, Any] = {"step": batch + 1, "worker": in_mb(own)}
            for child in own.children():
                sample["server"] = in_mb(child)
            self.samples.append(sample)


def in_mb(process: psutil.Process) -> dict[str, float]:
    """Memory of a process: all that it maps, its own alone, its part of what is shared."""
    memory = process.memory_full_info()
    return {kind: getattr(memory, kind) / 1e6 for kind in KINDS}
