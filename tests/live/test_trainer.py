"""A training of transformers' Trainer that the callback watches: the bits, the rows, and what happens at its end."""

from __future__ import annotations

import contextlib
import copy
import gc

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

import landscape
from landscape.live.trainer import STATE, WatchCallback
from tests.live.test_resume import rows
from tests.live.trainings import Hearing, equal

BUDGET = 20.0
STEPS, SAVED, ACCUMULATED, BATCH = 10, 3, 2, 4
TOKENS = torch.randint(2, 20, (40, 8), generator=torch.Generator().manual_seed(0))
TEXTS = [{"input_ids": each, "labels": each} for each in TOKENS]
CLASSES = [{"input_ids": each, "labels": int(each[0]) % 2} for each in TOKENS]


class _EndedError(Exception):
    pass


class _Ending(TrainerCallback):
    """Raises an error at a step, and keeps the Trainer's own losses."""

    def __init__(self, end=None):
        self.end, self.losses = end, []

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.end:
            raise _EndedError

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            self.losses.append(logs["loss"])


def _gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0,
                                      eos_token_id=0))  # fmt: skip


def _bert():
    return BertForSequenceClassification(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_labels=2,
                                                    num_attention_heads=2, intermediate_size=8))  # fmt: skip


def _evaluation_set(data=TEXTS):
    return [default_data_collator(data[:16])]


def _instruments():
    return ["loss", landscape.live.every(3, "stability")]


def _callback(record=None, **more):
    settings = {"instruments": _instruments(), "budget": BUDGET, "on_error": "raise"}
    return WatchCallback(more.pop("batches", _evaluation_set()), record=record, **settings | more)


def train(folder, *callbacks, model=_gpt2, data=TEXTS, resume=None, **settings):
    set_seed(7)
    arguments = TrainingArguments(**{
        "output_dir": str(folder / "run"), "per_device_train_batch_size": BATCH, "max_steps": STEPS,
        "learning_rate": 0.02, "gradient_accumulation_steps": ACCUMULATED, "use_cpu": True, "disable_tqdm": True,
        "report_to": [], "logging_steps": 1, "save_steps": SAVED, "seed": 7, "dataloader_pin_memory": False, **settings,
    })  # fmt: skip
    trainer = Trainer(model(), arguments, train_dataset=data, eval_dataset=data[:4], callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def _same(one, other):
    assert one.keys() == other.keys()
    for key, values in one.items():
        np.testing.assert_array_equal(values, other[key], err_msg=str(key))


def test_a_watched_training_has_the_bits_of_an_unwatched_one(tmp_path):
    ending, watched_ending = _Ending(), _Ending()
    alone = train(tmp_path / "alone", ending)
    watched = train(tmp_path / "watched", _callback(), watched_ending)
    assert watched_ending.losses == ending.losses
    assert len(ending.losses) == STEPS
    assert equal(watched.model.state_dict(), alone.model.state_dict())
    assert equal(watched.optimizer.state_dict(), alone.optimizer.state_dict())
    assert not watched.model._forward_hooks


@pytest.mark.slow
def test_500_steps_have_the_same_bits(tmp_path):
    """With dropout, whose random numbers are never drawn anew."""
    alone = train(tmp_path / "alone", max_steps=500, save_steps=500)
    callback = _callback(instruments=None, budget=1.0)
    watched = train(tmp_path / "watched", callback, max_steps=500, save_steps=500)
    assert callback.watch.seconds > 0
    assert equal(watched.model.state_dict(), alone.model.state_dict())
    assert equal(watched.optimizer.state_dict(), alone.optimizer.state_dict())


class _Seeing(TrainerCallback):
    """Keeps the batches that the model is trained on."""

    def __init__(self):
        self.batches = []

    def on_train_begin(self, args, state, control, model, **_):
        model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, model, inputs, named):
        if not landscape.measuring():
            self.batches.append(named)


def _without_dropout():
    model = _gpt2()
    for each in model.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0.0
    return model


def _loop(path, batches):
    """The same training as a plain loop, watched by `landscape.watch` with the loss and the pairs written out."""
    set_seed(7)
    model = _without_dropout()
    optimizer = torch.optim.AdamW(model.parameters(), 0.02, weight_decay=0.0, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (STEPS - step) / STEPS)
    targets = torch.cat([TOKENS[:16, 1:], torch.full((16, 1), -100)], 1)
    rates = []
    with landscape.watch(
        model, nn.CrossEntropyLoss(), [({"input_ids": TOKENS[:16]}, targets)], optimizer=optimizer, record=path,
        budget=BUDGET, instruments=_instruments(), on_error="raise", read=lambda output: output.logits.transpose(1, 2),
    ) as watch:  # fmt: skip
        model.train()
        for step in range(STEPS):
            total = 0.0
            for named in batches[ACCUMULATED * step : ACCUMULATED * (step + 1)]:
                loss = model(**named).loss
                loss.backward()
                total += loss.detach()
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            watch.step(step, loss=total, batch=ACCUMULATED * BATCH)
    return model, rates


