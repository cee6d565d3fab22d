"""The studies: intervals against SciPy, units of work that are done once, and every study from end to end in small."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import xarray as xr
from scipy import stats

import landscape
from analysis import __main__ as command
from analysis.studies import STUDIES, alignment, force, learning, lengths, quadratic, shift, spectra
from analysis.support.intervals import (
    Interval,
    difference_of,
    mean_of,
    paired_effect,
    pooled_effect,
    rank_correlation,
    share_of,
)
from analysis.support.runs import model_at, run_folder, train_run, training_units
from analysis.support.study import Scale
from analysis.support.units import Unit, code_of, results_of
from data.markov import MarkovLanguage
from landscape.errors import InputError
from models.settings import SwitchSettings, TrainingSettings
from models.tasks import inputs_and_targets, score_bayes

TINY = TrainingSettings("looped", epochs=3, steps_per_epoch=4, batch=8)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class TestIntervals:
    def test_means_are_scipy_s(self) -> None:
        first, second = np.random.default_rng(0).normal(size=(2, 5))
        found, reference = difference_of(first, second), stats.ttest_rel(first, second).confidence_interval()
        assert (found.low, found.high) == pytest.approx((reference.low, reference.high), rel=1e-12)
        assert found.value == pytest.approx((first - second).mean(), rel=1e-12)
        assert mean_of([1.0, 3.0]).text(1) == f"2.0 [{2 - stats.t.ppf(0.975, 1):.1f}, {2 + stats.t.ppf(0.975, 1):.1f}]"

    def test_effects_are_the_mean_by_the_deviation(self) -> None:
        """The differences are 1, 2 and 3 with a deviation of 1. The groups have variances of 4 and 1."""
        pair = [2.0, 4.0, 6.0], [1.0, 2.0, 3.0]
        assert paired_effect(*pair) == pytest.approx(2.0)
        assert pooled_effect(*pair) == pytest.approx(2 / math.sqrt(2.5))
        assert math.isnan(paired_effect([2.0, 3.0], [1.0, 2.0]))
        assert math.isnan(pooled_effect([2.0, 2.0], [1.0, 1.0]))

    @pytest.mark.slow
    def test_rank_correlation_covers(self) -> None:
        """In 100 samples of 30 pairs with correlation 0.5, the interval misses Spearman's 0.483 in some 5 %.

        A percentile bootstrap of 30 pairs covers a little less than 95 %. 14 misses are four deviations above 5 %.
        """
        generator = np.random.default_rng(0)
        misses = 0
        for seed in range(100):
            x = generator.normal(size=30)
            y = 0.5 * x + math.sqrt(0.75) * generator.normal(size=30)
            found = rank_correlation(x, y, resamples=200, seed=seed)
            misses += not found.low <= 6 / math.pi * math.asin(0.25) <= found.high
        assert misses <= 14

    @pytest.mark.slow
    def test_pairs_of_a_group_are_resampled_together(self) -> None:
        """In 18 groups of three similar but unrelated pairs, the interval misses zero in some 5 to 10 % of cases.

        With independent resampling of all pairs it would miss zero in 25 %. 100 cases distinguish 15 misses from that.
        """
        generator = np.random.default_rng(0)
        groups = np.repeat(np.arange(18), 3)
        misses = 0
        for seed in range(100):
            x, y = (generator.normal(size=18)[groups] + 0.3 * generator.normal(size=54) for _ in range(2))
            found = rank_correlation(x, y, groups, resamples=300, seed=seed)
            misses += not found.low <= 0 <= found.high
        assert misses <= 15

    def test_rank_correlation_is_scipy_s_ties_included(self) -> None:
        x, y = [1, 2, 2, 3, 5, 4], [2, 1, 3, 3, 6, 5]
        assert rank_correlation(x, y).value == pytest.approx(stats.spearmanr(x, y).statistic)
        assert rank_correlation(range(9), range(9)).low == pytest.approx(1.0)

    def test_too_few_are_refused(self) -> None:
        with pytest.raises(InputError):
            mean_of([1.0])
        with pytest.raises(InputError):
            rank_correlation([1, 2, 3], [1, 2, 3])

    def test_shares_stay_between_0_and_1(self) -> None:
        assert share_of([0.99, 1.0, 0.98]) == replace(mean_of([0.99, 1.0, 0.98]), high=1.0)
        assert (share_of([0.0, 0.1]).low, share_of([0.4, 0.6]).value) == (0.0, 0.5)


def doubled(number: int, log: str) -> int:
    """Work that writes its argument into a file, and returns twice the number."""
    with open(log, "a") as file:
        file.write(f"{number}\n")
    if number < 0:
        raise InputError("negative")
    return 2 * number


def sleeping(folder: str, i: int) -> None:
    """Work that takes longer than any test."""
    (Path(folder) / f"pid{i}").write_text(str(os.getpid()))
    time.sleep(600)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for 90 seconds at most: two interpreters with torch start slowly on a busy machine."""
    for _ in range(900):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it didn't happen")


