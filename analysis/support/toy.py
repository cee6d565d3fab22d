"""The arms of the toy study, which separate the effects of recursion, depth, parameters and operations."""

from __future__ import annotations

from dataclasses import replace

from analysis.support.study import Scale
from models.settings import TrainingSettings

PAIR = ("single", "looped")
NAMES = {
    "single": "Single-Attn",
    "looped": "Looped-Attn",
    "untied": "three untied layers",
    "untied-narrow": "three untied layers, as many parameters",
    "single-wide": "one wide layer, as many operations a step",
    "single-long": "Single-Attn, as many operations in all",
}


def toy_arms(scale: Scale) -> dict[str, TrainingSettings]:
    """The settings of every arm, at seed 0.

    A step of Looped-Attn takes 2.91 times the operations of a step of Single-Attn. Both models have 1,224 parameters.
    Three layers have 3,288 parameters at this width, 16, and 1,248 at width 6. One layer of width 32 with 4 heads has
    4,496 parameters.
    """
    epochs = scale.pick(200, 2)
    common = {"epochs": epochs, "steps_per_epoch": scale.pick(20, 4), "batch": scale.pick(64, 16)}

    def arm(model: str, **more: object) -> TrainingSettings:
        return TrainingSettings(model, **common | more)  # type: ignore[arg-type]

    every = {
        "single": arm("single"),
        "looped": arm("looped"),
        "untied": arm("untied"),
        "untied-narrow": arm("untied", width=6),
        "single-wide": arm("single", width=32, heads=4),
        "single-long": arm("single", epochs=round(2.91 * epochs)),
    }
    return {name: every[name] for name in ("single", "looped", "single-long")} if scale.quick else every


def pair(scale: Scale) -> dict[str, TrainingSettings]:
    """The settings of Single-Attn and Looped-Attn, for studies of whole spectra; few parameters at the quick scale."""
    every = toy_arms(scale)
    return {name: replace(every[name], width=2, heads=1) if scale.quick else every[name] for name in PAIR}
