"""Text becomes the tokens that a folder's files define, or is refused; the right tokens are those of `tokenizers`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import landscape
from landscape.errors import InputError
from landscape.loading.pretrained.files import Folder
from landscape.loading.pretrained.tokenizers import Purpose, tokenizer_of
from tests.support.kinds import BERT, FOLDERS, GPT2, LM, T5, VOCABULARY, folder

TEXTS = ["good film here", "bad book today", "nice food now", "poor sound again"]
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NAMED = {f"{mark[1:-1].lower()}_token": mark for mark in MARKS}


def words(*more: str, marks: list[str] = MARKS, size: int = VOCABULARY) -> dict[str, int]:
    """A vocabulary of the special tokens, the words of the texts, and other words up to the vocabulary's size."""
    every = [*marks, *dict.fromkeys([*" ".join(TEXTS).split(), *more])]
    return {word: i for i, word in enumerate([*every, *(f"w{i}" for i in range(size - len(every)))])}


def tokenizer(vocabulary: dict[str, int], marked: bool = True) -> Tokenizer:
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if marked:
        ends = [(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")]
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        made.add_special_tokens([mark for mark in MARKS if mark in vocabulary])
    return made


def save(made: Tokenizer, path: Path, **settings: object) -> None:
    """Save a tokenizer into a folder, with settings that name its special tokens."""
    made.save(str(path / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast"} | NAMED | settings
    (path / "tokenizer_config.json").write_text(json.dumps(named))


def jsonl(texts: list[str], name: str = "text.jsonl", **more: list[object]) -> str:
    rows = [{"text": text} | {key: values[i] for key, values in more.items()} for i, text in enumerate(texts)]
    Path(name).write_text("\n".join(map(json.dumps, rows)))
    return name


@pytest.fixture
def classifier(tmp_path, monkeypatch):
    """A folder of BERT with four classes and no tokenizer."""
    monkeypatch.chdir(tmp_path)
    rows = {"input_ids": torch.full((4, 5), 7), "labels": torch.arange(4)}
    folder("BertForSequenceClassification", BERT, rows)(tmp_path)
    return tmp_path / "model"


@pytest.fixture
def masked(tmp_path, monkeypatch):
    """A folder of BERT that predicts masked tokens, and no tokenizer."""
    monkeypatch.chdir(tmp_path)
    FOLDERS["bert, masked"](tmp_path)
    return tmp_path / "model"


def inputs_of(path: Path, data: str) -> torch.Tensor:
    (batch,) = landscape.load_problem(path, data=data).batches
    return batch[0]["input_ids"]


# ---------------------------------------------------------------------- folders without a tokenizer

COMMON = [
    *("albert", "bart", "bert", "bloom", "deberta-v2", "electra", "esm", "gemma", "gpt2", "gpt_neox"),
    *("llama", "mamba", "mistral", "opt", "perceiver", "phi", "qwen3", "roberta", "t5", "xlm-roberta", "xlnet"),
]


@pytest.mark.parametrize("kinds", [COMMON, pytest.param([], marks=pytest.mark.slow)], ids=["common", "all"])
def test_no_architecture_reads_text_without_files(kinds, tmp_path):
    """Every class of tokenizer needs files, with each of its architectures, except classes of characters and bytes."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    texts = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES | modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    texts |= modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    texts |= modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    kinds = kinds or {kind: name for name, kind in TOKENIZER_MAPPING_NAMES.items() if name in texts}.values()
    place, reading = Folder(tmp_path, tmp_path, None, {}, {}, (), None, ()), {}
    for name in kinds:
        model = SimpleNamespace(config=CONFIG_MAPPING[name]())
        with suppress(InputError):
            reading[name] = tokenizer_of(place, model, Purpose.READ, TEXTS).made(TEXTS)["input_ids"]
    assert "perceiver" in reading
    assert reading.keys() <= {"canine", "perceiver"}
    assert all(len({tuple(row) for row in rows}) == len(TEXTS) for rows in reading.values())


INCOMPLETE: dict[str, tuple[str, dict[str, str], str]] = {
    "nothing": ("bert", {}, "BertTokenizer needs tokenizer.json or vocab.txt"),
    "settings alone": ("bert", {"tokenizer_config.json": json.dumps(NAMED)}, "BertTokenizer needs tokenizer.json or"),
    "another class's vocabulary": ("bert", {"vocab.json": "{}", "merges.txt": ""}, "BertTokenizer needs"),
    "nothing for bytes": ("gpt2", {}, "GPT2Tokenizer needs tokenizer.json or vocab.json with merges.txt"),
    "no merges": ("gpt2", {"vocab.json": json.dumps(words())}, "no tokenizer to read text with"),
    "no vocabulary": ("gpt2", {"merges.txt": "#version: 0.2"}, "no tokenizer to read text with"),
    "a damaged file": ("gpt2", {"tokenizer.json": "{"}, "no tokenizer to read text with"),
    "marks alone": ("bert", {"vocab.txt": "\n".join(MARKS)}, "its vocabulary is of 5 special tokens"),
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_files_that_define_no_tokenizer(name, classifier, command):
    kind, files, expected = INCOMPLETE[name]
    if kind == "gpt2":
        folder("GPT2LMHeadModel", GPT2, LM)(classifier.parent)
    for file, content in files.items():
        (classifier / file).write_text(content)
    ran = command("model", "--data", jsonl(TEXTS, label=[0, 1, 2, 3]) if kind == "bert" else jsonl(TEXTS))
    assert (ran.status, ran.out, len(ran.err.splitlines())) == (2, "", 1), ran.err
    assert expected in ran.err
    assert "save_pretrained()" in ran.err


def test_bytes_need_no_vocabulary_but_a_class(tmp_path, monkeypatch, command):
    """The configuration of a ByT5 model is that of a T5, so only the tokenizer's settings identify ByT5."""
    monkeypatch.chdir(tmp_path)
    rows = {"input_ids": torch.full((4, 3), 7), "labels": torch.full((4, 3), 8)}
    folder("T5ForConditionalGeneration", T5 | {"vocab_size": 384}, rows)(tmp_path)
    texts = [text[:12].ljust(12, "x") for text in TEXTS]
    data = jsonl(texts, labels=[[8, 9, 1]] * 4)
    ran = command("model", "--data", data)
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert "T5Tokenizer needs tokenizer.json or spiece.model" in ran.err
    Path("model/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    expected = [[byte + 3 for byte in text.encode()] + [1] for text in texts]  # Xue et al. (2022), with </s> = 1
    assert inputs_of(Path("model"), data).tolist() == expected


# ---------------------------------------------------------------------- the tokens are those of the files


def files_alone(path: Path) -> Tokenizer:
    """A tokenizer.json of words with capitals and no settings: transformers' class for BERT would lower the case."""
    made = tokenizer(words("Good", "Film"), marked=False)
    made.save(str(path / "tokenizer.json"))
    return made


def other_class(path: Path) -> Tokenizer:
    """A tokenizer.json beside settings that name a class with other rules."""
    made = tokenizer(words("Good", "Film"))
    save(made, path, tokenizer_class="BertTokenizer")
    return made


def agreeing(path: Path) -> Tokenizer:
    made = tokenizer(words("Good", "Film"))
    save(made, path)
    return made


@pytest.mark.parametrize("write", [files_alone, other_class, agreeing])
def test_tokens_are_those_of_the_file(write, classifier):
    from transformers import AutoTokenizer

    expected = write(classifier)
    texts = ["Good Film here", "good film here", "Good film here", "bad book today"]
    data = jsonl(texts, label=[0, 1, 2, 3])
    tokens = [each.ids for each in expected.encode_batch(texts, add_special_tokens=False)]
    marked = [[MARKS.index("[CLS]"), *row, MARKS.index("[SEP]")] for row in tokens]
    assert inputs_of(classifier, data).tolist() == marked
    notes = landscape.load_problem(classifier, data=data).notes
    others = [note for note in notes if "tokens are as tokenizer.json has them" in note]
    by_class = AutoTokenizer.from_pretrained(classifier)(texts, add_special_tokens=False)["input_ids"]
    count = sum(one != other for one, other in zip(by_class, tokens, strict=True))  # 2 with transformers 5.24
    assert len(others) == (count > 0)
    assert all(f"makes others of {count} line" in note for note in others)


def test_a_vocabulary_file_alone(classifier):
    (classifier / "vocab.txt").write_text("\n".join(words()))
    made = tokenizer(words())
    made.normalizer = normalizers.BertNormalizer()
    found = inputs_of(classifier, jsonl(TEXTS, label=[0, 1, 2, 3]))
    assert found.tolist() == [each.ids for each in made.encode_batch(TEXTS)]


def test_an_adapter_has_the_tokenizer_of_its_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FOLDERS["lora on gpt2"](tmp_path)
    of_model, of_adapter = tokenizer(words()), tokenizer(words("again", "more", marks=MARKS[::-1]))
    save(of_model, Path("model"))
    data = jsonl(TEXTS)
    assert inputs_of(Path("adapter"), data).tolist() == [each.ids for each in of_model.encode_batch(TEXTS)]
    save(of_adapter, Path("adapter"))
    assert inputs_of(Path("adapter"), data).tolist() == [each.ids for each in of_adapter.encode_batch(TEXTS)]


# ---------------------------------------------------------------------- what can't be read is said, or refused


def test_the_share_of_unknown_tokens_is_said(classifier, command):
    save(tokenizer(words()), classifier)
    texts = [*TEXTS[:3], "poor xyzzy [UNK]"]  # one word of twelve is unknown; the last one says so itself
    ran = command("model", "--data", jsonl(texts, label=[0, 1, 2, 3]), "-o", "record.h5")
    said = "1 of 12 tokens are unknown to the tokenizer ([UNK]): 0.083 of them"
    assert ran.status == 0
    assert said in " ".join(ran.out.split())
    with h5py.File("record.h5") as file:
        assert said in json.loads(file["loss/provenance"].asstr()[0])["notes"]


@pytest.mark.parametrize(
    ("texts", "status"), [(["good film", "xyzzy plugh"], 0), (["good film", "xyzzy plugh xyzzy"], 2)]
)
def test_text_of_which_more_than_half_is_unknown_is_refused(texts, status, classifier, command):
    save(tokenizer(words()), classifier)
    ran = command("model", "--data", jsonl(texts, label=[0, 1]))
    assert ran.status == status
    if status:
        assert "can't read the text: 3 of 5 tokens are unknown to the tokenizer ([UNK]): 0.6 of them" in ran.err


@pytest.mark.parametrize(("text", "status"), [("aaa aaa b", 0), ("bbb bbb a", 2)])
def test_characters_without_a_token_are_counted(text, status, tmp_path, monkeypatch, command):
    """A tokenizer of byte pairs without an unknown token leaves out characters that it lacks."""
    monkeypatch.chdir(tmp_path)
    folder("GPT2LMHeadModel", GPT2, LM)(tmp_path)
    made = Tokenizer(models.BPE({"a": 0, "aa": 1, "c": 2}, [("a", "a")]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    save(made, Path("model"), **dict.fromkeys(NAMED))
    Path("text.txt").write_text(text)
    ran = command("model", "--data", "text.txt", "--length", "2")
    share = "1 of 7 characters have no token in the tokenizer: 0.14 of them"
    assert ran.status == status, ran.err
    assert (share if not status else "6 of 7 characters have no token") in " ".join((ran.out + ran.err).split())


def test_the_end_of_a_text_is_not_unknown(tmp_path, monkeypatch):
    """GPT-2 has one token for the end of a text and for unknown words."""
    monkeypatch.chdir(tmp_path)
    folder("GPT2LMHeadModel", GPT2, LM)(tmp_path)
    vocabulary = {"<|end|>": 0} | {letter: i for i, letter in enumerate("abcdefgh", 1)}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<|end|>"))
    made.add_special_tokens(["<|end|>"])
    ends = {"unk_token": "<|end|>", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    save(made, Path("model"), **dict.fromkeys(NAMED) | ends)
    notes = landscape.load_problem("model", data=jsonl(["abc<|end|>def", "a<|end|>b<|end|>fg"])).notes
    assert not any("unknown" in note for note in notes)


@pytest.mark.parametrize(("size", "said"), [(40, False), (39, False), (38, False), (30, True), (41, True)])
def test_a_vocabulary_of_another_size_is_said(size, said, classifier):
    save(tokenizer(words(size=size)), classifier)
    notes = landscape.load_problem(classifier, data=jsonl(TEXTS, label=[0, 1, 2, 3])).notes
    assert any(f"tokenizer has {size} tokens, and its model 40" in note for note in notes) == said


@pytest.mark.parametrize("wrong", [VOCABULARY, -1])
def test_tokens_that_the_model_lacks_are_refused(wrong, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    folder("GPT2LMHeadModel", GPT2, LM)(tmp_path)
    np.save("tokens.npy", np.array([[3, 4, wrong], [5, 6, 7]]))
    ran = command("model", "--data", "tokens.npy", "--loss", "cross-entropy")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert f"input_ids has tokens from {min(wrong, 3)} to {max(wrong, 7)}, and the model those from 0 to 39" in ran.err


# ---------------------------------------------------------------------- masks


def test_tokens_are_masked_by_the_models_own_mask(masked):
    """The mask is the model's mask token, whatever its number. Special tokens and padding aren't masked."""
    vocabulary = words("mask here", marks=["[UNK]", "x", "[SEP]", "y", "[PAD]", "[CLS]", "z", "[MASK]"])
    save(tokenizer(vocabulary), masked)
    ids = np.random.default_rng(0).integers(8, VOCABULARY, (200, 12))
    ids[:, 0], ids[:, -1], ids[::2, 9:] = vocabulary["[CLS]"], vocabulary["[SEP]"], vocabulary["[PAD]"]
    np.save("tokens.npy", ids)
    (batch,) = landscape.load_problem(masked, data="tokens.npy").batches
    found, target = batch[0]["input_ids"].numpy(), batch[1].numpy()
    drawn = found != ids
    assert (found[drawn] == vocabulary["[MASK]"]).all()
    assert (target[drawn] == ids[drawn]).all()
    assert (target[~drawn] == -100).all()
    assert (ids[drawn] >= 8).all(), "a mark was masked"
    # 15 % of the words, which are drawn one by one: four standard deviations.
    words_there = (ids >= 8).sum()
    assert abs(drawn.sum() / words_there - 0.15) < 4 * np.sqrt(0.15 * 0.85 / words_there)


def test_places_without_a_token_are_not_masked(masked):
    save(tokenizer(words()), masked)
    config = json.loads((masked / "config.json").read_text())
    (masked / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    rows = [{"input_ids": [7, 8, 9, 10][: 1 + i % 4], "token_type_ids": [0] * (1 + i % 4)} for i in range(40)]
    Path("ragged.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (batch,) = landscape.load_problem(masked, data="ragged.jsonl").batches
    assert (batch[1][batch[0]["attention_mask"] == 0] == -100).all()


def made_up_mask(path: Path) -> None:
    """A vocabulary without a mask token: transformers' class for BERT would add one, in the vocabulary's padding."""
    tokenizer(words(marks=MARKS[:-1], size=VOCABULARY - 1)).save(str(path / "tokenizer.json"))
    settings = NAMED | {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


def no_mask(path: Path) -> None:
    save(tokenizer(words()), path, mask_token=None)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda path: None, "the folder has no tokenizer to mask tokens with: BertTokenizer needs tokenizer.json or"),
        (made_up_mask, "no file of the folder has the tokens '[MASK]', which transformers adds"),
        (no_mask, "no tokenizer names a mask token"),
    ],
    ids=["no files", "a mask that transformers adds", "no mask"],
)
def test_tokens_are_not_masked_by_another(write: Callable[[Path], None], expected, masked, command):
    write(masked)
    np.save("tokens.npy", np.random.default_rng(0).integers(5, VOCABULARY - 1, (8, 9)))
    ran = command("model", "--data", "tokens.npy")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1), ran.err
    assert expected in ran.err


# ---------------------------------------------------------------------- several checkpoints, one text


def test_checkpoints_whose_tokenizers_differ_are_no_run(classifier, command):
    save(tokenizer(words()), classifier)
    shutil.copytree(classifier, "other")
    save(tokenizer(words("today", marks=[*MARKS[2:], *MARKS[:2]])), Path("other"))
    data = jsonl(TEXTS, label=[0, 1, 2, 3])
    ran = command("model", "other", "--data", data)
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert "other: its tokenizer makes other tokens of the data than the tokenizer of model" in ran.err


def test_a_tokenizer_that_is_written_otherwise_is_the_same(classifier, command):
    save(tokenizer(words()), classifier)
    shutil.copytree(classifier, "other")
    Path("other/tokenizer.json").write_text(json.dumps(json.loads(Path("other/tokenizer.json").read_text())))
    assert command("model", "other", "--data", jsonl(TEXTS, label=[0, 1, 2, 3])).status == 0
