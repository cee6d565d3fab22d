"""Plans: they count products as the measurements do, and write no file."""

from __future__ import annotations

import json
import math
import time

import pytest

import landscape
from landscape.measurements import BUILT_IN, Density, Dynamics, Loss, Slices1D, Spectrum, TopEigenpairs, Trace
from landscape.measurements.plan import plan

ASKED = ("--eigenpairs", "-k", 2, "--spectrum", "--trace", "--probes", 5)


def test_nothing_is_measured_or_written(command, tiny):
    before = tiny.listing()
    ran = command("a.pt", "b.pt", *ASKED, "--plan")
    assert (ran.status, ran.err) == (0, "")
    assert "Nothing was measured or written" in ran.out
    assert tiny.listing() == before


def test_what_is_planned_is_what_is_made(command, tiny):
    planned = {
        each["measurement"]: each for each in json.loads(command("a.pt", *ASKED, "--plan", "--json").out)["plan"]
    }
    row = json.loads(command("a.pt", *ASKED, "-o", "run.h5", "--json").out)["rows"][0]
    assert set(planned) == {"loss", "eigenpairs", "spectrum", "trace"}
    assert planned["spectrum"]["certainty"] == "exactly"
    assert planned["spectrum"]["products"] == row["spectrum"]["products"]
    assert planned["eigenpairs"]["certainty"] == "about"
    assert 0.5 <= planned["eigenpairs"]["products"] / row["eigenpairs"]["products"] <= 2
    assert planned["trace"]["products"] == row["trace"]["products"]
    assert all(each["seconds"] > 0 for each in planned.values())


def test_a_density_is_its_chains_and_the_solve():
    planned = plan("data/single.pt", [Density(probes=2, steps=20, k=0), Density(probes=2, steps=20, k=5)][:1])
    made = landscape.spectral_density(landscape.load_problem("data/single.pt").hessian(), 2, 20, 0).products
    assert planned.measurements[0].cost.products == made


def test_units_are_counted(tiny):
    planned = plan(["a.pt", "b.pt", "c.pt"], [Loss(), TopEigenpairs(k=2)])
    assert [each.units for each in planned.measurements] == [3, 3]


def test_a_whole_run_is_not_foreseen(tiny):
    planned = plan(["a.pt", "b.pt", "c.pt"], [Loss(), Spectrum(leading=3), Dynamics()])
    assert [(each.units, each.cost is None) for each in planned.measurements] == [(3, False), (3, False), (1, True)]
    assert math.isnan(planned.measurements[2].seconds)


def test_what_would_be_refused_is_refused(command, tiny):
    ran = command("a.pt", "--eigenpairs", "-k", 10**6, "--plan")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)


def test_several_processes_make_no_plan(command, tiny, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    ran = command("a.pt", "--plan")
    assert (ran.status, ran.out) == (2, "")
    assert "--plan runs in one process: start it without torchrun" in ran.err


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.__name__)
def test_every_measurement_of_a_checkpoint_has_a_cost(kind):
    assert kind.over_run or "cost" in vars(kind) or any("cost" in vars(base) for base in kind.__mro__[1:-2])


def test_a_trace_that_goes_on_until_its_error_is_small_is_at_least_so_many(tiny):
    (planned,) = plan("a.pt", [Trace()]).measurements
    assert planned.cost.certainty == "at least"


def test_the_time_is_that_of_losses_too(tiny, monkeypatch):
    """A loss that takes a tenth of a second makes 41 losses take some four."""
    evaluate = landscape.Problem.evaluate
    monkeypatch.setattr(landscape.Problem, "evaluate", lambda self: time.sleep(0.1) or evaluate(self))
    (planned,) = plan("a.pt", [Slices1D(points=41, reach=0.1)]).measurements
    assert planned.cost.losses >= 41
    assert planned.seconds >= 0.1 * planned.cost.losses
