"""Shortage of memory: a measurement continues with fewer samples at a time, and says so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from landscape import InputError, Problem, open_record
from landscape.checkpoint import save_checkpoint
from landscape.loading.source import Source
from landscape.machine.memory import ran_out
from landscape.machine.processes import Processes
from landscape.measurements import Loss, TopEigenpairs
from landscape.measurements.runner import probe
from landscape.measurements.shortage import with_less

HUGE = 10**15
"""More bytes than any machine has, which its allocator refuses."""


class Greedy(nn.Module):
    """A model that runs out of memory with a graph of more than ``most`` samples."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.inner = nn.Linear(3, 2, dtype=torch.float64)

    def forward(self, inputs):
        if torch.is_grad_enabled() and len(inputs) > self.most:
            torch.empty(HUGE)
        return self.inner(inputs)


FACTORY = """
import torch
from torch import nn
from landscape import Problem
from tests.measurements.test_shortage import Greedy

def problem(checkpoint, most=3, samples=10):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(samples, 3, generator=g, dtype=torch.float64), torch.randint(0, 2, (samples,), generator=g)
    return Problem(Greedy(most), nn.CrossEntropyLoss(), [(x, y)])
"""


def asked(folder, most):
    torch.manual_seed(0)
    (folder / "factory.py").write_text(FACTORY)
    save_checkpoint(folder / "model.pt", Greedy(most).state_dict(), arguments={"most": most})
    return {"source": Source(f"{folder / 'factory.py'}:problem"), "out": folder / f"{most}.h5"}


@pytest.mark.parametrize("memory", [torch.empty, np.empty, bytearray])
def test_the_real_refusal_is_known(memory):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        memory(HUGE)
    assert ran_out(caught.value)
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("measurement", [TopEigenpairs(k=2), Loss()], ids=lambda each: each.name)
def test_a_measurement_goes_on_in_smaller_batches(tmp_path, measurement):
    """Batches of ten samples, then of five, then of three give the numbers of a run with enough memory."""
    paths = {most: probe(tmp_path / "model.pt", [measurement], **asked(tmp_path, most)).path for most in (10, 3)}
    rows = {}
    for most, path in paths.items():
        with open_record(path) as record:
            rows[most] = record[measurement.name].dataset.load()
    told = {most: json.loads(str(row.provenance.values[0]))["notes"] for most, row in rows.items()}
    assert told[10] == []
    assert told[3] == [f"memory ran out with {n} samples at a time: now {m} samples" for n, m in ((10, 5), (5, 3))]
    name = "eigenvalues" if "eigenvalues" in rows[3] else "gradient_norm"
    np.testing.assert_allclose(rows[3][name], rows[10][name], rtol=1e-10)


@pytest.mark.parametrize("more", [Loss(), TopEigenpairs(k=2)])
def test_a_record_that_took_smaller_batches_is_gone_on_with(tmp_path, more):
    """When the run is resumed, its loss is compared with the record by a gradient, which needs small batches too."""
    first = probe(tmp_path / "model.pt", [Loss()], **asked(tmp_path, 3))
    assert probe(tmp_path / "model.pt", [more], **asked(tmp_path, 3)).measured == (more.name != "loss")
    assert first.measured == 1


class AsBefore(Loss):
    """A measurement that runs out of memory with the settings of an earlier row."""

    def measure(self, problem, bar, history):
        if history.choices is not None:
            torch.empty(HUGE)
        return super().measure(problem, bar, history)


def test_a_way_that_takes_too_much_is_not_gone_again(tmp_path):
    """The second of six checkpoints runs out of memory, and batches are halved only once."""
    settings = asked(tmp_path, 10)
    paths = [tmp_path / f"step-{step}.pt" for step in range(6)]
    for step, path in enumerate(paths):
        save_checkpoint(path, Greedy(10).state_dict(), step=step, arguments={"most": 10})
    rows = probe(paths, [AsBefore()], **settings).rows
    notes = [json.loads(str(row.data["loss"].provenance.values))["notes"] for row in rows]
    assert notes == [[], *[["memory ran out with 10 samples at a time: now 5 samples"]] * 5]


def test_a_sample_that_does_not_fit_is_said_to_be_one(tmp_path):
    with pytest.raises(InputError, match=r"memory ran out with one sample at a time .*ask for less") as caught:
        probe(tmp_path / "model.pt", [TopEigenpairs(k=2)], **asked(tmp_path, 0))
    assert "\n" not in str(caught.value)


def test_samples_that_belong_together_are_not_parted():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    posed = Problem(model, nn.CrossEntropyLoss(), [(torch.randn(8, 3), torch.tensor([0, 1] * 4))], training=True)
    with pytest.raises(InputError, match=r"memory ran out .why., and batches of 8 samples can't be split"):
        with_less(posed, "why")


def test_processes_do_not_decide_by_themselves():
    posed = Problem(nn.Linear(3, 2), nn.CrossEntropyLoss(), [(torch.randn(8, 3), torch.tensor([0, 1] * 4))])
    with pytest.raises(InputError, match=r"memory ran out .why.: give a --batch-size below 8"):
        with_less(posed.distributed_over(Processes(0, 2)), "why")