def is_alive(pid: int) -> bool:
    """Whether the process exists and isn't a zombie."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


class TestUnits:
    def units(self, folder: Path, *numbers: int) -> list[Unit]:
        return [
            Unit(f"u{place}", doubled, {"number": n, "log": str(folder / "log")}) for place, n in enumerate(numbers)
        ]

    @pytest.mark.slow
    @pytest.mark.parametrize("workers", [1, 2])
    def test_each_is_done_once(self, tmp_path: Path, workers: int) -> None:
        for _ in range(2):
            found = results_of(self.units(tmp_path, 3, 4), tmp_path / "kept", workers, "")
            assert found == {"u0": 6, "u1": 8}
        assert sorted((tmp_path / "log").read_text().split()) == ["3", "4"]

    def test_with_other_arguments_it_is_done_anew(self, tmp_path: Path) -> None:
        results_of(self.units(tmp_path, 3), tmp_path, 1, "")
        assert results_of(self.units(tmp_path, 5), tmp_path, 1, "") == {"u0": 10}

    def test_code_is_of_all_that_a_function_uses_of_its_module(self) -> None:
        """A change of a helper changes the code of a measurement, and a change of the report doesn't."""
        code = code_of(quadratic.measure)
        assert code.startswith("class _Lines")
        assert "def measure(" in code
        assert "def _remainders(" not in code

    @pytest.mark.slow
    def test_workers_end_with_a_command_that_is_killed(self, tmp_path: Path) -> None:
        """A command that is killed can't end its workers. Each worker notices the end by itself within some seconds."""
        code = (
            "import sys; from pathlib import Path; from analysis.support.units import Unit, results_of\n"
            "from tests.analysis.test_analysis import sleeping\n"
            "folder = Path(sys.argv[1])\n"
            "if __name__ == '__main__':\n"
            "    units = [Unit(f'u{i}', sleeping, {'folder': str(folder), 'i': i}) for i in (0, 1)]\n"
            "    results_of(units, folder, 2, '')\n"
        )
        (tmp_path / "main.py").write_text(code)
        environment = os.environ | {"PYTHONPATH": os.getcwd()}
        command = subprocess.Popen([sys.executable, str(tmp_path / "main.py"), str(tmp_path)], env=environment)
        files = [tmp_path / f"pid{i}" for i in (0, 1)]
        wait_for(lambda: all(file.exists() and file.read_text() for file in files))
        command.kill()
        command.wait()
        wait_for(lambda: not any(is_alive(int(file.read_text())) for file in files))

    def test_what_is_finished_survives_a_failure(self, tmp_path: Path) -> None:
        with pytest.raises(InputError):
            results_of(self.units(tmp_path, 3, -1, 4), tmp_path, 1, "")
        assert results_of(self.units(tmp_path, 3, 1, 4), tmp_path, 1, "") == {"u0": 6, "u1": 2, "u2": 8}
        assert (tmp_path / "log").read_text().split() == ["3", "-1", "1", "4"]


class TestRuns:
    def test_other_settings_are_another_folder(self, tmp_path: Path) -> None:
        units = training_units(tmp_path, {"a": TINY, "b": TrainingSettings("single")}, 2)
        assert [unit.name for unit in units] == ["train-a-0", "train-b-0", "train-a-1", "train-b-1"]
        folders = {run_folder(tmp_path, "a", unit.arguments["settings"]) for unit in units}
        assert len(folders) == 4

    def test_a_run_is_told_by_its_journal_and_checkpoints(self, tmp_path: Path) -> None:
        run = train_run("a", TINY, str(tmp_path))
        assert run["steps"] == [0, 1, 2, 4, 8, 12]
        assert len(run["loss"]) == len(run["flops"]) == 3
        assert run["switched"] is None
        model = model_at(Path(run["folder"]) / "step-000012.pt")
        inputs, targets = inputs_and_targets(MarkovLanguage().sample(1024, 0))
        hits = (model(inputs).argmax(dim=1) == targets).double().mean().item()
        assert run["metrics"]["evaluation_accuracy_overall"][-1] == pytest.approx(hits, rel=1e-12)


