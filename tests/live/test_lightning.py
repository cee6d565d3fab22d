"""A training of Lightning that is watched by the callback: the bits, the rows, and what happens at its end."""

from __future__ import annotations

import csv
import shutil
from functools import partial

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

import landscape
from landscape.live.lightning import WatchCallback
from tests.live.test_resume import rows
from tests.live.trainings import Hearing, equal

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers which may be a bottleneck:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging:UserWarning"),
]
INPUTS = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS.sin().sum(1, keepdim=True)
INSTRUMENTS = ("loss", "top_eigenvalues", "stability")
BUDGET = 40.0
LAST = "checkpoints/last.ckpt"
BATCH, EPOCH, EPOCHS = 8, 6, 4  # samples of a batch, batches of an epoch, epochs


class _EndedError(Exception):
    pass


def _net():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))


def _loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(INPUTS, TARGETS), BATCH)


def _optimizers(parameters):
    optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9)
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


class Module(lightning.LightningModule):
    """A module of Lightning that keeps its losses, and may raise an error at a batch."""

    def __init__(self, end=None):
        super().__init__()
        self.net, self.end, self.losses = _net(), end, []

    def forward(self, inputs):
        return self.net(inputs)

    def on_train_batch_start(self, batch, index):
        torch.manual_seed(EPOCH * self.current_epoch + index)  # Lightning's checkpoints have no random numbers

    def training_step(self, batch, index):
        if self.trainer.fit_loop.epoch_loop.total_batch_idx == self.end:
            raise _EndedError
        loss = nn.functional.mse_loss(self(batch[0]), batch[1])
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        optimizer, scheduler = _optimizers(self.parameters())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _callback(record=None, **more):
    settings = {"instruments": INSTRUMENTS, "budget": BUDGET, "on_error": "raise"}
    loss = more.pop("loss", nn.MSELoss())
    return WatchCallback(loss, [(INPUTS[:32], TARGETS[:32])], record=record, **settings | more)


def fit(folder, *callbacks, module=Module, accumulate=1, epochs=EPOCHS, resume=None, logger=False):
    torch.manual_seed(7)
    module = module()
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=logger, callbacks=list(callbacks),
        accumulate_grad_batches=accumulate, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
    )  # fmt: skip
    trainer.fit(module, _loader(), ckpt_path=resume)
    return module, trainer


def _loop(path, accumulate=1):
    """The same training as a plain loop, watched by `landscape.watch`."""
    torch.manual_seed(7)
    model, loader = _net(), _loader()
    optimizer, scheduler = _optimizers(model.parameters())
    step, rates, total = 0, [], 0.0
    with landscape.watch(
        model, nn.MSELoss(), [(INPUTS[:32], TARGETS[:32])], optimizer=optimizer, record=path, budget=BUDGET,
        instruments=INSTRUMENTS, on_error="raise",
    ) as watch:  # fmt: skip
        for epoch in range(EPOCHS):
            for place, (inputs, targets) in enumerate(loader):
                torch.manual_seed(EPOCH * epoch + place)
                loss = nn.functional.mse_loss(model(inputs), targets) / accumulate
                loss.backward()
                total += loss.detach()
                if (place + 1) % accumulate == 0:
                    rates.append(optimizer.param_groups[0]["lr"])
                    optimizer.step()
                    optimizer.zero_grad()
                    watch.step(step, loss=total, batch=accumulate * BATCH)
                    step, total = step + 1, 0.0
                    scheduler.step()
    return model, rates


class _Unseeded(Module):
    """A module whose dropout goes on with the random numbers of the process."""

    def on_train_batch_start(self, batch, index):
        pass


@pytest.mark.slow
def test_500_steps_have_the_same_bits(tmp_path):
    alone, _ = fit(tmp_path / "alone", module=_Unseeded, epochs=84)
    callback = _callback(instruments=None, budget=1.0)
    watched, trainer = fit(tmp_path / "watched", callback, module=_Unseeded, epochs=84)
    assert trainer.global_step == 84 * EPOCH
    assert callback.watch.seconds > 0
    assert watched.losses == alone.losses
    assert equal(watched.state_dict(), alone.state_dict())


