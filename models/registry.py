"""The models under study, by name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from landscape.errors import InputError
from models.attention import AttentionModel
from models.gpt import LoopedGPT


@dataclass(frozen=True)
class Architecture:
    """A model class, and the sizes of a named model that differ from the class's defaults."""

    build: Callable[..., nn.Module]
    own: dict[str, Any] = field(default_factory=dict)


MODELS = {
    "single": Architecture(AttentionModel, {"loops": 1}),
    "looped": Architecture(AttentionModel, {"loops": 3}),
    "untied": Architecture(AttentionModel, {"layers": 3}),
    "gpt-single": Architecture(LoopedGPT, {"loops": 1}),
    "gpt": Architecture(LoopedGPT),
    "gpt-untied": Architecture(LoopedGPT, {"loops": 1, "layers": 3}),
}


def complete_sizes(name: str, **sizes: Any) -> dict[str, Any]:
    """Return every size of a named model: as given, else of the named model, else the default of its class.

    Raises:
        InputError: If there is no such model or it has no such size.
    """
    if name not in MODELS:
        raise InputError(f"there is no model {name!r}; choose one of {', '.join(MODELS)}")
    parameters = inspect.signature(MODELS[name].build).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters if parameter.name != "vocabulary"}
    unknown = sorted(sizes.keys() - defaults.keys())
    if unknown:
        raise InputError(f"the model {name} has no {', '.join(unknown)}; its sizes are {', '.join(defaults)}")
    return {**defaults, **MODELS[name].own, **sizes}


def build_model(name: str, vocabulary: int, **sizes: Any) -> nn.Module:
    """Make a named model with fresh weights from torch's global random state.

    Raises:
        InputError: If there is no such model or a size is wrong.
    """
    complete = complete_sizes(name, **sizes)
    return MODELS[name].build(vocabulary, **complete)
