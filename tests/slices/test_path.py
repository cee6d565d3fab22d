"""The path of a run on a plane: orthogonal projection for any basis, principal components, and random walks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from landscape import InputError, open_record
from landscape.checkpoint import read_checkpoint
from landscape.figures import draw
from landscape.slices import Direction, principal_components, project, random_walk_shares

RNG = np.random.default_rng(0)


def vectors(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.as_tensor(RNG.standard_normal(shape)).to(dtype)


@pytest.mark.parametrize("angle", [90.0, 30.0, 1.0])
def test_projection_is_the_nearest_point_of_the_plane_for_any_basis(angle):
    n, points, centre = 50, vectors(8, 50), vectors(50)
    q, _ = torch.linalg.qr(vectors(n, 2))
    radians = np.deg2rad(angle)
    first, second = 3 * q[:, 0], 0.2 * (np.cos(radians) * q[:, 0] + np.sin(radians) * q[:, 1])
    found = project(points, centre, [Direction(first, "a"), Direction(second, "b")])
    basis = torch.stack([first, second], dim=1).numpy()
    expected, *_ = np.linalg.lstsq(basis, (points - centre).numpy().T, rcond=None)
    condition = np.linalg.cond(basis)
    np.testing.assert_allclose(found.coordinates, expected.T, rtol=0, atol=1e-14 * condition * np.abs(expected).max())
    off = (points - centre).numpy().T - basis @ expected
    np.testing.assert_allclose(found.distances, np.linalg.norm(off, axis=0), rtol=1e-13)


def test_points_of_the_plane_are_on_it_and_a_line_is_no_plane():
    first, second, centre = vectors(30), vectors(30), vectors(30)
    on_plane = [centre, centre + 2 * first - 0.5 * second]
    found = project(on_plane, centre, [Direction(first, "a"), Direction(second, "b")])
    np.testing.assert_allclose(found.coordinates, [[0, 0], [2, -0.5]], atol=1e-14)
    assert found.distances.max() < 30 * np.finfo(float).eps * float(first.norm())
    with pytest.raises(InputError, match="linearly dependent"):
        project(on_plane, centre, [Direction(first, "a"), Direction(-2 * first, "b")])
    assert project([], centre, [Direction(first, "a")]).coordinates.shape == (0, 1)


def test_principal_components_are_those_of_the_centred_checkpoints():
    points = vectors(7, 40)
    found = principal_components(list(points), np.arange(7), 3)
    centred = (points - points.mean(0)).numpy()
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(found.shares, singular[:3] ** 2 / (singular**2).sum(), rtol=1e-12)
    for k, direction in enumerate(found.directions):
        assert abs(direction.vector.numpy() @ right[k]) == pytest.approx(1, abs=1e-12)
        assert direction.norm == pytest.approx(1, abs=1e-14)
        assert (points[-1] - points[0]) @ direction.vector >= 0, "the run goes along it, not against it"


def test_no_more_components_than_there_are():
    points = [*vectors(2, 5)]
    with pytest.raises(InputError, match="at most 1 principal components, and 2"):
        principal_components(points, np.arange(2), 2)
    along = vectors(5)
    with pytest.raises(InputError, match="don't differ in 2 directions"):
        principal_components([0 * along, along, 2 * along], np.arange(3), 2)
    with pytest.raises(InputError, match="don't differ in 1 direction:"):
        principal_components([along, along], np.arange(2), 1)


def test_what_a_random_walk_gives():
    """Shares fall as 1/k^2, so the first is 6/pi^2 (Antognini and Sohl-Dickstein 2018); for few steps by simulation."""
    shares = random_walk_shares(np.arange(2000))
    k = np.arange(1, 6)
    np.testing.assert_allclose(shares[:5], 6 / np.pi**2 / k**2, rtol=2e-3)
    assert shares.sum() == pytest.approx(1)
    steps, n = np.array([0, 1, 2, 4, 8, 16, 20, 40, 60, 80]), 20_000
    walk = (np.random.default_rng(1).standard_normal((10, n)).T * np.sqrt(np.diff(steps, prepend=0))).T.cumsum(0)
    found = principal_components(list(torch.as_tensor(walk)), steps, 3)
    # A share is a mean over n dimensions of squares of normals: its relative error is some sqrt(2/n), 1 %.
    np.testing.assert_allclose(found.shares, found.random_walk, rtol=5 * np.sqrt(2 / n))


# ---------------------------------------------------------------------- in the record


def flat(path: str) -> np.ndarray:
    return torch.cat([value.flatten() for value in read_checkpoint(path).state.values()]).double().numpy()


def test_the_path_of_a_run_lies_on_the_plane_that_is_drawn(command, tiny):
    ran = command("a.pt", "b.pt", "c.pt", "--slice", "2d", "--direction", "pca", "--direction", "pca", "--points", 5)
    assert (ran.status, ran.err) == (0, "")
    assert "of the checkpoints' variance" in ran.out
    with open_record("a.landscape.h5") as record:
        rows = record["slices_2d"].dataset.load()
    points = np.array([flat(f"{name}.pt") for name in "abc"])
    between = np.linalg.norm(points[:, None] - points[None], axis=2)
    for position in range(3):
        row = rows.isel(checkpoint=position)
        on_plane = np.stack([row.path_first.values, row.path_second.values], axis=1)
        # Three points span the plane, so all lie on it, and their distances on it are those in parameter space.
        assert row.path_distance.max() < 1e-5
        np.testing.assert_allclose(np.linalg.norm(on_plane[:, None] - on_plane[None], axis=2), between, atol=1e-5)
        assert np.abs(on_plane[position]).max() < 1e-6, "the centre is its own checkpoint"
        assert list(row.path_step.values) == [0, 10, 20]
        assert row.variance_share.sum() == pytest.approx(1, abs=1e-6)
        assert row.first[0] < on_plane[:, 0].min() < on_plane[:, 0].max() < row.first[-1]
        assert row.second[0] < on_plane[:, 1].min() < on_plane[:, 1].max() < row.second[-1]


def test_a_plane_of_other_directions_has_the_path_too(command, tiny):
    assert command("a.pt", "b.pt", "--slice", "2d", "--points", 3, "--reach", 0.5, "--at", -1).status == 0
    with open_record("a.landscape.h5") as record:
        rows = record["slices_2d"].dataset.load()
    assert list(rows.step.values) == [10]
    row = rows.isel(checkpoint=0)
    across, up = row.path_first.values * row.norm.values[0], row.path_second.values * row.norm.values[1]
    far = np.sqrt(across**2 + up**2 + row.path_distance.values**2)  # Pythagoras, as the directions are orthogonal
    np.testing.assert_allclose(far, [np.linalg.norm(flat("b.pt") - flat("a.pt")), 0], atol=1e-5)
    assert np.isnan(row.variance_share.values).all()


def test_what_is_known_of_a_component_goes_when_it_is_turned(command, tiny):
    """A component that is turned to be orthogonal to a gradient is no principal component; an unturned one is."""
    asked = ["--slice", "2d", "--points", 3, "--at", -1]
    turned = command("a.pt", "b.pt", "c.pt", *asked, "--direction", "gradient", "--direction", "pca", "-o", "t.h5")
    kept = command("a.pt", "b.pt", "c.pt", *asked, "--direction", "pca", "--direction", "pca", "-o", "k.h5")
    assert (turned.status, kept.status) == (0, 0)
    for name, known in (("t.h5", False), ("k.h5", True)):
        with open_record(name) as record:
            row = record["slices_2d"].dataset.isel(checkpoint=0).load()
        assert np.isfinite(row.variance_share.values[1]) == known
        assert ("turned" in str(row.detail.values[1])) != known
    assert "of the checkpoints' variance" not in turned.out


def test_components_of_another_run_are_another_request(command, tiny):
    asked = ["--slice", "1d", "--direction", "pca", "--points", 3, "-o", "run.h5"]
    assert command("a.pt", "b.pt", *asked).status == 0
    assert command("a.pt", "b.pt", *asked).out.count("nothing measured") == 1
    more = command("a.pt", "b.pt", "c.pt", *asked)
    assert more.status == 2
    assert "slices_1d run is" in more.err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["a.pt", "--slice", "1d", "--direction", "pca"],
            "1 principal component is measured over a run: name at least 2 checkpoints of the run",
        ),
        (
            ["a.pt", "b.pt", "--slice", "2d", "--direction", "pca", "--direction", "pca"],
            "2 principal components are measured over a run: name at least 3 checkpoints of the run",
        ),
        (["a.pt", "same.pt", "--slice", "1d", "--direction", "pca"], "have the same step"),
        (["a.pt", "b.pt", "--slice", "1d", "--at", 7], "no checkpoint has the step 7; the steps are 0, 10"),
        (["a.pt", "--at", -1], "no requested measurement uses --at: add --neighbourhood or --slice or --valley"),
        (["a.pt", "--slice", "1d", "--subset", 0], "a subset has at least 1 sample"),
        (["a.pt", "--slice", "1d", "--direction", "no.h5"], "'no.h5' is not a direction"),
        (["a.pt", "--slice", "1d", "--direction", "loss.h5"], "has no eigenvectors of the Hessian"),
        (["a.pt", "--slice", "1d", *["--direction", "pairs.h5"] * 3], "has 2 eigenvectors, and 3 are asked for"),
    ],
)
def test_refused_in_one_line(command, tiny, arguments, line):
    tiny.save("same.pt", 7, step=0)
    assert command("a.pt", "-o", "loss.h5").status == 0
    assert command("a.pt", "--hessian", "-k", 2, "-o", "pairs.h5").status == 0
    before = tiny.listing()
    ran = command(*arguments)
    assert (ran.status, ran.err.count("\n")) == (2, 1)
    assert line in ran.err
    after = {name: digest for name, digest in tiny.listing().items() if ".parts" not in name}
    assert after == before


def test_an_eigenvector_of_a_record_is_that_of_its_own_checkpoint(command, tiny):
    """The direction is the checkpoint's own eigenvector if the record has it, else that of the last checkpoint."""
    assert command("a.pt", "b.pt", "--hessian", "-k", 2, "--which", "LA", "--tol", 1e-8, "-o", "pairs.h5").status == 0
    asked = ["--slice", "1d", *["--direction", "pairs.h5"] * 2, "--points", 3, "--reach", 1]
    assert command("a.pt", "c.pt", *asked, "-o", "lines.h5").status == 0
    with open_record("lines.h5") as record:
        lines = record["slices_1d"].dataset.load()
    for row, step in enumerate((0, 10)):
        assert [str(each).split(",")[0] for each in lines.detail.values[row]] == [f"at step {step}"] * 2
    own = np.linalg.eigvalsh(tiny.hessian("a.pt").numpy())[::-1]
    np.testing.assert_allclose(lines.curvature.values[0], own[:2], rtol=1e-4)