def _same(one, other):
    assert one.keys() == other.keys()
    for key, values in one.items():
        np.testing.assert_array_equal(values, other[key], err_msg=str(key))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_watched_training_has_the_bits_of_an_unwatched_one(tmp_path, accumulate):
    alone, plain = fit(tmp_path, accumulate=accumulate)
    watched, trainer = fit(tmp_path, _callback(), accumulate=accumulate)
    assert watched.losses == alone.losses
    assert equal(watched.state_dict(), alone.state_dict())
    assert equal(trainer.optimizers[0].state_dict(), plain.optimizers[0].state_dict())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_rows_are_those_of_a_plain_loop(tmp_path, accumulate):
    """Of the module, whose parameters have other names than the loop's; and of its net, where all is equal."""
    net = accumulate == 2
    callback = _callback(tmp_path / "lightning.h5", model=(lambda module: module.net) if net else None)
    module, _ = fit(tmp_path, callback, accumulate=accumulate)
    model, rates = _loop(tmp_path / "loop.h5", accumulate)
    assert equal(module.net.state_dict(), model.state_dict())
    found, expected = rows(tmp_path / "lightning.h5"), rows(tmp_path / "loop.h5")
    names = set() if net else {"provenance", "sha256"}
    _same(*({key: each for key, each in one.items() if key[1] not in names} for one in (found, expected)))
    steps = found["loss", "step"]
    assert len(steps) > 8 // accumulate
    assert steps[-1] == len(rates) - 1
    np.testing.assert_array_equal(found["stability", "learning_rate"], np.array(rates)[found["stability", "step"]])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_s_loss_is_the_mean_of_its_batches_and_events_call_functions(tmp_path, accumulate):
    hearing, events = Hearing(), []
    callback = _callback(instruments=[hearing], on_error="rest", on={"instrument failed": events.append})
    module, _ = fit(tmp_path, callback, accumulate=accumulate)
    expected = np.reshape(module.losses, (-1, accumulate)).mean(1)
    np.testing.assert_allclose(hearing.losses, expected, rtol=2**-23)  # halves are exact, and their sum is rounded
    assert [each.message for each in events] == ["hearing rests: ZeroDivisionError"]
    assert callback.watch.events == events


def _checkpoints(folder):
    return ModelCheckpoint(dirpath=folder / "checkpoints", filename="last", enable_version_counter=False)


def _ended(folder, record, end, resume=None):
    with pytest.raises(_EndedError):
        fit(folder, _callback(record), _checkpoints(folder), module=partial(Module, end), resume=resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The rows of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    fit(folder, _callback(folder / "run.h5"))
    return rows(folder / "run.h5")


@pytest.mark.parametrize("ends", [(15,), pytest.param((8, 20), marks=pytest.mark.slow)])
def test_a_training_that_goes_on_from_its_checkpoint_has_the_rows_of_an_uninterrupted_one(tmp_path, ends, whole):
    record = tmp_path / "run.h5"
    for place, end in enumerate(ends):
        _ended(tmp_path, record, end, tmp_path / LAST if place else None)
        assert not record.exists()
        with landscape.open_record(record) as tree:  # the rows up to the error are on disk
            assert tree["loss"].step.values[-1] == end - 1
    fit(tmp_path, _callback(record), _checkpoints(tmp_path), resume=tmp_path / LAST)
    _same(rows(record), whole)


def test_a_finished_training_may_be_made_longer(tmp_path, whole):
    fit(tmp_path, _callback(tmp_path / "run.h5"), _checkpoints(tmp_path), epochs=2)
    fit(tmp_path, _callback(tmp_path / "run.h5"), _checkpoints(tmp_path), resume=tmp_path / LAST)
    _same(rows(tmp_path / "run.h5"), whole)


def test_a_checkpoint_without_a_state_begins_at_its_step(tmp_path):
    fit(tmp_path, _checkpoints(tmp_path), epochs=2)
    fit(tmp_path, _callback(tmp_path / "run.h5"), _checkpoints(tmp_path), resume=tmp_path / LAST)
    assert rows(tmp_path / "run.h5")["loss", "step"][0] == 2 * EPOCH


class _Two(Module):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [torch.optim.SGD(each.parameters(), 0.1) for each in (self.net[0], self.net[3])]


def test_several_optimisers_are_refused(tmp_path):
    with pytest.raises(landscape.InputError, match="the training has 2 optimisers, and the callback watches the steps"):
        fit(tmp_path, _callback(), module=_Two)


def test_numbers_go_to_the_loggers_of_the_trainer(tmp_path):
    for name, more in (("all", {}), ("none", {"log_to": []})):
        logger = CSVLogger(tmp_path, name, version="")
        fit(tmp_path, _callback(budget=1.0, **more), logger=logger, epochs=1)
        logger.save()
    with (tmp_path / "all" / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {"loss/loss", "top_eigenvalues/eigenvalue[0]"} <= table[0].keys()
    assert {int(row["step"]) for row in table} <= set(range(EPOCH))
    assert not (tmp_path / "none" / "metrics.csv").exists()


class _Losing(Module):
    """Loses the folder of the record during the training."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_batch_end(self, *_):
        if self.trainer.global_step == 9:
            shutil.rmtree(self.folder)


def test_a_disk_that_takes_no_rows_ends_no_training(tmp_path, caplog):
    (tmp_path / "lost").mkdir()
    alone, _ = fit(tmp_path)
    module, _ = fit(tmp_path, _callback(tmp_path / "lost" / "run.h5"), _checkpoints(tmp_path),
                    module=partial(_Losing, tmp_path / "lost"))  # fmt: skip
    assert equal(module.state_dict(), alone.state_dict())
    messages = [each.message for each in caplog.records if each.name == "landscape"]
    assert any("the training's checkpoint has no state of the watch" in each for each in messages)
    assert any("the record stays unfinished" in each for each in messages)
    assert "WatchCallback" not in torch.load(tmp_path / LAST, weights_only=True)["callbacks"]
