"""A watched training whose process is killed at random moments, 20 times, has the rows of an uninterrupted one."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.live.killed import INSTRUMENTS, STEPS, train
from tests.live.test_resume import rows

KILLS = 20


@pytest.mark.slow
def test_a_training_that_is_killed_has_the_rows_of_an_uninterrupted_one(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    started = time.perf_counter()
    train(tmp_path / "whole")
    longest, moments = 3 * (time.perf_counter() - started) / KILLS, random.Random(0)
    begun = []
    for ending in [*([True] * KILLS), False]:
        command = [sys.executable, "-m", "tests.live.killed", str(tmp_path / "killed")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            begun.append(int(process.stdout.readline().split()[-1]))
            if ending:
                time.sleep(moments.uniform(0, longest))
                process.kill()
    assert begun[0] == 0
    assert sorted(begun) == begun
    assert len(set(begun)) > KILLS / 3  # killed at many different steps
    assert process.returncode == 0
    whole, killed = rows(tmp_path / "whole" / "run.h5"), rows(tmp_path / "killed" / "run.h5")
    assert whole.keys() == killed.keys()
    for key, values in whole.items():
        np.testing.assert_array_equal(values, killed[key], err_msg=str(key))
    for name in INSTRUMENTS:
        assert whole[name, "step"][-1] > STEPS / 2
