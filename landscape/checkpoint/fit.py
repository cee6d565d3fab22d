"""Fits the tensors of a file to the names, shapes and ties of a model."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.reporting.messages import listed

# What DistributedDataParallel, torch.compile and Lightning put before every name; more of them is no wrapping.
_WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|model)\.){0,8}")
_MOST_RUNS = 50  # of wrappers; each is tried on every name


def fit_state(state: Mapping[str, Tensor], model: nn.Module, where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of ``state`` under the model's own names.

    The wrapper prefixes ``module.``, ``_orig_mod.`` and ``model.`` are removed, or added where the model has them and
    the file does not, in the one way that leaves the fewest missing and unexpected names; names that fit stay as they
    are. A name that the model ties to another is filled from the other. BatchNorm's ``num_batches_tracked``, which
    old files lack, is kept as the model has it. Nothing is cast, and the model is not changed.

    Args:
        state: Tensors by name, as in a checkpoint.
        model: The model to fit them to.
        where: What to call the file in messages.

    Returns:
        One tensor for each name in ``model.state_dict()``, in its order (tied names share one tensor), and a note on
        each thing that was done.

    Raises:
        InputError: Names are missing or unexpected, shapes or kinds of number differ, tied names have different
            values, a parameter has a NaN or an infinity in it, or a buffer a NaN.
    """
    expected = _expected(model, where)
    ties = _ties(expected)
    renamed, rename_notes = fitting_names(state, expected)
    named = {new: state[old] for old, new in renamed.items()}
    fitted = {name: named[name] for name in expected if name in named}
    fill_notes = _fill_ties(fitted, ties) + _fill_counters(fitted, expected)
    missing = [name for name in expected if name not in fitted]
    _check_names(missing, [name for name in named if name not in expected], where)
    _check_shapes(fitted, expected, where)
    _check_kinds(fitted, expected, where)
    _check_finite(fitted, dict(model.named_parameters()), where)
    _check_ties(fitted, ties, where)
    kept = {name: names[0] for names in ties for name in names}
    return {name: fitted[kept.get(name, name)] for name in expected}, rename_notes + fill_notes