def test_the_rows_are_those_of_a_plain_loop(tmp_path):
    seeing = _Seeing()
    trainer = train(tmp_path, _callback(tmp_path / "trainer.h5"), seeing, model=_without_dropout, max_grad_norm=0.0)
    model, rates = _loop(tmp_path / "loop.h5", seeing.batches)
    assert equal(trainer.model.state_dict(), model.state_dict())
    found, expected = rows(tmp_path / "trainer.h5"), rows(tmp_path / "loop.h5")
    names = {"provenance", "sha256"}  # with the name of the function that reads the logits
    _same(*({key: each for key, each in one.items() if key[1] not in names} for one in (found, expected)))
    steps = found["stability", "step"]
    assert steps.tolist() == [0, 3, 6, 9]
    assert len(found["loss", "step"]) > 4
    np.testing.assert_array_equal(found["stability", "learning_rate"], np.array(rates)[steps])


class _Own(nn.Module):
    """A model of one's own, that returns a mapping with the mean loss of a batch."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(32, 2))

    def forward(self, input_ids, labels=None):
        logits = self.inside(input_ids)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


PAIRS = [({"input_ids": TOKENS[:16]}, TOKENS[:16, 0] % 2)]


@pytest.mark.parametrize(
    ("model", "data", "more"),
    [
        (_gpt2, TEXTS, {}),
        (_bert, CLASSES, {"batches": _evaluation_set(CLASSES)}),
        (_Own, CLASSES, {"batches": PAIRS, "loss": nn.CrossEntropyLoss()}),
    ],
    ids=["next token", "class", "own model"],
)
def test_the_losses_are_those_of_the_trainer_and_events_call_functions(tmp_path, model, data, more):
    hearing, ending, events = Hearing(), _Ending(), []
    callback = _callback(instruments=[hearing], on_error="rest", on={"instrument failed": events.append}, **more)
    train(tmp_path, callback, ending, model=model, data=data, eval_strategy="steps", eval_steps=3, save_strategy="no")
    np.testing.assert_allclose(hearing.losses, ending.losses, rtol=2**-22)  # two sums of two numbers in float32
    assert len(hearing.losses) == STEPS
    assert [each.message for each in events] == ["hearing rests: ZeroDivisionError"]


def _ended(folder, record, end, resume=None):
    with pytest.raises(_EndedError):
        train(folder, _callback(record), _Ending(end), resume=resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The rows of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, _callback(folder / "run.h5"))
    return rows(folder / "run.h5")


@pytest.mark.parametrize("ends", [(5,), pytest.param((4, 8), marks=pytest.mark.slow)])
def test_a_training_that_goes_on_from_its_checkpoint_has_the_rows_of_an_uninterrupted_one(tmp_path, ends, whole):
    record = tmp_path / "run.h5"
    for place, end in enumerate(ends):
        _ended(tmp_path, record, end, resume=place > 0)
        assert not record.exists()
    train(tmp_path, _callback(record), resume=True)
    _same(rows(record), whole)


def test_a_checkpoint_without_a_state_begins_at_its_step(tmp_path, whole):
    _ended(tmp_path, tmp_path / "run.h5", 5)
    (tmp_path / "run" / "checkpoint-3" / STATE).unlink()
    train(tmp_path, _callback(tmp_path / "run.h5"), resume=True)
    found = rows(tmp_path / "run.h5")["loss", "step"]
    assert found[found < SAVED].tolist() == [step for step in whole["loss", "step"] if step < SAVED]
    assert sorted(set(found)) == found.tolist()
    assert found[-1] == STEPS - 1


def test_an_error_leaves_an_unfinished_record_with_the_rows_before(tmp_path):
    record = tmp_path / "run.h5"
    with contextlib.suppress(_EndedError):
        train(tmp_path, _callback(record), _Ending(5))
    gc.collect()  # as the end of the process does
    assert not record.exists()
    with landscape.open_record(record) as tree:
        assert tree["loss"].step.values[-1] == 4


class _Copying(TrainerCallback):
    def on_step_end(self, args, state, control, model, **_):
        self.copy = copy.deepcopy(model)


def test_the_model_may_be_copied(tmp_path):
    copying, hearing = _Copying(), Hearing()
    train(tmp_path, _callback(instruments=[hearing], on_error="rest"), copying, max_steps=2)
    copying.copy.train()(TOKENS[:2], labels=TOKENS[:2])
    assert len(hearing.losses) == 2


@pytest.mark.parametrize(
    ("message", "more", "settings"),
    [
        ("a batch is a mapping with labels", {"batches": PAIRS}, {}),
        ("there are no batches to measure on", {"batches": []}, {}),
        ("the loss of _Own isn't known", {"batches": _evaluation_set(CLASSES)}, {"model": _Own, "data": CLASSES}),
        ("the Trainer smooths the labels", {}, {"label_smoothing_factor": 0.1}),
    ],
)
def test_what_has_no_known_loss_is_refused(tmp_path, message, more, settings):
    with pytest.raises(landscape.InputError, match=message):
        train(tmp_path, _callback(**more), **settings)
