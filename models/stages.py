"""The passes, their gain and the learning rate at any epoch of a run."""

from dataclasses import dataclass

from models.settings import SwitchSettings, TrainingSettings


@dataclass(frozen=True)
class Stage:
    """The passes, their gain and the learning rate of an epoch.

    Attributes:
        loops: Number of passes.
        gain: Gain of each pass after the first.
        rate: Learning rate as a fraction of the setting.
    """

    loops: int
    gain: float = 1.0
    rate: float = 1.0


def stage_at(settings: TrainingSettings, loops: int, epoch: int, switched: int | None) -> Stage:
    """The stage of an epoch.

    Args:
        settings: settings of the run.
        loops: number of the model's passes at the end of the run.
        epoch: number of the epoch, from 0.
        switched: number of epochs before the switch, which is also the number of the first epoch after it. None if
            there was no switch yet.
    """
    if settings.switch is None:
        return Stage(loops)
    if switched is None or epoch < switched:
        return Stage(1)
    return _softened(settings.switch, loops, epoch - switched)


def _softened(switch: SwitchSettings, loops: int, passed: int) -> Stage:
    """The stage ``passed`` epochs after the switch; the softening already begins in the first epoch, number 0."""
    share = min(1.0, (passed + 1) / (switch.soften_epochs + 1))
    match switch.soften:
        case "loops":
            return Stage(min(loops, 2 + passed * (loops - 2) // switch.soften_epochs))
        case "gain":
            return Stage(loops, gain=share)
        case "rate":
            return Stage(loops, rate=share)
        case "none":
            return Stage(loops)
