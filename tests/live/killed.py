"""A watched training with checkpoints, which goes on from its newest checkpoint; a script for tests."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

import landscape

INSTRUMENTS = ("loss", "top_eigenvalues", "critical_sharpness", "crossings")
STEPS, EVERY = 400, 15


def train(folder: Path) -> None:
    """Train to the end, from the newest checkpoint if there is one."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 5)
    targets = inputs.sin().sum(1, keepdim=True)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    watch = landscape.watch(
        model, nn.MSELoss(), [(inputs[:32], targets[:32])], optimizer=optimizer, record=folder / "run.h5", budget=20.0,
        instruments=INSTRUMENTS, on_error="raise",
    )  # fmt: skip
    checkpoint, start = folder / "training.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        watch.load_state_dict(saved["watch"])
        start = saved["step"]
    else:
        watch.resume(0)  # a run that was ended before its first checkpoint may have made rows
    print(f"begins at {start}", flush=True)
    for step in range(start, STEPS):
        if step % EVERY == 0 and step > start:
            states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "watch": watch.state_dict()}
            torch.save({**states, "rng": torch.get_rng_state(), "step": step}, folder / "training.tmp")
            (folder / "training.tmp").replace(checkpoint)
        places = torch.randint(64, (16,))
        loss = nn.functional.mse_loss(model(inputs[places]), targets[places])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watch.step(step, loss=loss, batch=inputs[places])
    watch.close()


if __name__ == "__main__":
    train(Path(sys.argv[1]))
