"""The benchmarks run, and what they compare is the same thing; their times are nobody's to assert."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import adaptive, slices
from benchmarks.agreement import DTYPES, MARGIN, Measured, compare, distance, furthest_eigenvalue, measured
from benchmarks.cases import pose
from benchmarks.plan import QUICK, SMALL
from benchmarks.products import PlainModel, pyhessian_product
from benchmarks.report import BEGIN, END, Report, insert, measure
from benchmarks.resnet import resnet20, trained_resnet
from benchmarks.solvers import TOL, Found, K, reference, start_vector, summarise
from benchmarks.timing import Spread
from landscape import load_problem
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.slices import Plane
from landscape.spectrum.krylov import KrylovBasis

ROOT = Path(__file__).parent.parent
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
        return measure(QUICK)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return pose(SMALL, 8)


class TestReport:
    def test_every_solver_ran_over_its_seeds(self, report: Report) -> None:
        assert {each.solver: each.seeds for each in report.solvers} == {
            "landscape": 2,
            "SciPy eigsh, same start": 2,
            "SciPy eigsh, own start": 2,
            "PyHessian": 1,
        }

    def test_products_are_counted(self, report: Report) -> None:
        for each in report.solvers:
            assert each.products_search.least >= K
            # One product for each pair, and one more that measures the rounding; the search comes on top.
            assert each.products_verification.least >= (K + 1 if each.solver == "landscape" else 0)
            assert each.products.least >= each.products_search.least + each.products_verification.least

    def test_a_solver_that_keeps_to_its_tolerance_has_the_reference_values(self, report: Report) -> None:
        # Each residual bounds the distance to an eigenvalue; none of the ten is multiple, so it is that of its place.
        for each in report.solvers[:3]:
            assert each.meets_tolerance, each.solver
            assert each.error.most <= TOL
            assert (each.off.most, each.out_of_order.most) == (0, 0)

    def test_costs_are_complete(self, report: Report) -> None:
        (costs,) = report.costs
        assert (costs.problem, costs.parameters, costs.samples) == (SMALL, 1224, QUICK.cost_samples)
        assert len(costs.costs) == 13
        assert costs.costs[0].gradients == Spread(1.0, 1.0, 1.0)
        assert all(0 < cost.gradients.least <= cost.gradients.median <= cost.gradients.most for cost in costs.costs)

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_kept_graphs_take_the_memory_that_was_counted(self, report: Report) -> None:
        (memory,) = report.memory
        assert memory.counted > 0
        assert memory.peak >= memory.held

    def test_a_document_gets_the_tables_between_its_markers(self, report: Report) -> None:
        once = insert(f"before\n{BEGIN}old\n{END}after\n", report)
        assert once.startswith(f"before\n{BEGIN}")
        assert once.endswith(f"{END}after\n")
        assert "old" not in once
        assert insert(once, report) == once
        for table in report.tables():
            assert table.markdown() in once

    def test_the_documentation_has_the_markers(self, report: Report) -> None:
        assert insert((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"), report)

    def test_a_document_without_markers_is_refused(self, report: Report) -> None:
        with pytest.raises(InputError, match="no place for the tables"):
            insert("nothing here\n", report)


class TestWhatIsCompared:
    def test_all_products_are_of_one_matrix(self, problem: Problem) -> None:
        vector = torch.randn(problem.layout.dim, generator=torch.Generator().manual_seed(0))
        pieces = list(problem.layout.unflatten(vector).values())
        expected = problem.hessian().matvec(vector).double()
        plain = PlainModel(problem)
        with problem.evaluating():
            for product in (plain.product(pieces), pyhessian_product(plain.pyhessian(), pieces)):
                flat = torch.cat([piece.flatten() for piece in product]).double()
                # Three float32 computations that amplify rounding to about 10 units, see benchmarks.agreement.
                assert distance(flat, expected) < 100 * EPS

    def test_scipy_starts_where_this_library_does(self, problem: Problem) -> None:
        basis = KrylovBasis(problem.hessian(), capacity=2, seed=5)
        basis.inject()
        start = start_vector(problem.layout.dim, 5)
        np.testing.assert_allclose(basis.rows[0].numpy(), start / np.linalg.norm(start), rtol=4 * EPS)

    def test_reference_is_the_dense_spectrum(self) -> None:
        model = torch.nn.Linear(12, 1, bias=False)
        x = torch.diag(torch.arange(1.0, 13.0))
        problem = Problem(model, torch.nn.MSELoss(), [(x, torch.zeros(12, 1))])
        exact = np.sort(2 / 12 * np.arange(1.0, 13.0) ** 2)[::-1][:K]  # (2/n) X^T X
        np.testing.assert_allclose(reference(problem), exact, rtol=1e-6)

    def test_faults_are_counted(self) -> None:
        truth = np.arange(20.0, 10.0, -1.0)
        values = truth.copy()
        values[[2, 3]] = values[[3, 2]]  # found in the wrong order
        values[9] *= 1.02  # 11.22: off, and still the smallest
        summary = summarise("any", [Found(values, 0.002 * values, 50, 7, 1.0)], truth)
        assert (summary.out_of_order.median, summary.off.median) == (2, 1)
        assert summary.products_search.median == 43
        assert summary.relative_residual.median == pytest.approx(0.002)
        assert summary.error.median == pytest.approx(0.02)
        assert not summary.meets_tolerance


@pytest.fixture(scope="module")
def cpu(problem: Problem) -> Measured:
    return measured(problem)


@pytest.fixture(scope="module")
def amplification(problem: Problem, cpu: Measured) -> dict[str, float]:
    exact = measured(problem.to(dtype=torch.float64))
    return {name: max(1.0, distance(v, exact.vectors[name]) / EPS) for name, v in cpu.vectors.items()}


class TestAgreement:
    def test_another_order_of_summation_agrees(self, cpu: Measured, amplification: dict[str, float]) -> None:
        other = measured(pose(SMALL, 8).to(micro_batch=3))
        rows = compare("split", torch.float32, other, cpu, amplification)
        assert [row.quantity for row in rows] == [*cpu.vectors, "top 10 eigenvalues"]
        assert len(rows) == 11
        assert all(row.agrees for row in rows)
        assert any(row.difference > 0 for row in rows)

    def test_a_mantissa_of_10_bits_is_told_apart(self, cpu: Measured, amplification: dict[str, float]) -> None:
        problem = pose(SMALL, 8)
        mantissa, exponent = torch.frexp(problem.vector)
        coarse = torch.ldexp((mantissa * 2**11).round() / 2**11, exponent)
        rows = compare("coarse", torch.float32, measured(problem.at(coarse)), cpu, amplification)
        assert not any(row.agrees for row in rows[:-1])

    def test_intervals_of_float32_and_float64_overlap(self, cpu: Measured) -> None:
        difference, error = furthest_eigenvalue(cpu.pairs, measured(pose(SMALL, 8).to(dtype=torch.float64)).pairs)
        assert 0 < difference <= error

    def test_an_incomplete_solve_agrees_with_nothing(self, cpu: Measured, amplification: dict[str, float]) -> None:
        undecided = replace(cpu, pairs=replace(cpu.pairs, missed=1.0))
        rows = compare("same", torch.float32, undecided, cpu, amplification)
        assert [row.agrees for row in rows] == [True] * 10 + [False]

    def test_allowance_is_that_of_the_precision(self, cpu: Measured, amplification: dict[str, float]) -> None:
        allowed = [compare("x", dtype, cpu, cpu, amplification)[0].allowed for dtype in DTYPES]
        assert allowed[0] == MARGIN * EPS * amplification["losses"]
        assert allowed[1] == pytest.approx(allowed[0] * 2.0**-29)  # 2^-52 against 2^-23


class TestCommands:
    def test_quick_benchmark(self) -> None:
        done = run("benchmarks.eigenpairs", "--quick")
        assert done.returncode == 0, done.stderr
        for text in ("PyHessian", "SciPy eigsh, own start", "route cached, product", "torch 2."):
            assert text in done.stdout
        assert done.stderr == ""

    def test_figures_that_mean_nothing_are_not_written(self) -> None:
        done = run("benchmarks.eigenpairs", "--quick", "--write")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)

    def test_device_check_of_the_cpu_against_itself(self) -> None:
        done = run("benchmarks.device_check", "--device", "cpu", "--samples", "8")
        assert done.returncode == 0, done.stderr
        assert "44 of 44 agree" in done.stdout
        assert "untrained LoopedGPT" in done.stdout

    def test_coverage_of_intervals(self) -> None:
        done = run("benchmarks.coverage", "--seeds", "3", "--samples", "1")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        tables = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
        # Six matrices at three numbers of probes, and where they stopped; each table with its header and its rule.
        assert len(tables) == 2 + 6 * 3 + 2 + 6
        for text in ("Looped-Attn, n = 1224", "one outlier, n = 300", "3 seeds", "torch 2."):
            assert text in done.stdout
        assert run("benchmarks.coverage", "--seeds", "1").returncode == 2

    def test_missing_device(self) -> None:
        done = run("benchmarks.device_check", "--device", "cuda:99")
        assert done.returncode == 2
        assert done.stderr.startswith("error: device cuda:99 isn't available here")


def test_a_plane_beside_bare_forward_passes():
    made, bare = slices.cost(load_problem(ROOT / "data/single.pt"), 3, 1)
    assert bare > 0
    assert made > 0


class TestAdaptive:
    def test_it_tells_what_is_missed(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Four kinds of planes, each with its share of points and its errors."""
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
        """0.27 million parameters."""
        assert sum(each.numel() for each in resnet20().parameters()) == 269_722
        assert trained_resnet(4, steps=1).loss() > 0
