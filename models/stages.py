"""The passes, their gain and the learning rate at any epoch of a run."""

from dataclasses import dataclass

from models.settings import SwitchSettings, TrainingSettings


@dataclass(frozen=True)
class Stage:
    """What an epoch is trained with.

    Attributes:
        loops: How often the layer is applied.
        gain: How far each pass after the first goes.
        rate: The learning rate as a share of the setting.
    """

    loops: int
    gain: float = 1.0
    rate: float = 1.0


def stage_at(settings: TrainingSettings, loops: int, epoch: int, switched: int | None) -> Stage:
    """The stage of an epoch.

    Args:
        settings: of the run.
        loops: of its model in the end.
        epoch: counted from 0.
        switched: the number of epochs before the switch, so that this is the first of the second stage; None as long
            as there was none.
    """
    if settings.switch is None:
        return Stage(loops)
    if switched is None or epoch < switched:
        return Stage(1)
    return _softened(settings.switch, loops, epoch - switched)


def _softened(switch: SwitchSettings, loops: int, passed: int) -> Stage:
    """The stage some epochs after the switch; the first of them is already a part of the way."""
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
