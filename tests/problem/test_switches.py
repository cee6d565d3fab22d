"""Torch's global switches: they are set while a problem is evaluated, and always restored."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from torch import nn
from torch.backends import cuda, cudnn, mha

from landscape import InputError, Problem
from landscape.problem import switches

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.compile(lambda x: x)  # loads torch's compiler, which then has a stance


def posed(model: nn.Module, dtype: torch.dtype = torch.float64) -> Problem:
    return Problem(model, nn.MSELoss(), [(torch.ones(4, 3), torch.ones(4, 1))], dtype=dtype)


@pytest.fixture(params=["as torch has them", "all the other way round"])
def before(request):
    """All switches in two states that a user may set."""
    original = switches.state()
    try:
        if request.param != "as torch has them":
            torch.set_default_dtype(torch.float64)
            mha.set_fastpath_enabled(False)
            torch.compiler.set_stance("eager_on_recompile")
            for enable in (cuda.enable_flash_sdp, cuda.enable_mem_efficient_sdp, cuda.enable_cudnn_sdp):
                enable(False)
            cuda.matmul.allow_tf32 = True
            cudnn.allow_tf32 = False
            cudnn.enabled = False
        yield switches.state()
    finally:
        for name, value in original.items():
            switches._SWITCHES[name][1](value)


def test_every_switch_is_set_inside_and_put_back(before):
    problem = posed(nn.Linear(3, 1))
    with problem.evaluating():
        inside = switches.state()
    assert inside["default dtype"] == torch.float64
    assert inside["stance"].stance == "force_eager"
    assert [inside[name] for name in ("fast path", "TF32 products", "TF32 convolutions")] == [False] * 3
    assert [inside[name] for name in inside if name.endswith("attention")] == [False, False, False, True]
    assert switches.state() == before
    posed(nn.Linear(3, 1), torch.float32).hessian().matvec(torch.ones(4, dtype=torch.float32))
    problem.loss(), problem.gradient(), problem.hessian().matvec(torch.ones(4, dtype=torch.float64))
    assert switches.state() == before


def test_recurrent_models_are_without_cudnn():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTM(1, 1, batch_first=True)

        def forward(self, x):
            return self.cell(x.unsqueeze(2))[0][:, -1]

    with posed(Recurrent()).evaluating():
        assert not cudnn.enabled
    assert cudnn.enabled


def test_exceptions_leave_every_switch_as_it_was(before):
    class Failing(nn.Linear):
        fails = False

        def forward(self, x):
            if self.fails:
                raise RuntimeError("as asked")
            return super().forward(x)

    model = Failing(3, 1)
    problem = posed(model)
    model.fails = True
    for evaluate in (problem.loss, problem.gradient, problem.hessian, lambda: posed(model)):
        with pytest.raises(RuntimeError, match="as asked"):
            evaluate()
        assert switches.state() == before
    other = nn.Linear(3, 1)
    kept = list(other.parameters())
    with pytest.raises(InputError, match="through another reference"):
        Problem(other, lambda out, t: (out - t).square().mean() + kept[0].sum(), [(torch.ones(4, 3), torch.ones(4, 1))])
    assert switches.state() == before


def test_evaluations_inside_each_other_put_back_what_each_found(before):
    wide, narrow = posed(nn.Linear(3, 1)), posed(nn.Linear(3, 1), torch.float32)
    with wide.evaluating():
        outer = switches.state()
        with narrow.evaluating():
            assert torch.get_default_dtype() == torch.float32
        assert switches.state() == outer
    assert switches.state() == before


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_evaluations_in_threads_put_back_what_the_first_one_found(before, first_to_end):
    problems = [posed(nn.Linear(3, 1)), posed(nn.Linear(3, 1))]
    begun, end = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def evaluate(index):
        with problems[index].evaluating():
            begun[index].set()
            end[index].wait(10)

    threads = [threading.Thread(target=evaluate, args=(index,)) for index in range(2)]
    for index, thread in enumerate(threads):
        thread.start()
        assert begun[index].wait(10)
    inside = switches.state()
    for index in (first_to_end, 1 - first_to_end):
        assert switches.state() == inside, "what runs still, runs as it began"
        end[index].set()
        threads[index].join()
    assert switches.state() == before
