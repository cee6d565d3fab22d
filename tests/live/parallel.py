"""A training in one process or, by torchrun, in several under DistributedDataParallel; a script for a test."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import landscape

INSTRUMENTS = ("loss", "top_eigenvalues", "stability", "critical_sharpness", "noise_scale", "crossings")
STEPS, BATCH = 12, 16


def train(folder: Path, watched: bool) -> None:
    """Train on the process's own half of each batch, and save its losses and weights, and the record."""
    several = distributed.is_initialized()
    rank, size = (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
    torch.manual_seed(0)
    inputs = torch.randn(96, 5, dtype=torch.float64)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    plain = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    model = DistributedDataParallel(plain) if several else plain
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
    watch = None
    if watched:
        watch = landscape.watch(
            model, nn.CrossEntropyLoss(), [(inputs[:32], targets[:32])], optimizer=optimizer, on_error="raise",
            record=folder / f"run-{size}.h5", instruments=[landscape.live.every(2, name) for name in INSTRUMENTS],
        )  # fmt: skip
    losses = []
    for step in range(STEPS):
        places = torch.randint(96, (BATCH,))[rank * BATCH // size : (rank + 1) * BATCH // size]
        loss = nn.functional.cross_entropy(model(inputs[places]), targets[places])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if watch is not None:
            watch.step(step, loss=loss, batch=inputs[places])
    if watch is not None:
        watch.close()
    torch.save({"losses": losses, "model": plain.state_dict()}, folder / f"{size}-{rank}-{watched}.pt")


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    for each in (False, True):
        train(Path(sys.argv[1]), each)
    distributed.destroy_process_group()
