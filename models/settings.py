"""The settings of a training run, and its folder. This module doesn't import torch, so --help is instant."""

import json
import math
import os
import re
from dataclasses import KW_ONLY, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from landscape.errors import InputError
from models.criteria import AtEpoch

if TYPE_CHECKING:
    from landscape.dynamics.plateau import Plateau

ModelName = Literal["single", "looped", "untied", "gpt-single", "gpt", "gpt-untied"]
TaskName = Literal["markov", "second-order", "parity", "copy", "addition", "binary-sum", "multiplication", "unique-set"]
CriterionName = Literal["shift", "loss", "gradient", "curvature", "epoch"]
Softening = Literal["none", "loops", "gain", "rate"]
SETTINGS_FILE = "settings.json"

AFTER_SWITCH = 20
"""Number of epochs after a switch that have a checkpoint each, so that the cost of the switch can be measured."""


@dataclass(frozen=True)
class SwitchSettings:
    """The switch of training from one pass to all ``loops`` passes, by SHIFT or by another criterion.

    Attributes:
        criterion: Quantities that must stay calm before the switch: ``shift``, loss and gradient norm; ``loss``;
            ``gradient``, the gradient norm; ``curvature``, the Hessian's largest eigenvalue; or ``epoch``, none: the
            switch is after the epoch ``latest``.
        patience: Number of epochs in a row for which these quantities must stay calm.
        delta_loss: Change of the epoch's mean loss below which the loss is calm; none estimates it from the noise.
        delta_grad: Change of the full gradient's norm on the fixed subset below which the norm is calm; none estimates
            it from the noise.
        latest: Epoch after which the switch is made at the latest; none sets no limit.
        soften: How the switch is softened: ``none`` switches abruptly, ``loops`` adds one pass after another, ``gain``
            raises the gain of the added passes step by step, and ``rate`` warms the learning rate up again.
        soften_epochs: Number of epochs of the softening.
        keep_moments: Whether the optimiser keeps its moments at the switch or starts with none.
        subset: Number of sequences in the fixed subset on which gradient and curvature are measured once an epoch.
    """

    criterion: CriterionName = "shift"
    patience: int = 10
    delta_loss: float | None = None
    delta_grad: float | None = None
    latest: int | None = None
    soften: Softening = "none"
    soften_epochs: int = 10
    keep_moments: bool = True
    subset: int = 256

    def check(self) -> None:
        """Refuse settings that describe no switch.

        Raises:
            InputError: If a number is out of range, the criterion ``epoch`` has no ``latest`` epoch, or there is a
                threshold for a number that the criterion doesn't watch.
        """
        self.criterion_object()
        if min(self.soften_epochs, self.subset, 1 if self.latest is None else self.latest) < 1:
            raise InputError(
                "a switch needs at least 1 epoch of softening, 1 sequence and, if given, 1 as latest epoch"
            )
        if self.criterion == "epoch" and self.latest is None:
            raise InputError("the criterion epoch needs one: give --switch.latest")
        for name, watching in (("delta_loss", ("shift", "loss")), ("delta_grad", ("shift", "gradient"))):
            if getattr(self, name) is not None and self.criterion not in watching:
                raise InputError(
                    f"the criterion {self.criterion} has no {name}: leave it out, or choose {' or '.join(watching)}"
                )

    def criterion_object(self) -> "Plateau | AtEpoch":
        """Return a new criterion, which has seen no epoch yet.

        Raises:
            InputError: If patience or thresholds are out of range.
        """
        from landscape.dynamics.plateau import Plateau, ShiftCriterion

        match self.criterion:
            case "shift":
                return ShiftCriterion(self.delta_loss, self.delta_grad, self.patience)
            case "loss":
                return Plateau({"loss": self.delta_loss}, self.patience)
            case "gradient":
                return Plateau({"grad_norm": self.delta_grad}, self.patience)
            case "curvature":
                return Plateau({"top_eigenvalue": None}, self.patience)
            case "epoch":
                return AtEpoch(self.latest or 1)


