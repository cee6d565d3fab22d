"""Load the tokenizer that a folder's files define.

transformers makes up what the files lack: a vocabulary that consists of the special tokens, a mask beyond the
vocabulary, or the rules of a class in place of those in tokenizer.json. Such tokens are refused here, or not used.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from landscape.errors import InputError
from landscape.loading.pretrained.files import Folder, read_json, tokenizer_files, tokenizer_place
from landscape.loading.pretrained.hugging_face import library, quiet, tokens_of
from landscape.reporting.messages import cause, counted, listed, one_line

_FILE, _SETTINGS, _ADDED = "tokenizer.json", "tokenizer_config.json", "added_tokens.json"
# Names of vocabularies in other formats, whatever names a tokenizer's class gives for its files.
_OTHER_FORMATS = re.compile(r"tekken\.json|tokenizer\.model.*|tiktoken\.model")
# Share of unused places in a model's vocabulary. Padding 20,480 or more to a multiple of 1,024 adds less.
_PADDING = 1 / 20
_LINES, _CHARACTERS = 1_000, 1_000  # of the texts, on which a tokenizer is compared with its file
_SAVE = "save the model's tokenizer into the folder with save_pretrained()"


class Purpose(Enum):
    """The use of a tokenizer, and what a person can do without one."""

    READ = ("read text", "give tokens, as .npy or as input_ids beside labels")
    MASK = ("mask tokens", "mask some of input_ids, and give their tokens as 'labels', with -100 for all others")

    def refusal(self, why: str) -> str:
        """The error message for a folder without a usable tokenizer."""
        what, instead = self.value
        return f"the folder has no tokenizer to {what} with: {why}: {_SAVE}, or {instead}"


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer that the files of a folder define.

    Attributes:
        made: the tokenizer object of transformers.
        undefined: names of the tokens that transformers added and that no file defines, by token number.
        notes: remarks on the tokenizer, a sentence each.
    """

    made: Any
    undefined: Mapping[int, str]
    notes: tuple[str, ...]

    def mask(self) -> int | None:
        """Number of the mask token; None if the tokenizer has none.

        Raises:
            InputError: no file of the folder defines the mask token.
        """
        mask: int | None = self.made.mask_token_id
        self.check([mask] if mask is not None else [])
        return mask

    def check(self, tokens: Iterable[int]) -> None:
        """Refuse tokens that transformers made up.

        Raises:
            InputError: there are some among ``tokens``.
        """
        if invented := {self.undefined[token] for token in set(tokens) & self.undefined.keys()}:
            names = listed(sorted(map(repr, invented)))
            raise InputError(f"no file of the folder has the tokens {names}, which transformers adds: {_SAVE}")

    def read(self, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> tuple[str, ...]:
        """Notes on what the tokens of texts don't represent: unknown tokens, and characters without a token.

        Args:
            texts: the texts of the data.
            rows: tokens of the texts, not cut, including the tokens that mark the beginning and the end.

        Returns:
            A note on the unknown tokens and a note on the characters without a token, if there are any.

        Raises:
            InputError: more than half of the tokens are unknown, more than half of the characters have no token, there
                are no tokens, or transformers made up a token. The loss would then be that of one token, or of no text.
        """
        self.check(chain.from_iterable(rows))
        marks = self.made("")["input_ids"]
        name, unknown = self.made.unk_token, self.made.unk_token_id
        tokens = sum(map(len, rows)) - len(marks) * len(rows)
        lost = sum(list(row).count(unknown) for row in rows) - marks.count(unknown) * len(rows)
        lost -= sum(text.count(name) for text in texts) if name else 0
        counts = Counter(chain.from_iterable(texts))
        letters = [letter for letter in counts if not letter.isspace()]
        single = self.made(letters, add_special_tokens=False)["input_ids"] if letters else []
        without = sum(counts[letter] for letter, ids in zip(letters, single, strict=True) if not ids)
        every = sum(counts[letter] for letter in letters)
        shares = _shares((lost, tokens, f"tokens are unknown to the tokenizer ({one_line(name, 40)})"),
                       (without, every, "characters have no token in the tokenizer"))  # fmt: skip
        if 2 * lost > tokens or 2 * without > every or not tokens:
            raise InputError(f"the folder's tokenizer can't read the text: {listed(shares) or 'no tokens'}: {_SAVE}")
        return shares


def _shares(*found: tuple[int, int, str]) -> tuple[str, ...]:
    return tuple(f"{part:,} of {whole:,} {what}: {part / whole:.2g} of them" for part, whole, what in found if part)


def tokenizer_of(folder: Folder, model: Any, purpose: Purpose, texts: Sequence[str] = ()) -> Tokenizer:
    """Load the tokenizer that the files of a folder define.

    Args:
        folder: folder of a model, or of an adapter, whose base model's folder may have the tokenizer.
        model: model of transformers, whose configuration gives the tokenizer's class if the files don't.
        purpose: use of the tokenizer, for messages.
        texts: texts on whose lines tokenizer.json is compared with transformers' class. If the tokens differ, those of
            the file are used.

    Raises:
        InputError: the files define no tokenizer.
    """
    place, transformers = tokenizer_place(folder), library("transformers", folder.path)
    try:
        with quiet(transformers):
            tokenizer = _made(transformers, place, model.config)
            serialised = _serialised(place)
            others = _held_to(tokenizer, serialised, texts) if serialised is not None and tokenizer.is_fast else 0
    except Exception as error:
        raise InputError(purpose.refusal(cause(error))) from error
    name = type(tokenizer).__name__
    if lacking := _lacking(type(tokenizer).vocab_files_names, place):
        raise InputError(purpose.refusal(f"{name} needs {lacking}"))
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise InputError(purpose.refusal(f"its vocabulary is of {counted(len(tokenizer), 'special token')}"))
    notes = _of_sizes(len(tokenizer), model)
    if others:
        version = f"transformers {transformers.__version__}"
        notes += (f"tokens are as {_FILE} has them: the {name} of {version} makes others of {counted(others, 'line')}",)
    return Tokenizer(tokenizer, _undefined(tokenizer, place, serialised), notes)


def _made(transformers: Any, place: Path, config: Any) -> Any:
    """Build a tokenizer with transformers from copies of its files, without the names of files in its settings.

    Some versions of transformers open the files that the settings name, wherever they lie.
    """
    with TemporaryDirectory() as copies:
        for file in tokenizer_files(place):
            shutil.copyfile(file, Path(copies) / file.name)
        if (place / _SETTINGS).is_file():
            settings = {key: value for key, value in read_json(place / _SETTINGS).items() if not key.endswith("_file")}
            (Path(copies) / _SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
        options = {"config": config, "local_files_only": True, "trust_remote_code": False}
        return transformers.AutoTokenizer.from_pretrained(copies, **options)


def _lacking(names: Mapping[str, str], place: Path) -> str:
    """Files that a tokenizer class needs and the folder lacks; empty if none is lacking, or if the tokens are bytes."""
    present = {file.name for file in place.iterdir()}
    if not names or _FILE in present or any(map(_OTHER_FORMATS.fullmatch, present)):
        return ""
    own = [names[key] for key in ("vocab_file", "merges_file") if key in names]
    if set(own) <= present and present & set(names.values()):
        return ""
    return " or ".join(dict.fromkeys([_FILE, *([" with ".join(own)] if own else [])]))


def _serialised(place: Path) -> Any:
    """The tokenizer of tokenizer.json, with the rules in that file; None if there is no such file."""
    if not (place / _FILE).is_file():
        return None
    tokenizer = library("tokenizers", place).Tokenizer.from_file(str(place / _FILE))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _held_to(made: Any, serialised: Any, texts: Sequence[str]) -> int:
    """Give a tokenizer the rules of tokenizer.json if its own rules give other tokens for the texts.

    The marks at the beginning and the end stay those of the class if the file has none.

    Returns:
        Number of compared lines whose tokens differ, the marks left aside.
    """
    every = (line[:_CHARACTERS] for text in texts for line in text.splitlines() if line.strip())
    lines = list(islice(every, _LINES))
    if not lines:
        return 0
    expected = serialised.encode_batch(lines, add_special_tokens=False)
    actual = made(lines, add_special_tokens=False)["input_ids"]
    others = sum(tokens != encoded.ids for tokens, encoded in zip(actual, expected, strict=True))
    if others:
        backend = made.backend_tokenizer
        backend.model, backend.normalizer = serialised.model, serialised.normalizer
        backend.pre_tokenizer = serialised.pre_tokenizer
        backend.post_processor = serialised.post_processor or backend.post_processor
    return others


def _undefined(made: Any, place: Path, serialised: Any) -> dict[int, str]:
    """Names of the tokens that no file defines, by token number; a class of transformers adds those it expects."""
    if not type(made).vocab_files_names:
        return {}
    defined = set(range(made.vocab_size)) if serialised is None else set(serialised.get_vocab().values())
    if (place / _SETTINGS).is_file():
        defined |= {int(token) for token in read_json(place / _SETTINGS).get("added_tokens_decoder", {})}
    if (place / _ADDED).is_file():
        defined |= set(read_json(place / _ADDED).values())
    return {token: name for name, token in made.added_tokens_encoder.items() if token not in defined}


def _of_sizes(tokens: int, model: Any) -> tuple[str, ...]:
    """A note if the tokenizer has more tokens than the model, or fewer than padding explains."""
    size = tokens_of(model)
    if size is None or size * (1 - _PADDING) <= tokens <= size:
        return ()
    has = f"the folder's tokenizer has {counted(tokens, 'token')}, and its model {size:,}"
    return (f"{has}: is this the model's tokenizer?",)
