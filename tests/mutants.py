"""The command ``python -m tests.mutants``: how many of a sample of mutants of the numerics the tests find out.

mutmut makes the mutants of `landscape.curvature`, `landscape.spectrum` and `landscape.valley` (``[tool.mutmut]`` in
pyproject.toml) and runs the tests that reach each. Of all, a sample is tried: some 8,600 would take a day.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from cyclopts import App

MADE = Path("mutants")
VERDICTS = {0: "survived", 1: "found out", 3: "found out", 5: "not reached", 33: "not reached"}  # else it took too long
app = App(help="Try a sample of mutants; the survivors are listed.", version_flags=[])


def states() -> dict[str, int | None]:
    """What became of each mutant, by its name; None of one that wasn't tried."""
    found: dict[str, int | None] = {}
    for path in sorted(MADE.glob("landscape/**/*.meta")):
        found |= json.loads(path.read_text())["exit_code_by_key"]
    return found


def mutmut(*arguments: str) -> str:
    """What mutmut says."""
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments], check=False, capture_output=True, text=True
    ).stdout


@app.default
def main(*, count: int = 240, seed: int = 20261126, processes: int = 1) -> int:
    """Try a sample.

    Args:
        count: mutants to try.
        seed: of the sample.
        processes: at a time.
    """
    mutmut("run", "none of them")  # makes them, and finds out which tests reach which
    names = random.Random(seed).sample(sorted(states()), count)
    said = mutmut("run", "--max-children", str(processes), *names)
    ended = states()
    if untried := [name for name in names if ended[name] is None]:
        print(f"{len(untried)} of {count} mutants weren't tried; mutmut says:\n{said[-2000:]}")
        return 1
    verdicts = {name: VERDICTS.get(ended[name], "took too long") for name in names}
    left = [name for name, verdict in verdicts.items() if verdict != "found out"]
    print(f"{count - len(left)} of {count} mutants found out, seed {seed}; the others:")
    for name in left:
        print(f"\n{name}: {verdicts[name]}")
        print(mutmut("show", name))
    return 0


if __name__ == "__main__":
    sys.exit(app())