class TestLearning:
    def test_scores_are_those_of_the_last_checkpoint(self, tmp_path: Path) -> None:
        run = train_run("a", TINY, str(tmp_path))
        found = learning.score(run["folder"], 256)
        sequences = MarkovLanguage().sample(256, 1)
        inputs, targets = inputs_and_targets(sequences)
        logits = model_at(Path(run["folder"]) / "step-000012.pt")(inputs)
        hits = (logits.argmax(dim=1) == targets).numpy()
        assert found["accuracy complex"] == pytest.approx(hits[sequences.is_complex].mean(), rel=1e-12)
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none").mean(dim=1).detach().numpy()
        assert found["excess"] == pytest.approx((losses - score_bayes(sequences).loss).mean(), abs=1e-5)
        assert found["excess"] > 3 * found["excess error"] > 0


class TestShift:
    def run(self, **more: object) -> dict[str, object]:
        """A run of six epochs of two steps, with a switch after the second epoch."""
        return {
            "steps": [0, 4, 6, 8, 10, 12], "flops": [1.0, 1, 3, 3, 3, 3], "loops": [1, 1, 3, 3, 3, 3], "switched": 2,
            "metrics": {
                "evaluation_accuracy": [0.0, 0.5, 0.2, 0.4, 0.6, 0.8],
                "switched_evaluation_accuracy": [None, 0.1, None, None, None, None],
                "evaluation_loss": [2.0, 1.0, 1.5, 1.2, 1.0, 0.8],
            },
        } | more  # fmt: skip

    def test_what_a_switch_costs(self) -> None:
        contest = shift.contest_of("copy", Scale(True, Path(), Path()))
        found = shift._switch(self.run(), contest)
        assert found == {"switched": 2, "before": 0.5, "after": 0.1, "lowest": 0.1, "recovered": 3.0}
        assert all(math.isnan(value) for value in shift._switch(self.run(switched=None), contest).values())

    def test_a_recovery_that_does_not_come_is_never(self) -> None:
        contest = shift.contest_of("copy", Scale(True, Path(), Path()))
        run = self.run()
        run["metrics"]["evaluation_loss"] = [2.0, 1.0, 1.5, 1.2, 1.1, 1.05]
        assert shift._switch(run, contest)["recovered"] == math.inf
        assert shift._spread(np.array([3.0, math.inf, math.inf])) == "never (3 to never)"

    @pytest.mark.parametrize(
        ("low", "high", "verdict"),
        [
            (-0.01, 0.02, "equal"),
            (0.021, 0.1, "different"),
            (-0.1, -0.03, "different"),
            (-0.01, 0.03, "not lower"),
            (-0.03, 0.01, "can't be told"),
        ],
    )
    def test_a_difference_is_equal_different_or_untold(self, low: float, high: float, verdict: str) -> None:
        assert shift._verdict(Interval((low + high) / 2, low, high, 3)) == verdict

    def test_equal_operations_lie_between_checkpoints(self) -> None:
        """8 operations end at epoch 4, step 8. 6.5 operations end halfway between step 6 and step 8."""
        contest = shift.contest_of("markov", Scale(True, Path(), Path()))
        assert shift._at_flops([self.run()], contest, 8.0, ["evaluation_accuracy"]) == pytest.approx(0.4)
        assert shift._at_flops([self.run()], contest, 6.5, ["evaluation_accuracy"]) == pytest.approx(0.3)
        assert math.isnan(shift._at_flops([self.run()], contest, 99.0, ["evaluation_accuracy"]))

    def test_equal_operations_lie_between_two_runs_whose_rate_falls(self) -> None:
        """6 operations reach 0.6 and 14 reach 0.8. Numbers between 6 and 14 are interpolated, all others give NaN."""
        contest = shift.contest_of("copy", Scale(True, Path(), Path()))
        shorter = {"flops": [3.0, 3.0], "metrics": {"evaluation_accuracy": [0.0, 0.5, 0.6]}}
        assert shift._at_flops([shorter, self.run()], contest, 10.0, ["evaluation_accuracy"]) == pytest.approx(0.7)
        for flops in (5.0, 15.0):
            assert math.isnan(shift._at_flops([shorter, self.run()], contest, flops, ["evaluation_accuracy"]))
        assert math.isnan(shift._at_flops([self.run()], contest, 10.0, ["evaluation_accuracy"]))

    def test_equal_operations_are_of_the_mean_of_several_accuracies(self) -> None:
        contest = shift.contest_of("copy", Scale(True, Path(), Path()))
        runs = [
            {"flops": [flops], "metrics": {"a": [a], "b": [b]}} for flops, a, b in ((6.0, 0.2, 0.4), (14.0, 0.6, 1.0))
        ]
        assert shift._at_flops(runs, contest, 10.0, ["a", "b"]) == pytest.approx(0.55)

    def test_the_watched_run_tells_when_any_threshold_would_switch(self) -> None:
        run = {"loss": [5.0, 4, 3, 3, 3, 3], "gradient_norms": [1.0] * 6}
        assert shift._fires(run, 0.1, 0.1, 3) == 6
        assert shift._fires(run, 0.1, 0.1, 4) is None

    def test_the_watched_run_never_switches(self) -> None:
        contest = shift.contest_of("markov", Scale(False, Path(), Path()))
        assert contest.staged["watched"].switch == SwitchSettings("shift", patience=shift.NEVER)
        assert {arm.epochs for arm in (contest.unstaged | contest.staged).values()} == {200}

    @pytest.mark.parametrize(("accuracy", "units"), [(0.89, 0), (0.91, 15)])
    def test_staged_training_is_tried_where_looped_training_learns(self, accuracy: float, units: int) -> None:
        """If looped training learns, five more arms are trained: three switches, the watched and the shorter run."""
        scale = Scale(False, Path(), Path())
        _, staged = shift.study_of("copy").stages(scale)
        assert callable(staged)
        last = [accuracy - 0.2, accuracy, accuracy + 0.2]
        found = {
            f"train-looped-{seed}": {"metrics": {"evaluation_accuracy": [0.0, each]}} for seed, each in enumerate(last)
        }
        names = [unit.name for unit in staged(found)]
        assert sum(name.startswith("train") for name in names) == units
        assert sum(name.startswith("shape") for name in names) == 9  # three arms without a switch, three seeds