def test_a_slice_of_a_subset_is_of_the_same_samples_everywhere(command, tiny):
    assert command("a.pt", "--slice", "1d", "--points", 3, "--reach", 1, "--subset", 7, "-o", "some.h5").status == 0
    assert command("a.pt", "--slice", "1d", "--points", 3, "--reach", 1, "-o", "all.h5").status == 0
    with open_record("some.h5") as some, open_record("all.h5") as everything:
        few, many = (tree["slices_1d"].dataset.isel(checkpoint=0).load() for tree in (some, everything))
    assert (int(few.samples), int(many.samples)) == (7, 20)
    chosen = [
        int(np.flatnonzero(np.isclose(many.sample_loss[0, :, 0], each, rtol=1e-5))[0])
        for each in few.sample_loss[0, :, 0]
    ]
    assert len(set(chosen)) == 7
    np.testing.assert_allclose(few.sample_loss[0], many.sample_loss[0, chosen], atol=1e-5)  # summed in another order
    np.testing.assert_allclose(few.loss[0], many.sample_loss[0, chosen].mean("sample"), rtol=1e-5)


def test_eigenvectors_of_two_checkpoints_share_a_record(command, tiny):
    """Their eigenvalues differ, and the directions have one name."""
    asked = ["--slice", "1d", "--direction", "top", "--points", 3, "--reach", 1]
    ran = command("a.pt", "b.pt", *asked)
    assert (ran.status, ran.err) == (0, "")
    with open_record("a.landscape.h5") as record:
        rows = record["slices_1d"].dataset.load()
    assert list(rows.direction.values.flat) in (["top eigenvector 1"], ["top eigenvector 1"] * 2)
    assert len(set(rows.detail.values[:, 0])) == 2


