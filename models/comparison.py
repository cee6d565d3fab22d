"""Single against looped: what each reaches on fresh sequences, their paired difference and the two ceilings.

The evaluation is fixed here, ahead of any result: 4,096 fresh sequences, the same for all runs, scored at the last
checkpoint. Runs with equal seeds start at equal weights and see equal data, so the difference is taken seed by seed.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from data.markov import BayesPredictor, MarkovLanguage, Sequences
from data.scores import Estimate, Group, Scores, estimate
from landscape.checkpoint import read_checkpoint
from landscape.errors import InputError
from models.registry import build_model
from models.settings import TrainingSettings
from models.tasks import score_bayes, score_model
from models.training import train

SEQUENCES = 4096
SEED = 1
ALLOWED_ERRORS = 3
FIGURES: tuple[tuple[str, Group], ...] = (
    ("loss", "overall"),
    ("loss", "simple"),
    ("loss", "complex"),
    ("accuracy", "simple"),
    ("accuracy", "complex"),
)


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and the half-width of its 95 % interval by Student's t."""

    mean: float
    half_width: float

    @classmethod
    def of(cls, values: list[float]) -> "Interval":
        """Make the interval of independent values, at least two."""
        quantile = stats.t.ppf(0.975, len(values) - 1)
        return cls(float(np.mean(values)), float(quantile * np.std(values, ddof=1) / np.sqrt(len(values))))


@dataclass(frozen=True)
class RunResult:
    """One run's figures, keyed ``loss overall`` and so on, and its loss above the Bayes predictor's, paired.

    ``excess`` is the mean over sequences of the difference of the two losses, in nats, with its standard error.
    """

    model: str
    seed: int
    figures: dict[str, Estimate]
    excess: Estimate

    @property
    def beats_bayes(self) -> bool:
        """Whether the run is better than possible, beyond chance: then something is wrong with the evaluation."""
        return self.excess.mean < -ALLOWED_ERRORS * self.excess.standard_error


@dataclass(frozen=True)
class Comparison:
    """All runs and the ceilings; the rest follows from them."""

    settings: dict[str, Any]
    runs: list[RunResult]
    bayes: dict[str, Estimate]
    knowing_type: dict[str, Estimate]

    def over_seeds(self, model: str, figure: str) -> Interval:
        """Return one model's interval."""
        return Interval.of(self._values(model, figure))

    def difference(self, figure: str) -> Interval:
        """Return the interval of looped minus single, paired by seed."""
        pairs = zip(self._values("looped", figure), self._values("single", figure), strict=True)
        return Interval.of([looped - single for looped, single in pairs])

    def _values(self, model: str, figure: str) -> list[float]:
        return [run.figures[figure].mean for run in self.runs if run.model == model]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        names = list(self.bayes)
        return {
            "settings": self.settings,
            "evaluation": {"sequences": SEQUENCES, "seed": SEED},
            "torch": torch.__version__,
            "models": {m: {name: asdict(self.over_seeds(m, name)) for name in names} for m in ("single", "looped")},
            "looped minus single": {name: asdict(self.difference(name)) for name in names},
            "ceilings": {
                "bayes": {name: asdict(value) for name, value in self.bayes.items()},
                "knowing the type": {name: asdict(value) for name, value in self.knowing_type.items()},
            },
            "runs": [{**asdict(run), "beats_bayes": run.beats_bayes} for run in self.runs],
        }


def compare(base: TrainingSettings, seeds: int, folder: Path) -> Comparison:
    """Train single and looped, or read their finished runs, and score them.

    Args:
        base: Settings of every run but for the model and the seed.
        seeds: Number of seeds, 0 upwards.
        folder: Where the runs lie: ``single-0`` and so on.

    Raises:
        InputError: If there are fewer than two seeds or a run in the folder has other settings.
    """
    if seeds < 2:
        raise InputError(f"{seeds} seeds give no interval; compare at least 2")
    sequences = MarkovLanguage().sample(SEQUENCES, SEED)
    bayes = score_bayes(sequences)
    told = BayesPredictor(sequences.language).predict_knowing_type(sequences.tokens, sequences.is_complex)
    knowing_type = Scores.of(np.log(told), sequences.tokens, sequences.is_complex)
    plan = [replace(base, model=model, seed=seed) for seed in range(seeds) for model in ("single", "looped")]
    runs = [_run(settings, folder, sequences, bayes) for settings in plan]
    shared = {name: value for name, value in asdict(base).items() if name not in ("model", "seed")}
    return Comparison({**shared, "seeds": seeds}, runs, _figures(bayes), _figures(knowing_type))


def _run(settings: TrainingSettings, folder: Path, sequences: Sequences, bayes: Scores) -> RunResult:
    """Finish one run and score its last checkpoint."""
    checkpoint = read_checkpoint(train(settings, folder / f"{settings.model}-{settings.seed}"))
    model = build_model(settings.model, sequences.language.symbols, **settings.sizes())
    model.load_state_dict(checkpoint.state)
    scores = score_model(model, sequences)
    excess = estimate(scores.loss - bayes.loss, sequences.is_complex, "overall")
    return RunResult(settings.model, settings.seed, _figures(scores), excess)


def _figures(scores: Scores) -> dict[str, Estimate]:
    summary = scores.summary()
    return {f"{name} {group}": summary[name][group] for name, group in FIGURES}
