"""Fit the tensors of a checkpoint to a model's names, shapes and ties."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.errors import InputError
from landscape.reporting.messages import listed

# Prefixes that DistributedDataParallel, torch.compile and Lightning put before every name, at most eight in a row.
_WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|model)\.){0,8}")
_MOST_RUNS = 50  # of wrapper prefixes; each run is tried on every name


def fit_state(state: Mapping[str, Tensor], model: nn.Module, where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Fit the tensors of ``state`` to the names, shapes and ties of ``model``.

    The wrapper prefixes ``module.``, ``_orig_mod.`` and ``model.`` are removed, or added if only the model has them.
    The choice that leaves the fewest missing and unexpected names is taken, and names that fit stay unchanged. If the
    file lacks one of several tied names, its tensor is taken from another of these names. BatchNorm's
    ``num_batches_tracked``, which old files lack, keeps the model's value. Nothing is cast, and the model is not
    changed.

    Args:
        state: Tensors by name, as in a checkpoint.
        model: The model to fit the tensors to.
        where: The file's name for messages.

    Returns:
        One tensor for each name in ``model.state_dict()``, in that order (tied names share one tensor), and a note on
        each change.

    Raises:
        InputError: Names are missing or unexpected, or shapes, kinds of number or the values of tied names differ.
            Likewise if a parameter has a NaN or infinite entry, a buffer has a NaN entry, or the model has lazy
            parameters.
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
    entries = model.state_dict(keep_vars=True)  # the parameters themselves, to recognise ties by address or identity
    lazy = [
        name for name, value in entries.items() if isinstance(value, nn.UninitializedParameter | nn.UninitializedBuffer)
    ]
    if lazy:
        raise InputError(f"{where}: the model's {listed(lazy)} have no shape yet; run it once on a batch first")
    return {name: value for name, value in entries.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class _Renaming:
    """A run of wrapper prefixes to remove from every name, and a run to add."""

    removed: str
    added: str

    def apply(self, names: Iterable[str]) -> dict[str, str]:
        """Map each old name to its new name."""
        return {name: self.added + name.removeprefix(self.removed) for name in names}

    def note(self) -> tuple[str, ...]:
        removed = f"removed the prefix {self.removed!r} from the names of the weights" if self.removed else ""
        added = f"added the prefix {self.added!r} to the names of the weights" if self.added else ""
        return tuple(note for note in (removed, added) if note)


def fitting_names(names: Collection[str], expected: Collection[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Map names to expected names by removing or adding the prefixes of wrappers.

    All runs of prefixes are tried for removal and for addition. The pair of runs with the fewest missing and unexpected
    names is taken; among equal pairs, the one that changes the fewest characters.

    Returns:
        The new name of each name, and a note on each prefix removed or added.
    """
    best, least = _Renaming("", ""), (len(set(names) ^ set(expected)), 0)
    for renaming in (_Renaming(r, a) for r in _wrappings(names) for a in _wrappings(expected)):
        new = set(renaming.apply(names).values())
        cost = len(new ^ set(expected)), len(renaming.removed) + len(renaming.added)
        if len(new) == len(names) and cost < least:
            best, least = renaming, cost
    return best.apply(names), best.note()


def _wrappings(names: Iterable[str]) -> list[str]:
    """Runs of wrapper prefixes that some name begins with, shortest first, including the empty run."""
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
            f"{where}: {len(wrong)} dtypes differ: {listed(wrong)}; "
            "give a checkpoint of the same model that is not quantised"
        )


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "floating"
    return "complex" if tensor.is_complex() else "quantised" if tensor.is_quantized else "whole"


def _ties(expected: Mapping[str, Tensor]) -> list[list[str]]:
    """Groups of names that share one tensor in the model."""
    groups: dict[object, list[str]] = {}
    for name, tensor in expected.items():
        address = 0 if tensor.is_meta else tensor.data_ptr()  # also 0 for a tensor without elements
        key = (tensor.device, address, tensor.shape, tensor.stride()) if address else id(tensor)
        groups.setdefault(key, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _fill_ties(fitted: dict[str, Tensor], ties: list[list[str]]) -> tuple[str, ...]:
    """Fill tied names that the file lacks from a tied name that the file has, in place."""
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
    """Refuse NaN entries, and infinite entries of parameters; a buffer may be infinite, as attention masks are."""
    counts = {name: _bad_entries(value, infinite=name in parameters) for name, value in fitted.items()}
    wrong = [f"{name} ({count} of {fitted[name].numel()} entries)" for name, count in counts.items() if count]
    if wrong:
        raise InputError(
            f"{where}: NaN or infinite values in {listed(wrong)}; take a checkpoint from before training diverged"
        )


def _bad_entries(tensor: Tensor, infinite: bool) -> int:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    values = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # torch lacks isfinite for some 8-bit floats
    return int((~values.isfinite() if infinite else values.isnan()).sum())