def test_checkpoints_that_lines_lead_to_are_on_the_slice(command, tiny):
    """As far as the loss rises would be short of them: far.pt is where no loss of a.pt's order is."""
    far = {name: 30 * value for name, value in read_checkpoint("b.pt").state.items()}
    torch.save({"model": far, "step": 10}, "far.pt")
    lines = ["--direction", "far.pt", "--direction", "c.pt"]
    assert command("a.pt", "--slice", "1d", *lines, "--points", 5, "-o", "lines.h5").status == 0
    with open_record("lines.h5") as record:
        assert (record["slices_1d"].dataset.position.values[..., -1] >= 1.1 - 1e-12).all()
    ran = command("a.pt", "--slice", "2d", *lines, "--points", 5)
    assert (ran.status, ran.err) == (0, "")
    with open_record("a.landscape.h5") as record:
        row = record["slices_2d"].dataset.isel(checkpoint=0).load()
    assert list(row.end_name.values) == ["line to far.pt", "line to c.pt"]
    on_plane = np.stack([np.r_[0, row.end_first.values], np.r_[0, row.end_second.values]], axis=1) * row.norm.values
    between = [
        np.linalg.norm(each[:, None] - each[None], axis=2)
        for each in (on_plane, np.array([flat(name) for name in ("a.pt", "far.pt", "c.pt")]))
    ]
    np.testing.assert_allclose(*between, rtol=1e-5, atol=1e-5)
    for places, grid in ((row.end_first.values, row.first.values), (row.end_second.values, row.second.values)):
        assert grid[0] < places.min() < places.max() < grid[-1]
    assert f"the line to far.pt ends at (1.00, {row.end_second.values[0]:.2f})" in ran.out
    text = " ".join(each.get_text() for each in draw("slices-2d", "a.landscape.h5").findobj(Text))
    assert "squares: far.pt at (1.00," in text.replace("\n", " ")


def test_a_plane_goes_through_other_checkpoints_of_its_run(command, tiny):
    asked = ["--slice", "2d", "--direction", "a.pt", "--direction", "b.pt", "--points", 3]
    ran = command("a.pt", "b.pt", "c.pt", *asked)
    assert (ran.status, ran.out) == (2, "")
    assert "a.pt is a checkpoint that gets a plane" in ran.err
    assert "--at" in ran.err
    assert command("a.pt", "b.pt", "c.pt", *asked, "--at", 20, "-o", "run.h5").status == 0
    assert command("c.pt", *asked, "-o", "alone.h5").status == 0
    rows = []
    for name in ("run.h5", "alone.h5"):
        with open_record(name) as record:
            rows.append(record["slices_2d"].dataset.isel(checkpoint=0).load())
    assert np.array_equal(rows[0].loss.values, rows[1].loss.values)
    np.testing.assert_allclose(rows[0].path_first.values, [*rows[0].end_first.values, 0], atol=1e-6)
