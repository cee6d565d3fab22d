"""The command ``python -m models.compare``: single against looped over seeds, as a table."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from landscape.errors import InputError
from models.settings import TrainingSettings, replace_text

if TYPE_CHECKING:
    from data.scores import Estimate
    from models.comparison import Comparison, Interval

app = App(name="python -m models.compare", version_flags=[])


@app.default
def main(*, seeds: int = 5, runs: Path = Path("runs"), results: Path = Path("docs/results")) -> int:
    """Compare Single-Attn and Looped-Attn on the Markov language at the default settings of ``models.train``.

    Runs that are missing are trained and unfinished ones continued. The table is printed and written as JSON and
    Markdown. Exit status 1 says that a model beat the best possible predictor by more than chance.

    Args:
        seeds: Number of seeds, 0 upwards.
        runs: Folder of the runs, single-0 and so on.
        results: Folder for markov-comparison.json and markov-comparison.md.
    """
    try:
        import torch

        from models.comparison import compare

        torch.set_num_threads(1)  # as models.train does by default, so that a run made here is the same, bit for bit
        comparison = compare(TrainingSettings("single"), seeds, runs)
        table = markdown(comparison)
        replace_text(results / "markov-comparison.json", json.dumps(comparison.as_dict(), indent=2) + "\n")
        replace_text(results / "markov-comparison.md", table)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues with the runs that are not finished", file=sys.stderr)
        return 130
    print(table)
    return int(any(run.beats_bayes for run in comparison.runs))


def markdown(comparison: "Comparison") -> str:
    """Draw up the tables."""
    names = list(comparison.bayes)
    rows = [
        ("Single-Attn", [_interval(comparison.over_seeds("single", name)) for name in names]),
        ("Looped-Attn", [_interval(comparison.over_seeds("looped", name)) for name in names]),
        ("looped - single", [_interval(comparison.difference(name), "+") for name in names]),
        ("Bayes", [_estimate(comparison.bayes[name]) for name in names]),
        ("knowing the type", [_estimate(comparison.knowing_type[name]) for name in names]),
    ]
    excess = [
        (f"{run.model} {run.seed}", [_estimate(run.excess, "+"), "yes" if run.beats_bayes else "no"])
        for run in comparison.runs
    ]
    return f"""# Single-Attn against Looped-Attn on the Markov language

Made by `python -m models.compare --seeds {comparison.settings["seeds"]}`. Every run is
`python -m models.train {{single,looped}} --task markov --seed S` at its default settings, scored at its last checkpoint
on 4,096 fresh sequences, the same for all. Losses are in nats a token. Models: mean over seeds and 95 % t-interval; the
difference is paired by seed. Ceilings: standard error over sequences.

{_table(["", *names], rows)}
The loss of each run above that of the Bayes predictor, paired by sequence, with its standard error. A run that is lower
by more than 3 of them would show a fault of the evaluation.

{_table(["run", "excess", "beats Bayes"], excess)}"""


def _table(header: list[str], rows: list[tuple[str, list[str]]]) -> str:
    lines = [header, ["---"] * len(header), *([name, *cells] for name, cells in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _interval(interval: "Interval", sign: str = "") -> str:
    return f"{interval.mean:{sign}.4f} ± {interval.half_width:.4f}"


def _estimate(estimate: "Estimate", sign: str = "") -> str:
    return f"{estimate.mean:{sign}.4f} ± {estimate.standard_error:.4f}"


if __name__ == "__main__":
    app()
