"""The benchmarks run, and the libraries that they compare compute equal quantities; times aren't tested."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cattrs import structure, unstructure

from benchmarks.accuracy import adaptive
from benchmarks.devices.agreement import DTYPES, MARGIN, Computed, compare, distance, furthest_eigenvalue, measured
from benchmarks.peers.memory import SOLVERS
from benchmarks.peers.products import ROUTES, eigenthings_operator, pyhessian_product, pyhessian_solver
from benchmarks.peers.report import COMMAND, ON_GPU, Report, measure
from benchmarks.peers.solvers import TOL, Found, _start, reference, summarise
from benchmarks.scaling import __main__ as scaling
from benchmarks.scaling import large, processes
from benchmarks.scaling.__main__ import Trend
from benchmarks.scaling.processes import Times
from benchmarks.support.cases import CASES, pose, untrained_gpt
from benchmarks.support.document import DOCUMENT, END, begin, insert
from benchmarks.support.plain import PlainModel
from benchmarks.support.plan import QUICK, SMALL
from benchmarks.support.resnet import resnet20, trained_resnet
from benchmarks.support.timing import Spread
from landscape.errors import InputError
from landscape.loading.source import load_problem
from landscape.problem import Problem
from landscape.slices import Plane
from landscape.spectrum.krylov import KrylovBasis
from tests.conftest import ROOT

EPS = torch.finfo(torch.float32).eps


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def report() -> Report:
    threads = torch.get_num_threads()
    try:
        return measure(QUICK, torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return pose(SMALL, 8)


@pytest.mark.slow
class TestReport:
    def test_every_solver_ran(self, report: Report) -> None:
        (row,) = report.rows
        assert {(each.solver, each.k, each.seeds) for each in row.solvers} == {
            (solver, k, 1)
            for k in (1, 3)
            for solver in (
                "landscape",
                "SciPy eigsh, double backward",
                "SciPy eigsh, torch.func",
                "hessian-eigenthings",
                "PyHessian",
            )
        }

    def test_products_are_counted(self, report: Report) -> None:
        for each in report.rows[0].solvers:
            assert each.products.least >= each.k
            assert (each.products_verification.least > 0) == (each.solver == "landscape")

    def test_a_solver_that_keeps_to_its_tolerance_has_the_reference_values(self, report: Report) -> None:
        # Each residual bounds the distance to an eigenvalue: to that of the pair's rank, since none is multiple.
        for each in report.rows[0].solvers:
            assert each.meets_tolerance or each.solver == "PyHessian", each.solver
            if each.meets_tolerance:
                assert each.error.most <= TOL
                assert (each.off.most, each.out_of_order.most) == (0, 0)

    def test_costs_are_complete(self, report: Report) -> None:
        costs = report.rows[0].costs
        assert (costs.case, costs.parameters, costs.samples) == ("tiny", 1224, 8)
        assert set(costs.set_up_seconds) == set(ROUTES)
        assert len(costs.costs) == 12 + len(ROUTES)
        assert costs.costs[0].gradients == Spread(1.0, 1.0, 1.0)
        assert all(0 < cost.gradients.least <= cost.gradients.median <= cost.gradients.most for cost in costs.costs)

    def test_a_plane_is_held_against_bare_forward_passes(self, report: Report) -> None:
        plane = report.rows[0].plane
        assert set(plane.ratios) == {"landscape", "loss-landscapes"}
        assert min(ratio.least for ratio in plane.ratios.values()) > 0

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_memory_is_measured_of_every_library(self, report: Report) -> None:
        memory = report.rows[0].memory
        assert memory.counted > 0
        assert memory.products >= memory.held
        assert set(memory.solves) == set(SOLVERS)
        assert min(memory.solves.values()) > 0

    def test_the_picture_shows_every_solver(self, report: Report) -> None:
        (axes,) = report.figure().axes
        assert len(axes.get_legend_handles_labels()[1]) == 5

    def test_a_document_gets_the_tables_between_its_markers(self, report: Report) -> None:
        contents = COMMAND, report.machine, report.tables()
        once = insert(f"before\n{begin(COMMAND)}old\n{END}after\n{END}", *contents)
        assert once.startswith(f"before\n{begin(COMMAND)}")
        assert once.endswith(f"{END}after\n{END}")
        assert "old" not in once
        assert insert(once, *contents) == once
        for table in report.tables():
            assert table.markdown() in once

    @pytest.mark.parametrize("command", [COMMAND, ON_GPU, scaling.COMMAND, processes.COMMAND])
    def test_the_documentation_has_the_markers(self, report: Report, command: str) -> None:
        assert insert(DOCUMENT.read_text(encoding="utf-8"), command, report.machine, [])

    def test_models_measured_before_stay_and_tell_their_processor(self, report: Report) -> None:
        (tiny,) = report.rows
        stored = structure(json.loads(json.dumps(unstructure(report))), Report)
        assert stored == report
        toy = replace(report, machine=replace(report.machine, date="later"), rows=[replace(tiny, case="toy")])
        both = toy.beside(stored)
        assert [row.case for row in both.rows] == [case for case in CASES if case in ("toy", "tiny")]
        assert both.machine.date == "later"
        assert toy.beside(both) == both
        other = replace(tiny, processor="another processor")
        elsewhere = replace(report, machine=replace(report.machine, cores=99), rows=[other])
        assert "another processor" in toy.beside(elsewhere).tables()[0].markdown()
        for machine in (replace(report.machine, versions={"torch": "1.0"}), replace(report.machine, device="a GPU")):
            assert toy.beside(replace(report, machine=machine)) == toy

    def test_a_document_without_markers_is_refused(self, report: Report) -> None:
        with pytest.raises(InputError, match="no place for the tables"):
            insert("nothing here\n", COMMAND, report.machine, [])


class TestWhatIsCompared:
    def test_all_products_are_of_one_matrix(self, problem: Problem) -> None:
        vector = torch.randn(problem.layout.dim, generator=torch.Generator().manual_seed(0))
        expected = problem.hessian().matvec(vector).double()
        plain = PlainModel(problem)
        pieces = plain.pieces(vector)
        along = dict(zip((name for name, _ in plain.model.named_parameters()), pieces, strict=True))
        with problem.evaluating():
            for product in (
                plain.product(pieces),
                plain.forward_over_reverse()(along).values(),
                pyhessian_product(pyhessian_solver(PlainModel(problem)), pieces),
                [eigenthings_operator(plain).matvec(vector)],
            ):
                flat = torch.cat([piece.flatten() for piece in product]).double()
                # Computations in float32 that amplify rounding to about 10 units, see benchmarks.devices.agreement.
                assert distance(flat, expected) < 100 * EPS

    def test_scipy_starts_where_this_library_does(self, problem: Problem) -> None:
        basis = KrylovBasis(problem.hessian(), capacity=2, seed=5)
        basis.append_random()
        start = _start(problem.layout.dim, 5)
        np.testing.assert_allclose(basis.rows[0].numpy(), start / np.linalg.norm(start), rtol=4 * EPS)

    def test_reference_is_the_dense_spectrum(self) -> None:
        problem = diagonal(12)
        exact = np.sort(2 / 12 * np.arange(1.0, 13.0) ** 2)[::-1][:10]  # (2/n) X^T X
        np.testing.assert_allclose(reference(problem, 10), exact, rtol=1e-6)

    def test_faults_are_counted(self) -> None:
        """For H = diag(20, 19, ..., 11), the values 18 and 17 are out of order, and the last value is off by 2 %."""
        problem = diagonal(20)
        truth = np.sort(2 / 20 * np.arange(1.0, 21.0) ** 2)[::-1][:10].copy()
        values, order = truth.copy(), np.arange(10)
        order[[2, 3]] = order[[3, 2]]
        values, vectors = values[order], torch.eye(20).flip(1)[:, order]
        values[9] *= 1.02
        summary = summarise("any", problem, [Found(values, vectors, 50, 7, 1.0, 0.1)], truth)
        assert (summary.out_of_order.median, summary.off.median) == (2, 1)
        assert (summary.products.median, summary.products_verification.median) == (50, 7)
        assert summary.relative_residual.median == pytest.approx(1 - 1 / 1.02, rel=1e-5)
        assert summary.error.median == pytest.approx(0.02)
        assert not summary.meets_tolerance


def diagonal(size: int) -> Problem:
    """A problem with the Hessian H = 2/n diag(1, 4, ..., n^2)."""
    x = torch.diag(torch.arange(1.0, 1.0 + size))
    return Problem(torch.nn.Linear(size, 1, bias=False), torch.nn.MSELoss(), [(x, torch.zeros(size, 1))])


@pytest.fixture(scope="module")
def cpu(problem: Problem) -> Computed:
    return measured(problem)


@pytest.fixture(scope="module")
def amplification(problem: Problem, cpu: Computed) -> dict[str, float]:
    exact = measured(problem.to(dtype=torch.float64))
    return {name: max(1.0, distance(v, exact.vectors[name]) / EPS) for name, v in cpu.vectors.items()}


class TestAgreement:
    def test_another_order_of_summation_agrees(self, cpu: Computed, amplification: dict[str, float]) -> None:
        other = measured(pose(SMALL, 8).to(micro_batch=3))
        rows = compare("split", torch.float32, other, cpu, amplification)
        assert [row.quantity for row in rows] == [*cpu.vectors, "top 10 eigenvalues"]
        assert len(rows) == 11
        assert all(row.agrees for row in rows)
        assert any(row.difference > 0 for row in rows)

    def test_a_mantissa_of_10_bits_is_told_apart(self, cpu: Computed, amplification: dict[str, float]) -> None:
        problem = pose(SMALL, 8)
        mantissa, exponent = torch.frexp(problem.vector)
        coarse = torch.ldexp((mantissa * 2**11).round() / 2**11, exponent)
        rows = compare("coarse", torch.float32, measured(problem.at(coarse)), cpu, amplification)
        assert not any(row.agrees for row in rows[:-1])

    def test_intervals_of_float32_and_float64_overlap(self, cpu: Computed) -> None:
        difference, error = furthest_eigenvalue(cpu.pairs, measured(pose(SMALL, 8).to(dtype=torch.float64)).pairs)
        assert 0 < difference <= error

    def test_an_incomplete_solve_agrees_with_nothing(self, cpu: Computed, amplification: dict[str, float]) -> None:
        undecided = replace(cpu, pairs=replace(cpu.pairs, miss_probability=1.0))
        rows = compare("same", torch.float32, undecided, cpu, amplification)
        assert [row.agrees for row in rows] == [True] * 10 + [False]

    def test_allowance_is_that_of_the_precision(self, cpu: Computed, amplification: dict[str, float]) -> None:
        allowed = [compare("x", dtype, cpu, cpu, amplification)[0].allowed for dtype in DTYPES]
        assert allowed[0] == MARGIN * EPS * amplification["losses"]
        assert allowed[1] == pytest.approx(allowed[0] * 2.0**-29)  # 2^-52 against 2^-23


class TestCommands:
    @pytest.mark.slow  # the fixture above measures the same
    def test_quick_benchmark(self) -> None:
        done = run("benchmarks.peers", "--quick")
        assert done.returncode == 0, done.stderr
        for text in ("PyHessian", "SciPy eigsh, torch.func", "route cached, product", "torch 2."):
            assert text in done.stdout

    def test_figures_that_mean_nothing_are_not_written(self) -> None:
        for arguments in (["--quick", "--write"], ["resnet-1000"]):
            done = run("benchmarks.peers", *arguments)
            assert (done.returncode, done.stderr.count("\n")) == (2, 1)

    @pytest.mark.slow
    def test_device_check_of_the_cpu_against_itself(self) -> None:
        done = run("benchmarks.devices", "--device", "cpu", "--samples", "8")
        assert done.returncode == 0, done.stderr
        assert "44 of 44 agree" in done.stdout
        assert "untrained LoopedGPT, product of the Hessian" in done.stdout
        assert "orthogonalising against" in done.stdout

    @pytest.mark.slow
    def test_coverage_of_intervals(self) -> None:
        done = run("benchmarks.accuracy.coverage", "--seeds", "3", "--samples", "1")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        tables = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
        # Six matrices at three numbers of probes, and where they stopped; each table with its header and its rule.
        assert len(tables) == 2 + 6 * 3 + 2 + 6
        for text in ("Looped-Attn, n = 1224", "one outlier, n = 300", "3 seeds", "torch 2."):
            assert text in done.stdout
        assert run("benchmarks.accuracy.coverage", "--seeds", "1").returncode == 2

    @pytest.mark.slow
    def test_reduced_precision(self) -> None:
        done = run("benchmarks.accuracy.reduced", "tiny")
        assert done.returncode == 0, done.stderr
        assert "tiny" in done.stdout
        wrong = run("benchmarks.accuracy.reduced", "gpt-5")
        assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)

    def test_missing_device(self) -> None:
        done = run("benchmarks.devices", "--device", "cuda:99")
        assert done.returncode == 2
        assert done.stderr.startswith("error: device cuda:99 isn't available here")


class TestScaling:
    def test_an_exponent_is_that_of_the_power(self) -> None:
        sizes = [1, 10, 100, 1000]
        slope, low, high = Trend("", "", sizes, [3 * size**1.5 for size in sizes]).exponent
        assert (slope, low, high) == pytest.approx((1.5, 1.5, 1.5))
        _, low, high = Trend("", "", sizes, [1, 20, 90, 1000]).exponent
        assert low < 1 < high

    def test_everything_is_timed(self, capsys: pytest.CaptureFixture[str]) -> None:
        threads = torch.get_num_threads()
        try:
            assert scaling.main(quick=True) == 0
        finally:
            torch.set_num_threads(threads)
        assert capsys.readouterr().out.count(" against ") == 7
        assert scaling.main(quick=True, write=True) == 2


class TestProcesses:
    @pytest.mark.slow
    def test_two_are_held_to_one(self) -> None:
        done = run(
            "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "benchmarks.scaling.processes",
            "--case=tiny", "--rounds=2",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
        told = {line[0]: line[1] for line in lines if len(line) == 2}
        assert float(told["a product, float64"]) < 1e-13
        assert float(told["top 10, float32"]) < 1e-5
        assert "the sum's share of a product" in told

    @pytest.mark.slow
    def test_one_alone_and_an_unknown_model_are_refused(self) -> None:
        for arguments in ([], ["--case=none"]):
            done = run("benchmarks.scaling.processes", *arguments)
            assert (done.returncode, done.stderr.count("\n")) == (2, 1)

    def test_the_verdict_says_whether_the_machine_was_idle(self) -> None:
        seconds = {"one": [2.0, 3.0], "both": [1.1, 5.0], "total": [0.01]}
        assert Times(**seconds, apart=[1.0]).verdict == "reached"
        slower = {**seconds, "both": [1.5]}
        assert Times(**slower, apart=[1.0]).verdict == "missed"
        assert Times(**slower, apart=[1.4]).verdict.startswith("inconclusive")


def test_large_problem_is_that_of_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small checkpoint is saved, and read by the command of the documentation."""
    monkeypatch.setattr(large, "gpt2_small", lambda: untrained_gpt(4))
    large.main(tmp_path / "new" / "large.pt")
    assert (
        load_problem(tmp_path / "new" / "large.pt", "benchmarks.scaling.large:problem").loss()
        == untrained_gpt(4).loss()
    )