@dataclass(frozen=True)
class TrainingSettings:
    """All settings that determine a run's numbers. A size that isn't given is the model's own default.

    Attributes:
        model: Model to train.
        task: Task to train it on.
        seed: Determines the initial weights and the data of every step; equal seeds pair the runs of two models.
        epochs: Number of epochs.
        steps_per_epoch: Optimiser steps in an epoch.
        batch: Number of fresh sequences in a step.
        learning_rate: Learning rate of Adam.
        warmup: Number of steps over which the learning rate rises from 1 / (warmup + 1) of its value.
        cooldown: Number of steps at the end over which the learning rate falls linearly to 2 / (cooldown + 1) of its
            value.
        width: Width of the embedding.
        heads: Number of attention heads.
        loops: How often the layer is applied.
        layers: Number of layers with weights of their own.
        injection: Whether each pass after the first sees the embedding again.
        positions: Kind of positions of the gpt models.
        attention: Kind of attention.
        layer_norm: Whether a layer normalises its input.
        mlp: Hidden width of the perceptron after the attention, 0 for none.
        switch: The switch from one pass to ``loops`` passes; none trains with ``loops`` passes throughout.
    """

    model: ModelName
    _: KW_ONLY
    task: TaskName = "markov"
    seed: int = 0
    epochs: int = 200
    steps_per_epoch: int = 20
    batch: int = 64
    learning_rate: float = 3e-3
    warmup: int = 0
    cooldown: int = 0
    width: int | None = None
    heads: int | None = None
    loops: int | None = None
    layers: int | None = None
    injection: bool | None = None
    positions: Literal["learned", "none"] | None = None
    attention: Literal["softmax", "linear"] | None = None
    layer_norm: bool | None = None
    mlp: int | None = None
    switch: SwitchSettings | None = None

    def check(self) -> None:
        """Refuse settings that describe no run.

        Raises:
            InputError: If a number is out of range.
        """
        if min(self.epochs, self.steps_per_epoch, self.batch) < 1 or not 0 <= self.seed < 2**63:
            raise InputError(
                "a run needs at least 1 epoch, 1 step per epoch and 1 sequence per batch, and a seed from 0 to "
                "2^63 - 1; correct these options"
            )
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"the learning rate is {self.learning_rate}; give a number above 0")
        if min(self.warmup, self.cooldown) < 0:
            raise InputError(
                f"the learning rate can't rise over {self.warmup} steps and fall over {self.cooldown}; give 0 or more"
            )
        if self.switch is not None:
            self.switch.check()

    def sizes(self) -> dict[str, Any]:
        """Return the sizes of the model that were given, by name."""
        names = (
            "width", "heads", "loops", "layers", "injection", "positions", "attention", "layer_norm", "mlp",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def checkpoint_steps(self) -> list[int]:
        """Return the steps after which a checkpoint is written, in order.

        There is a checkpoint before the first step. In the first epoch, where the weights change fastest, there is one
        after every step that is a power of two. Then there is one after each of the first ten epochs, after every tenth
        epoch, and after the last step. A switch adds checkpoints that aren't listed here.
        """
        last = self.epochs * self.steps_per_epoch
        powers = {2**k for k in range(self.steps_per_epoch.bit_length())}
        epochs = {*range(11), *range(20, self.epochs + 1, 10)}
        steps = powers | {epoch * self.steps_per_epoch for epoch in epochs}
        return sorted({step for step in steps if step < last} | {last})


def claim(folder: Path, settings: TrainingSettings, sizes: dict[str, Any]) -> None:
    """Write the settings into the run's folder, or check that the folder holds a run with these settings.

    Args:
        folder: Folder of the run's checkpoints.
        settings: Settings of the run.
        sizes: All sizes of the run's model, so that a later change of a default is noticed.

    Raises:
        InputError: If the folder holds a run with other settings, or checkpoints of unknown settings.
    """
    wanted = {**asdict(settings), **sizes}
    file = folder / SETTINGS_FILE
    if file.exists():
        _compare(folder, _stored(file), wanted)
        return
    if checkpoints_of(folder):
        raise InputError(f"{folder} holds checkpoints but no {SETTINGS_FILE}; choose another --out")
    replace_text(file, json.dumps(wanted, indent=2) + "\n")


def settings_of(folder: Path) -> TrainingSettings:
    """Return the settings of the run in a folder.

    Raises:
        InputError: If the folder holds no readable settings.
    """
    file = folder / SETTINGS_FILE
    stored = _stored(file)
    known = {each.name: stored[each.name] for each in fields(TrainingSettings) if each.name in stored}
    switch = known.get("switch")
    try:
        return TrainingSettings(**known | {"switch": None if switch is None else SwitchSettings(**switch)})
    except TypeError as error:
        raise InputError(_unreadable(file)) from error


def _stored(file: Path) -> dict[str, Any]:
    try:
        stored = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(_unreadable(file)) from error
    if not isinstance(stored, dict):
        raise InputError(_unreadable(file))
    return stored


def _unreadable(file: Path) -> str:
    return f"{file} can't be read as a run's settings: name a checkpoint in its run's folder, or choose another --out"


def replace_text(path: Path, text: str) -> None:
    """Replace a whole file; an interrupt leaves either the old file or the new one. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _compare(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a folder with other settings, and name the settings that differ."""
    # An old file lacks settings that were added later. Such a setting has the value of its default.
    found = {each.name: each.default for each in fields(TrainingSettings)} | found
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if names:
        theirs, ours = (", ".join(f"{name}={side.get(name)}" for name in names) for side in (found, wanted))
        raise InputError(f"{folder} holds a run with {theirs}, not {ours}; choose another --out or the same settings")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the file of one step; the step is zero-padded, so that the order of names is the order of steps."""
    return folder / f"step-{step:06d}.pt"


def newest_checkpoint(folder: Path, every: int = 1) -> Path | None:
    """Return the last checkpoint of a run whose step is a multiple of ``every``, or None if there is none."""
    found = [path for path in checkpoints_of(folder) if step_of(path) % every == 0]
    return found[-1] if found else None


def checkpoints_of(folder: Path) -> list[Path]:
    """Return the checkpoints of a run in the order of their steps."""
    found = (path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d+", path.stem))
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the step in a checkpoint's name."""
    return int(checkpoint.stem.removeprefix("step-"))