def _expected(model: nn.Module, where: str) -> dict[str, Tensor]:
    entries = model.state_dict(keep_vars=True)  # the parameters themselves, so that ties can be seen
    lazy = [
        name for name, value in entries.items() if isinstance(value, nn.UninitializedParameter | nn.UninitializedBuffer)
    ]
    if lazy:
        raise InputError(f"{where}: the model's {listed(lazy)} have no shape yet; run it once on a batch first")
    return {name: value for name, value in entries.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class _Renaming:
    removed: str
    added: str

    def apply(self, names: Iterable[str]) -> dict[str, str]:
        """The new name of each old one."""
        return {name: self.added + name.removeprefix(self.removed) for name in names}

    def note(self) -> tuple[str, ...]:
        removed = f"removed the prefix {self.removed!r} from its names" if self.removed else ""
        added = f"added the prefix {self.added!r} to its names" if self.added else ""
        return tuple(note for note in (removed, added) if note)


def fitting_names(names: Collection[str], expected: Collection[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Each name without, or with, the wrappers' prefixes that the expected ones have not, or have.

    Of all runs of prefixes to remove and to add the one with the fewest missing and unexpected names; of equals, the
    one that changes least.

    Returns:
        The new name of each, and a note on each thing that was done.
    """
    best, least = _Renaming("", ""), (len(set(names) ^ set(expected)), 0)
    for renaming in (_Renaming(r, a) for r in _wrappings(names) for a in _wrappings(expected)):
        new = set(renaming.apply(names).values())
        cost = len(new ^ set(expected)), len(renaming.removed) + len(renaming.added)
        if len(new) == len(names) and cost < least:
            best, least = renaming, cost
    return best.apply(names), best.note()


def _wrappings(names: Iterable[str]) -> list[str]:
    """Every run of wrapper prefixes that some name begins with, the empty one included."""
    longest = {_WRAPPERS.match(name).group() for name in names}  # type: ignore[union-attr]
    runs = {run[: dot + 1] for run in longest for dot, letter in enumerate(run) if letter == "."} | {""}
    return sorted(runs, key=lambda run: (len(run), run))[:_MOST_RUNS]


def _check_shapes(fitted: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    wrong = [
        f"{name} is {tuple(value.shape)}, in the model {tuple(expected[name].shape)}"
        for name, value in fitted.items()
        if value.shape != expected[name].shape
    ]
    if wrong:
        raise InputError(f"{where}: {len(wrong)} shapes differ: {listed(wrong)}; build the model with the same sizes")


def _check_kinds(fitted: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    wrong = [
        f"{name} is {value.dtype}, in the model {expected[name].dtype}"
        for name, value in fitted.items()
        if _kind(value) != _kind(expected[name])
    ]
    if wrong:
        raise InputError(
            f"{where}: {len(wrong)} kinds of number differ: {listed(wrong)}; "
            "give a checkpoint of the same model that is not quantised"
        )


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "floating"
    return "complex" if tensor.is_complex() else "quantised" if tensor.is_quantized else "whole"


def _ties(expected: Mapping[str, Tensor]) -> list[list[str]]:
    """The groups of names under which the model has one and the same tensor."""
    groups: dict[object, list[str]] = {}
    for name, tensor in expected.items():
        address = 0 if tensor.is_meta else tensor.data_ptr()  # 0 also when it has no elements
        key = (tensor.device, address, tensor.shape, tensor.stride()) if address else id(tensor)
        groups.setdefault(key, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _fill_ties(fitted: dict[str, Tensor], ties: list[list[str]]) -> tuple[str, ...]:
    """Fills tied names that the file lacks from one that it has, in place."""
    notes = []
    for names in ties:
        present = next((name for name in names if name in fitted), None)
        lacking = [name for name in names if name not in fitted] if present else []
        fitted |= {name: fitted[present] for name in lacking if present}
        notes += [f"re-tied {name} to {present}" for name in lacking]
    return tuple(notes)


def _check_ties(fitted: Mapping[str, Tensor], ties: list[list[str]], where: str) -> None:
    for first, *others in ties:
        for name in others:
            a, b = fitted[first], fitted[name]
            if a.dtype != b.dtype or not torch.equal(a, b):
                raise InputError(
                    f"{where}: {first} and {name} have different values, but the model ties them; "
                    "give a checkpoint of the tied model, or untie them"
                )


def _fill_counters(fitted: dict[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[str, ...]:
    missing = [name for name in expected if name not in fitted and name.split(".")[-1] == "num_batches_tracked"]
    fitted |= {name: expected[name].detach().cpu().clone() for name in missing}
    return (f"kept the model's own {listed(missing)}",) if missing else ()


def _check_names(missing: list[str], unexpected: list[str], where: str) -> None:
    parts = [
        f"{len(names)} {label} ({listed(names)})"
        for label, names in (("missing from the file", missing), ("unknown to the model", unexpected))
        if names
    ]
    if parts:
        raise InputError(f"{where}: names do not fit the model: {', '.join(parts)}; build the model it was saved from")


def _check_finite(fitted: Mapping[str, Tensor], parameters: Mapping[str, Tensor], where: str) -> None:
    """A buffer may be infinite, as attention masks are; nothing may be NaN."""
    counts = {name: _bad_entries(value, infinite=name in parameters) for name, value in fitted.items()}
    wrong = [f"{name} ({count} of {fitted[name].numel()} entries)" for name, count in counts.items() if count]
    if wrong:
        raise InputError(f"{where}: NaN or infinite: {listed(wrong)}; take a checkpoint from before training diverged")


def _bad_entries(tensor: Tensor, infinite: bool) -> int:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # 8-bit floats have no such tests
    return int((~wide.isfinite() if infinite else wide.isnan()).sum())