class TestAdaptive:
    def test_it_tells_what_is_missed(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The benchmark reports the share of points and the errors of four kinds of planes."""
        threads = torch.get_num_threads()
        try:
            assert adaptive.main("Looped-Attn", points=13, samples=4) == 0
        finally:
            torch.set_num_threads(threads)
        shown = capsys.readouterr().out
        assert shown.count("| Looped-Attn, ") == 4
        assert "Median share of points" in shown

    def test_the_error_is_by_the_range_of_the_whole_plane(self) -> None:
        at = np.linspace(-1, 1, 31)
        losses = 1 + at[:, None] ** 2 + at**2
        whole = Plane(at, at, losses, losses, losses, (1.0, 1.0), 0.0, np.ones((31, 31), dtype=bool), 0.0)
        found = adaptive.compare(whole, 0.5, 0.01, 0)
        assert found.share < 0.25
        assert found.error <= 0.01
        assert found.low_error <= 4 * found.error  # a quarter of the range lies within 0.5 of the lowest point
        assert found.told <= 0.01

    def test_resnet_is_that_of_the_paper(self) -> None:
        """The ResNet has the paper's 0.27 million parameters."""
        assert sum(each.numel() for each in resnet20().parameters()) == 269_722
        assert trained_resnet(4, steps=1).loss() > 0
