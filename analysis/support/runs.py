"""The training runs of studies: each arm of a comparison is trained once for every seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.support.units import Unit
from models.settings import TrainingSettings, checkpoints_of, settings_of, step_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from landscape import Problem


def run_folder(runs: Path, arm: str, settings: TrainingSettings) -> Path:
    """The folder of a run, named by task, arm, seed and a digest of all settings, which distinguishes settings."""
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
    return runs / f"{settings.task}-{arm}-{settings.seed}-{digest}"


def training_units(runs: Path, arms: dict[str, TrainingSettings], seeds: int, prefix: str = "") -> list[Unit]:
    """Units that train all arms with all seeds by `train_run`, named by the prefix, arm and seed.

    Runs with equal seeds see equal data. They start at equal weights if their models have equal parameters.
    """
    return [
        Unit(
            f"train-{prefix}{arm}-{seed}",
            train_run,
            {"arm": arm, "settings": replace(settings, seed=seed), "runs": str(runs)},
        )
        for seed in range(seeds)
        for arm, settings in arms.items()
    ]


def train_run(arm: str, settings: TrainingSettings, runs: str) -> dict[str, Any]:
    """Train a run, unless it is already trained.

    Returns:
        A dictionary with these entries:

        - ``folder``: folder of the run;
        - ``steps`` and ``metrics``: the step and the metrics of each checkpoint, one list for each metric;
        - ``loss``, ``loops``, ``flops`` and ``seconds`` (of processor time): lists with a number for each epoch;
        - ``switched``: number of epochs before the switch; None without a switch;
        - ``gradient_norms``: a list of the epochs' gradient norms, of the epochs in which a criterion measured them.
    """
    from filelock import FileLock

    from landscape.checkpoint import read_checkpoint
    from models.journal import read_journal
    from models.training import train

    folder = run_folder(Path(runs), arm, settings)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # two studies may want the same run
        train(settings, folder)
    checkpoints = checkpoints_of(folder)
    measured = [read_checkpoint(path).metrics for path in checkpoints]
    names = sorted({name for each in measured for name in each})
    journal = read_journal(folder)
    return {
        "folder": str(folder),
        "steps": [step_of(path) for path in checkpoints],
        "metrics": {name: [each.get(name) for each in measured] for name in names},
        **{name: [entry[name] for entry in journal] for name in ("loss", "loops", "flops", "seconds")},
        "switched": journal[-1]["switched"],
        "gradient_norms": [entry["grad_norm"] for entry in journal if "grad_norm" in entry],
    }


def measuring_units(
    runs: Path, arms: dict[str, TrainingSettings], seeds: int, kind: str, work: Callable[..., Any], **more: Any
) -> list[Unit]:
    """Units that measure the runs of all arms and seeds by ``work(folder, **more)``, named by kind, arm and seed."""
    return [
        Unit(f"{kind}-{arm}-{seed}", work, {"folder": str(run_folder(runs, arm, replace(settings, seed=seed))), **more})
        for seed in range(seeds)
        for arm, settings in arms.items()
    ]


def model_at(checkpoint: Path) -> nn.Module:
    """The model of a checkpoint of `models.train`, with its weights."""
    from landscape.checkpoint import read_checkpoint
    from models.registry import build_model, complete_sizes
    from models.tasks import TASKS

    found, settings = read_checkpoint(checkpoint), settings_of(checkpoint.parent)
    sizes = {name: found.arguments[name] for name in complete_sizes(settings.model)}
    model = build_model(settings.model, TASKS[settings.task].vocabulary, **sizes)
    model.load_state_dict(found.state)
    return model


def vectors_after(checkpoint: Path, problem: Problem, steps: int) -> Tensor:
    """The flat parameter vectors (steps + 1, n) of a checkpoint and of the next steps of its run, bit for bit.

    Args:
        checkpoint: checkpoint of a run. In a staged run it must be at the end of an epoch.
        problem: problem at the checkpoint; the vectors have its layout and precision.
        steps: number of steps after the checkpoint.
    """
    import torch

    from models.training import TrainingRun

    run = TrainingRun.begin(settings_of(checkpoint.parent))
    run.load(checkpoint)
    found = []
    for step in range(steps + 1):
        found.append(problem.layout.flatten(dict(run.model.named_parameters())).detach().to(problem.vector))
        if step < steps:
            run.advance()
    return torch.stack(found)
