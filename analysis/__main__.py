"""The command ``python -m analysis``: list the studies, or run them."""

import os
import sys
from pathlib import Path

from cyclopts import App

from landscape.errors import InputError

app = App(name="python -m analysis", version_flags=[])


@app.default
def main(
    *studies: str,
    quick: bool = False,
    runs: Path = Path("runs/study"),
    results: Path | None = None,
    workers: int = 2,
) -> int:
    """Answer questions about arXiv:2510.10089 with training runs of our own; without names, list the studies.

    A study writes NAME.md, NAME.h5 and its figures. A study that was stopped continues where it stopped.

    Args:
        studies: Names of studies, or ``all``.
        quick: Use few seeds and short runs. This shows that everything runs; the results say nothing about the
            question. The folder of runs is RUNS/quick.
        runs: Folder RUNS of the training runs and of finished measurements.
        results: Folder of the results; default: analysis/results, or RUNS/quick/results with --quick.
        workers: Number of processes at a time, each with one thread.
    """
    from analysis.studies import STUDIES
    from analysis.support.study import Scale, run_study

    if not studies:
        for name, study in STUDIES.items():
            print(f"{name:12} {study.question}")
        return 0
    unknown = [name for name in studies if name not in (*STUDIES, "all")]
    if unknown or workers < 1:
        wrong = (
            f"there is no study {unknown[0]!r}; there are {', '.join(STUDIES)} and all"
            if unknown
            else (f"nothing can be done by {workers} processes; give --workers 1 or more")
        )
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    if quick:
        runs /= "quick"
    scale = Scale(quick, runs, results or (runs / "results" if quick else Path("analysis/results")))
    try:
        for name in STUDIES if "all" in studies else studies:
            run_study(STUDIES[name], scale, workers)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues with what isn't finished", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # One thread for each process. The libraries below NumPy read these variables when they are loaded.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # The C library keeps freed memory instead of returning it to the system. This saves a tenth of the workers' time.
    os.environ |= {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}
    sys.exit(app())
