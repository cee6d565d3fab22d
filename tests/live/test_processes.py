"""A watch under DistributedDataParallel: every process takes part, and the first one writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.live.parallel import STEPS, train
from tests.live.test_resume import rows
from tests.live.trainings import equal
from tests.machine.test_parallel import torchrun


@pytest.mark.slow
def test_a_watch_under_ddp_has_the_rows_of_a_single_process(tmp_path):
    """In float64 both trainings differ by rounding: a gradient is the mean over processes, or over all samples."""
    ended = torchrun("-m", "tests.live.parallel", str(tmp_path))
    assert ended.returncode == 0, ended.stderr[-2000:]
    for rank in range(2):
        alone, watched = (torch.load(tmp_path / f"2-{rank}-{each}.pt", weights_only=True) for each in (False, True))
        assert equal(watched, alone)
        assert len(alone["losses"]) == STEPS
    train(tmp_path, True)
    several, single = rows(tmp_path / "run-2.h5"), rows(tmp_path / "run-1.h5")
    assert several.keys() == single.keys()
    for (group, name), values in single.items():
        if name in ("step", "converged", "certified", "crossed", "products"):
            np.testing.assert_array_equal(several[group, name], values, err_msg=f"{group} {name}")
        elif name in ("loss", "largest", "eigenvalue", "ratio", "noise_scale", "slope_after", "valley_share"):
            np.testing.assert_allclose(several[group, name], values, rtol=1e-6, atol=1e-9, err_msg=f"{group} {name}")
    assert single["crossings", "step"].tolist() == list(range(0, STEPS, 2))
    assert not list(tmp_path.glob("run-2.h5.parts*"))
