"""The vectors of a basis: equal results in memory and in a file, with blocks that end at any column."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import torch

from landscape import InputError, MatrixOperator, log_det, spectral_density, top_eigenpairs
from landscape.spectrum import basis_store as module
from landscape.spectrum.basis_memory import vectors_beside
from landscape.spectrum.basis_store import BasisStore, outside
from landscape.spectrum.krylov import KrylovBasis
from tests.support.oracles import symmetric

CPU = torch.device("cpu")
EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


@pytest.fixture(params=["device", "file"])
def place(request):
    return request.param


@pytest.fixture(params=[1, 7, 1000])
def blocks(request, monkeypatch):
    """Set the number of columns in a block."""
    monkeypatch.setattr(module, "_COLUMNS", request.param)
    monkeypatch.setattr(module, "_BYTES", request.param * 8 * 8)


def kept(vectors: torch.Tensor, place: str, capacity: int = 8) -> BasisStore:
    rows = BasisStore(capacity, vectors.shape[1], vectors.dtype, CPU, 0 if place == "file" else None)
    assert rows.place == place
    for vector in vectors:
        rows.append(vector)
    return rows


def orthonormal(count: int, dim: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    g = torch.Generator().manual_seed(count + dim)
    return torch.linalg.qr(torch.randn(dim, count, dtype=torch.float64, generator=g))[0].T.to(dtype).contiguous()


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize(("count", "dim"), [(5, 23), (1, 1), (8, 8)])
def test_everything_is_as_with_one_tensor(count, dim, dtype, place):
    plain, rng = orthonormal(count, dim, dtype), np.random.default_rng(0)
    rows, allowed = kept(plain, place), 20 * dim * EPS[dtype]
    assert torch.equal(rows.stacked(), plain.T)
    assert torch.equal(rows.stacked(count - 1), plain[:-1].T)
    assert torch.equal(rows[count - 1], plain[-1])
    gram = (plain.double() @ plain.double().T - torch.eye(count)).abs().max()
    assert abs(rows.defect() - float(gram)) < allowed

    block = torch.randn(dim, 3, dtype=dtype, generator=torch.Generator().manual_seed(1))
    coefficients, rest, again = rows.split(block)
    assert again.shape == coefficients.shape
    assert again.abs().max() < allowed
    assert coefficients.dtype == torch.float64
    assert (coefficients - plain.double() @ block.double()).abs().max() < allowed
    assert (rest - outside(block.T, plain).T).abs().max() < allowed
    one, direction, length = rows.orthogonalise(block[:, 0])
    assert np.abs(one - coefficients[:, 0].numpy()).max() < allowed
    assert length == pytest.approx(float(rest[:, 0].norm()), abs=allowed)
    assert (direction is None) == (count == dim)
    if direction is not None:
        assert (length * direction - rest[:, 0]).abs().max() < allowed
    fewer = rows.split(block, count - 1)[1]
    assert (fewer - outside(block.T, plain[:-1]).T).abs().max() < allowed

    weights = rng.standard_normal((count, 2))
    assert (rows.combine(weights) - plain.T @ torch.tensor(weights, dtype=dtype)).abs().max() < allowed
    rows.swap(0, count - 1)
    order = [count - 1, *range(1, count - 1), 0][:count]
    assert torch.equal(rows.stacked(), plain[order].T)
    assert torch.equal(rows.combine(np.eye(count)[1:, 1:], 1), rows.stacked()[:, 1:])
    turn = np.linalg.qr(rng.standard_normal((count, count)))[0][:, : max(1, count - 2)]
    rows.replace(turn)
    assert rows.size == turn.shape[1]
    assert (rows.stacked().T - torch.tensor(turn.T, dtype=dtype) @ plain[order]).abs().max() < allowed
    if rows.size < 8:
        rows.append(plain[0])
        assert torch.equal(rows[rows.size - 1], plain[0])


def test_no_rows_leave_a_vector_as_it_is(place):
    rows = kept(torch.empty(0, 5), place)
    coefficients, direction, length = rows.orthogonalise(torch.ones(5))
    assert coefficients.shape == (0,)
    assert torch.equal(direction, torch.ones(5) / length)
    assert length == pytest.approx(5**0.5)


SPECTRUM = [9.0, -8.0, 7.0, 7.0, *np.linspace(-1, 1, 196) ** 3]


@pytest.mark.parametrize(("settings", "bases"), [({"tol": 1e-10}, 1), ({"tol_value": 1e-4}, 3)])
def test_a_solve_with_its_basis_in_a_file_finds_what_it_should(settings, bases):
    """The basis in the file is small, so the solve is restarted; vectors beside the basis have enough memory."""
    operator = MatrixOperator(symmetric(SPECTRUM))
    fitting = bases * (vectors_beside(4) + 2 * 4 + 3) * 8 * len(SPECTRUM)  # a certified solve plans with a third
    in_file = top_eigenpairs(operator, 4, **settings, memory=fitting)
    assert in_file.place == "file"
    assert in_file.products - in_file.products_verification > 20 or "tol_value" in settings
    assert top_eigenpairs(operator, 4, **settings).place == "device"
    assert in_file.complete
    for value, (low, high), exact in zip(in_file.eigenvalues, in_file.intervals, SPECTRUM, strict=False):
        assert low <= exact <= high
        assert abs(value - exact) <= 1e-4 * abs(exact)
    v = in_file.eigenvectors
    assert (operator @ v - v * torch.as_tensor(in_file.eigenvalues)).norm(dim=0).max() <= 1.01 * in_file.residuals.max()


def test_chains_with_their_basis_in_a_file_are_those_in_memory():
    inside, beside = MatrixOperator(symmetric(SPECTRUM)), MatrixOperator(symmetric(SPECTRUM))
    beside.memory = 40 * 8 * len(SPECTRUM)
    assert KrylovBasis(beside, 61, seed=0).rows.place == "file"
    for measure in (
        lambda operator: spectral_density(operator, probes=2, steps=60, k=2).nodes,
        lambda operator: log_det(operator, alpha=10.0, probes=4, steps=80).value,
    ):
        np.testing.assert_allclose(measure(beside), measure(inside), rtol=1e-8)


def test_a_disk_without_room_is_told_in_a_line(monkeypatch):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"a basis of 300 vectors of 1,000 numbers takes 2 MB; .* \(No space left"):
        BasisStore(300, 1000, torch.float64, CPU, memory=0)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no room can be reserved here")
def test_room_on_the_disk_is_reserved_at_once():
    rows = BasisStore(100, 10_000, torch.float64, CPU, memory=0)
    assert os.fstat(rows._store._file.fileno()).st_blocks * 512 >= 8_000_000


def test_the_file_is_where_tmpdir_says_and_has_no_name(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert module._folder_for_large_files() == tmp_path
    rows = kept(orthonormal(3, 50), "file")
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(rows.stacked().T, orthonormal(3, 50))


class Slow:
    """A file that takes a limited number of bytes at a time, and in total."""

    def __init__(self, file: object, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self.file.write(data[: min(13, self.room)])
        self.room -= taken
        return taken

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)


def test_a_file_that_takes_a_part_at_a_time_gets_all():
    rows = kept(orthonormal(3, 50), "file")
    rows._store._file = Slow(rows._store._file, 10_000)
    more = torch.arange(50, dtype=torch.float64)
    rows.append(more)
    rows._store._file = rows._store._file.file
    assert torch.equal(rows[3], more)


def test_a_disk_that_is_full_or_a_file_that_is_cut_is_told_in_a_line():
    rows = kept(orthonormal(3, 50), "file")
    file = rows._store._file
    rows._store._file = Slow(file, 100)
    with pytest.raises(InputError, match=r"the basis can't be written to .*: No space left"):
        rows.append(torch.zeros(50, dtype=torch.float64))
    rows._store._file = file
    file.truncate(500)
    with pytest.raises(InputError, match="the file is too short"):
        rows.stacked()


def test_coefficients_in_float32_are_those_of_what_is_left():
    """In many blocks v - Q c equals the remainder up to each entry's rounding, which hardly lies along rows of Q."""
    dim = 200_000
    plain = orthonormal(3, dim, torch.float32)
    vector = (
        plain.T @ torch.tensor([1.1, 2.2, 3.3]) + torch.randn(dim, generator=torch.Generator().manual_seed(0)) / 500
    )
    whole = plain.double() @ vector.double()
    forgotten = (
        (whole - whole.float()).abs().max()
    )  # by which coefficients are off that don't know how they were rounded
    assert forgotten > 3e-8
    for place in ("device", "file"):
        rows = BasisStore(300, dim, torch.float32, CPU, 0 if place == "file" else None)
        rows.extend(plain.T)
        coefficients, rest, _ = rows.split(vector)
        rounding = vector - plain.double().T @ coefficients - rest
        assert rounding.abs().max() <= 2 * EPS[torch.float32] * vector.abs().max()
        assert (plain.double() @ rounding).abs().max() < forgotten / 3, place


def test_no_more_vectors_than_there_is_room_for(place):
    rows = kept(orthonormal(8, 20), place)
    with pytest.raises(AssertionError):
        rows.append(torch.zeros(20, dtype=torch.float64))


def test_a_chain_that_has_no_room_for_its_vectors_is_refused():
    operator = MatrixOperator(symmetric(SPECTRUM))
    operator.memory = -5
    with pytest.raises(InputError, match=r"a chain of vectors of 200 parameters takes \d kB beside its basis"):
        spectral_density(operator, probes=2, steps=60, k=0)
    with pytest.raises(InputError, match="for vectors beside the basis"):
        top_eigenpairs(operator, 3, basis_size=40)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_basis_that_a_gpu_has_no_room_for_is_in_host_memory():
    plain = orthonormal(5, 100).cuda()
    rows = BasisStore(8, 100, torch.float64, plain.device, memory=0)
    assert rows.place == "host memory"
    for vector in plain:
        rows.append(vector)
    rest = rows.split(torch.ones(100, dtype=torch.float64, device="cuda"))[1]
    assert rest.device == plain.device
    assert (plain @ rest).abs().max() < 1e-14