def basis_of(problem: landscape.Problem) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of the problem's Hessian."""
    found = landscape.full_spectrum(problem.hessian(), eigenvectors=True)
    assert found.eigenvectors is not None
    return found.eigenvalues, found.eigenvectors


class TestSpectra:
    @pytest.mark.slow
    def test_the_eigenbasis_is_that_of_the_hessian(self, tmp_path: Path) -> None:
        """The eigenvalues are in descending order with their signs, and differ by no more than float32's rounding."""
        run = train_run("a", replace(TINY, width=2, heads=1), str(tmp_path))
        spectra.measure(run["folder"], (0, 12), 1)
        values, vectors = spectra.eigenbasis(run["folder"], 12)
        problem = landscape.load_problem(Path(run["folder"]) / "step-000012.pt", dtype="float64")
        exact, _ = basis_of(problem)
        assert values == pytest.approx(exact, abs=1e-6 * exact[0])
        assert (vectors * values) @ vectors.T == pytest.approx(landscape_matrix(problem), abs=1e-5 * exact[0])


def landscape_matrix(problem: landscape.Problem) -> np.ndarray:
    """The Hessian as a matrix."""
    return problem.hessian().matmat(torch.eye(problem.layout.dim, dtype=problem.dtype)).numpy()


class TestQuadratic:
    def test_a_quadratic_loss_leaves_no_remainder(self) -> None:
        """For least squares, the loss changes by exactly the linear and the quadratic term along any direction."""
        torch.manual_seed(0)
        x, y = torch.randn(20, 3, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
        problem = landscape.Problem(torch.nn.Linear(3, 1).double(), torch.nn.MSELoss(), [(x, y)])
        lines = quadratic._Lines(problem, *basis_of(problem))
        direction = torch.tensor([0.5, -0.5, 0.5, 0.5], dtype=torch.float64)
        found = {name: np.array(values) for name, values in lines.along(direction, 0.1).items()}
        assert found["change"] == pytest.approx(found["linear"] + found["quadratic"], rel=1e-10)
        hessian = 2 * np.c_[x, np.ones(20)].T @ np.c_[x, np.ones(20)] / 20
        assert found["quadratic"][2] == pytest.approx(0.5 * direction.numpy() @ hessian @ direction.numpy(), rel=1e-10)

    def test_shares_are_of_the_eigenvalues_beyond_the_threshold(self) -> None:
        """The matrix is diag(1, 0.05, -0.02), the direction (1, 1, 1), eps 0.001, 0.01 and 0.1; their sum is 1.07."""
        scales = torch.tensor([1.0, 0.05, -0.02], dtype=torch.float64)
        model = torch.nn.ParameterList([torch.zeros(3, dtype=torch.float64)])
        problem = landscape.Problem.from_sample_losses(
            model,
            lambda model, batch: 0.5 * batch * (scales * model[0] ** 2).sum(),
            [torch.ones(2, dtype=torch.float64)],
        )
        lines = quadratic._Lines(problem, *basis_of(problem))
        found = lines.along(torch.full((3,), 3**-0.5, dtype=torch.float64), 1.0)["shares"]
        cut = [1.05 / 1.07, 0, -0.02 / 1.07]
        assert np.array(found) == pytest.approx(np.array([cut, cut, [1 / 1.07, 0.03 / 1.07, 0]]), rel=1e-9)


class TestForce:
    def test_one_valley_direction_by_hand(self) -> None:
        """The coordinate x halves at each step, so its sum is 2 x(0) (1 - 2^-K). The river hardly moves."""
        found = force.descend(np.array([1.0]), np.array([[1e-9]]), np.array([3.0]), 0.5)
        assert found["force"] == pytest.approx(6e-9, rel=1e-9)
        assert found["closed"] == pytest.approx(6e-9, rel=1e-9)
        assert found["river"] == pytest.approx(3e-9, rel=1e-9)
        assert found["bound"] == pytest.approx(12e-9, rel=1e-9)
        assert (found["flattest"], found["loss_before"]) == (0.0, 4.5)  # a quarter of one, rounded down, is 0

    @pytest.mark.parametrize("rate", [0.1, 0.9, 1.5, 1.9])
    def test_the_closed_form_and_the_bound_hold_where_the_river_stands_still(self, rate: float) -> None:
        generator = np.random.default_rng(0)
        for _ in range(20):
            eigenvalues, start = generator.uniform(0.01, 1, 12), generator.normal(size=12)
            found = force.descend(eigenvalues, 1e-9 * generator.normal(size=(12, 3)), start, rate)
            assert found["force"] == pytest.approx(found["closed"], rel=1e-6)
            assert found["force"] <= found["bound"]

    @pytest.mark.slow
    def test_a_window_of_a_run(self, tmp_path: Path) -> None:
        """The shares of all slices of the valley sum to one, and the valley's force is most of the gradient's force."""
        settings = TrainingSettings("looped", epochs=1, steps_per_epoch=4, batch=16, width=2, heads=1)
        run = train_run("a", settings, str(tmp_path))
        spectra.measure(run["folder"], (0, 4), 1)
        found = force.measure(run["folder"], 4, 2)
        for name in ("shares", "moved"):
            assert sum(found[name]) == pytest.approx(1, abs=1e-9)
        assert sum(found["counts"]) == len(found["eigenvalues"]) == len(found["turns"])
        assert max(found["eigenvalues"]) == 1
        assert 0 < found["pushed"] <= found["triangle"]


class TestAlignment:
    def test_gradients_are_those_of_the_problem(self, tmp_path: Path) -> None:
        run = train_run("a", TINY, str(tmp_path))
        last = Path(run["folder"]) / "step-000012.pt"
        problem, model = landscape.load_problem(last), model_at(last)
        found = alignment._gradients(model, 3, problem.batches[0])
        assert problem.layout.flatten(found).numpy() == pytest.approx(problem.gradient().numpy(), abs=1e-6)

    def test_equal_passes_are_aligned(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(alignment, "PASSES", (3, 3))
        run = train_run("a", TINY, str(tmp_path))
        found = alignment.measure(run["folder"], (0, 12), 32)
        assert found["steps"] == [0, 12]
        assert np.array(found["cosine"]) == pytest.approx(1, abs=1e-6)
        assert (np.array(found["halves"]) < 1).all()

    def test_both_halves_have_both_types(self, tmp_path: Path) -> None:
        """At the start the gradients of the two types differ, and those of the two halves agree up to sampling."""
        run = train_run("a", TINY, str(tmp_path))
        found = alignment.measure(run["folder"], (0,), 1024)
        assert np.array(found["halves"]).min() > 0.9


class TestLengths:
    def test_ranks_are_within_tasks_and_leave_out_what_does_not_vary(self) -> None:
        data = xr.Dataset(
            {
                "task": ("model", ["a"] * 3 + ["b"] * 3 + ["c"] * 2),
                "arm": ("model", ["u", "u", "v"] * 2 + ["u", "v"]),
                "questions": ("model", [1000] * 8),
                "longer": ("model", [0.1, 0.2, 0.3, 0.5, 0.51, 0.5, 0.1, 0.9]),
                "kappa": ("model", [30.0, 10.0, 20.0, 1.0, 2.0, 3.0, 1.0, 2.0]),
            }
        )
        x, y, cells = lengths._ranks(data, "kappa", np.ones(8, dtype=bool), ("task",))
        assert x.tolist() == [1.0, 0.0, 0.5]  # b doesn't vary, c has two models
        assert y.tolist() == [0.0, 0.5, 1.0]
        assert cells.tolist() == ["a u", "a u", "a v"]

    def test_ranks_are_of_the_models_whose_measure_is_known(self) -> None:
        x, y, _ = lengths._ranks(
            xr.Dataset(
                {
                    "task": ("model", ["a"] * 4),
                    "arm": ("model", ["u"] * 4),
                    "longer": ("model", [0.1, 0.2, 0.3, 0.4]),
                    "questions": ("model", [1000] * 4),
                    "kappa": ("model", [30.0, np.nan, 20.0, 10.0]),
                }
            ),
            "kappa", np.ones(4, dtype=bool), ("task", "arm"),
        )  # fmt: skip
        assert x.tolist() == [1.0, 0.5, 0.0]
        assert y.tolist() == [0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that all studies share, as by default, so that each run is trained and measured once."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_quickly_from_end_to_end(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study writes its record, table and figures. A second call repeats no unit."""
    arguments = {"quick": True, "runs": runs, "results": tmp_path / "results", "workers": 1}
    if name == "lengths":  # this study reads the results of others
        assert command.main(name, **arguments) == 2
        assert "run python -m analysis shift-copy first" in capsys.readouterr().err
        command.main("shift-copy", **arguments)
        capsys.readouterr()
    assert command.main(name, **arguments) == 0
    table = tmp_path / "results" / f"{name}.md"
    assert capsys.readouterr().out.startswith(str(table))
    text = table.read_text()
    assert f"`python -m analysis {name} --quick`" in text
    with xr.open_dataset(table.with_suffix(".h5"), engine="h5netcdf") as data:
        assert data.attrs["question"] == STUDIES[name].question
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / "results" / line.split("](")[1].rstrip(")")).exists()
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    assert command.main(name, **arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert table.read_text() == text


class TestCommand:
    def test_lists_the_studies(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main() == 0
        listed = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in listed] == list(STUDIES)

    @pytest.mark.parametrize(("names", "more"), [(("nothing",), {}), (("learning",), {"workers": 0})])
    def test_refuses_in_one_line(self, names: tuple[str], more: dict[str, int], capsys, tmp_path: Path) -> None:
        assert command.main(*names, runs=tmp_path / "new", **more) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
        assert not (tmp_path / "new").exists()


def test_committed_results_are_of_full_runs() -> None:
    """The committed results were made at the full scale, and each record holds the command of its table."""
    for record in Path("analysis/results").glob("*.h5"):
        with xr.open_dataset(record, engine="h5netcdf") as data:
            assert data.attrs["command"] == f"python -m analysis {record.stem}"
        assert f"`python -m analysis {record.stem}`" in record.with_suffix(".md").read_text()


def test_units_are_kept_as_plain_json(tmp_path: Path) -> None:
    results_of([Unit("u", doubled, {"number": 1, "log": str(tmp_path / "log")})], tmp_path, 1, "")
    assert json.loads((tmp_path / "u.json").read_text())["result"] == 2
