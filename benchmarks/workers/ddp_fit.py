"""Obeys `lab.peers`: times the steps of PyTorch's DistributedDataParallel over gloo.

Its options are the defaults.
"""

from __future__ import annotations

import functools
import json
import os
import time
from typing import Any

import numpy as np
import torch
from nets import LEARNING_RATE, NETS, random_batch, torch_net
from protocol import obey

CONFIG = json.loads(os.environ["TF_CONFIG"])
RANK = CONFIG["task"]["index"]
WORKERS = CONFIG["cluster"]["worker"]


def versions() -> dict[str, str]:
    """What `train` runs on."""
    return {"torch": torch.__version__}


@functools.cache
def model_of(net: str) -> tuple[Any, Any]:
    """The model and its optimizer, built once."""
    model = torch.nn.parallel.DistributedDataParallel(torch_net(torch, net))
    return model, torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)


def train(net: str, rows: int, warm_up: int, steps: int) -> dict[str, Any]:
    """Seconds from the end of one step to that of the next, of `steps` after `warm_up`."""
    model, optimizer = model_of(net)
    inputs, labels = random_batch(NETS[net], rows=rows, rank=RANK)
    if inputs.ndim == 4:
        inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    batch, labels = torch.from_numpy(inputs), torch.from_numpy(labels)
    ends = []
    for _ in range(warm_up + steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()
        ends.append(time.perf_counter())
    seconds = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    return {"seconds": seconds[-steps:]}


torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"tcp://{WORKERS[0]}", rank=RANK, world_size=len(WORKERS)
)
obey({"versions": versions, "train": train})
torch.distributed.destroy_process_group()
