"""Pose the problem of a checkpoint that brings its model, with the data that a person names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landscape.checkpoint import Checkpoint
from landscape.errors import InputError
from landscape.loading.pretrained.arrays import KINDS, Arrays, read_arrays
from landscape.loading.pretrained.exported import Exported
from landscape.loading.pretrained.files import folder_at
from landscape.loading.pretrained.hugging_face import given_to, library, quiet
from landscape.loading.pretrained.tasks import LOSSES, Posed, draws_masks, pose
from landscape.loading.pretrained.tokenizers import Purpose, Tokenizer, tokenizer_of
from landscape.problem import Problem
from landscape.reporting.messages import counted, listed

LENGTH = 128  # tokens of a sequence, by default
_NUMBERS_AT_A_TIME, _SAMPLES_AT_A_TIME = 2**23, 256  # bounds on a batch of unspecified size


@dataclass(frozen=True)
class PretrainedInputs:
    """The data, the loss and the sizes that a person chooses for a checkpoint that brings its model.

    Attributes:
        data: path of a file that `landscape.loading.pretrained.arrays.read_arrays` reads.
        loss: name of a loss in `landscape.loading.pretrained.tasks.LOSSES`; None takes the architecture's loss.
        length: most tokens of a sequence; None takes 128, or the model's number of positions if that is smaller.
        batch_size: most samples evaluated at a time; None decides by the sizes of inputs and output.
    """

    data: str | Path | None = None
    loss: str | None = None
    length: int | None = None
    batch_size: int | None = None

    def problem(self, checkpoint: Checkpoint, *, described: str) -> Problem:
        """Pose the problem; ``described`` tells one model from another and goes into the record.

        Raises:
            InputError: the loss is unknown, there are no data, or the data don't fit the model.
        """
        if self.loss not in (None, *LOSSES):
            raise InputError(f"--loss is one of {listed(LOSSES)}, not {self.loss!r}")
        if self.data is None:
            raise InputError(f"{checkpoint.path}: brings its model but no data: add --data FILE, a {KINDS}")
        arrays = read_arrays(self.data)
        try:
            if isinstance(checkpoint, Exported):
                return self._program(checkpoint, arrays)
            return self._folder(checkpoint, arrays)
        except InputError as error:
            raise InputError(f"{checkpoint.path}, {self.data}: {error}") from error

    def _folder(self, checkpoint: Checkpoint, arrays: Arrays) -> Problem:
        model: Any = checkpoint.model
        tokenizer = None
        if arrays.texts or draws_masks(model, arrays):
            purpose = Purpose.READ if arrays.texts else Purpose.MASK
            tokenizer = tokenizer_of(folder_at(checkpoint.path), given_to(model), purpose, arrays.texts)
        arrays, notes = self._sequences(model, arrays, tokenizer)
        with quiet(library("transformers", checkpoint.path)):
            posed = pose(model, arrays, tokenizer, self.loss)
        notes = (*(tokenizer.notes if tokenizer else ()), *notes, *posed.notes)
        return self._posed(model, replace(posed, notes=notes))

    def _sequences(self, model: Any, arrays: Arrays, tokenizer: Tokenizer | None) -> tuple[Arrays, tuple[str, ...]]:
        """Turn texts into tokens, and one long row of tokens into sequences."""
        if not (arrays.texts or arrays.stream):
            return arrays, ()
        length = self._length(getattr(model.config, "max_position_embeddings", None))
        notes: tuple[str, ...] = ()
        if tokenizer is not None and arrays.texts:
            rows = tokenizer.made(list(arrays.texts), verbose=False)["input_ids"]
            notes = tokenizer.read(arrays.texts, rows)
            if not arrays.stream:
                arrays, cut = _texts(arrays, tokenizer.made, list(map(len, rows)), length)
                return arrays, (*notes, *cut)
            row = torch.tensor(rows[0])
        else:
            row = arrays.inputs["input_ids"]
        count = len(row) // length
        if not count:
            raise InputError(f"has {counted(len(row), 'token')}, fewer than one sequence of {length}: give a --length")
        note = f"{counted(count, 'sequence')} of {length} tokens, cut from {counted(len(row), 'token')}"
        return Arrays({"input_ids": row[: count * length].view(count, length)}), (*notes, note)

    def _length(self, positions: int | None) -> int:
        if self.length is not None and self.length < 2:
            raise InputError(f"a sequence has at least 2 tokens, not {self.length}")
        if self.length is not None and positions and self.length > positions:
            raise InputError(f"the model has {positions} positions, fewer than the {self.length} tokens asked for")
        return self.length or min(LENGTH, positions or LENGTH)

    def _program(self, program: Exported, arrays: Arrays) -> Problem:
        if self.loss is None:
            raise InputError(f"an exported program doesn't say what it was trained on: add --loss {listed(LOSSES)}")
        if arrays.texts or arrays.target is None:
            raise InputError("a program needs arrays, and a target: call it 'target' or 'labels'")
        inputs: Mapping[str, Tensor] = arrays.inputs
        if len(program.inputs) == 1 and len(inputs) == 1:
            inputs = {program.inputs[0]: next(iter(inputs.values()))}
        if set(inputs) != set(program.inputs):
            raise InputError(f"the program takes {listed(program.inputs)}, and there are {listed(inputs) or 'none'}")
        target = arrays.target.long() if self.loss == "cross-entropy" else arrays.target.float()
        if program.batch and len(target) % program.batch:
            raise InputError(
                f"the program was exported for batches of {program.batch} samples, and {len(target)} aren't a "
                "multiple: export it with a dynamic batch dimension, or give other data"
            )
        posed = Posed({name: inputs[name] for name in program.inputs}, target, LOSSES[self.loss]())
        return self._posed(program.model, posed, program.batch, program.by_name)

    def _posed(self, model: Any, posed: Posed, fixed: int | None = None, by_name: bool = True) -> Problem:
        size = fixed or self.batch_size or self._fitting(model, posed)

        def batch(start: int) -> tuple[Any, Tensor]:
            parts = {name: tensor[start : start + size] for name, tensor in posed.inputs.items()}
            return (parts if by_name else tuple(parts.values())), posed.target[start : start + size]

        batches = [batch(start) for start in range(0, len(posed.target), size)]
        return Problem(model, posed.loss, batches, read=posed.read).noted(*posed.notes)

    @staticmethod
    def _fitting(model: Any, posed: Posed) -> int:
        """Batch size, at most 256, with which each input and the output have at most ``_NUMBERS_AT_A_TIME`` numbers."""
        classes = getattr(getattr(model, "config", None), "vocab_size", None) or 1
        output = posed.target[0].numel() * classes
        numbers = max(1, output, *(tensor[0].numel() for tensor in posed.inputs.values()))
        return max(1, min(_SAMPLES_AT_A_TIME, _NUMBERS_AT_A_TIME // numbers))


def _texts(arrays: Arrays, tokenizer: Any, sizes: list[int], length: int) -> tuple[Arrays, tuple[str, ...]]:
    """Tokenize texts, cut to ``length`` tokens and padded; ``sizes`` are their uncut numbers of tokens."""
    uneven = len({min(size, length) for size in sizes}) > 1
    if uneven and tokenizer.pad_token_id is None:
        raise InputError("its texts differ in length, and the tokenizer has no token to fill them up with")
    encoded = tokenizer(list(arrays.texts), truncation=True, max_length=length, padding=uneven, return_tensors="pt")
    cut = sum(size > length for size in sizes)
    notes = (f"{cut:,} of {counted(len(sizes), 'text')} are cut to {length} tokens (--length)",) if cut else ()
    return replace(arrays, inputs=arrays.inputs | dict(encoded)), notes
