"""Sample-level learning on the toy: what each model learns, when, and how near to the best possible predictor.

Claim 3 of arXiv:2510.10089: Single-Attn masters the simple sequences and stagnates on the complex ones. Looped-Attn
learns both, one after the other. The controls separate recursion from depth, from the number of parameters and from the
number of operations. A second-order language tests whether looping helps where it isn't needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import landscape
from analysis.support.intervals import difference_of, mean_of, paired_effect, pooled_effect
from analysis.support.runs import measuring_units, model_at, training_units
from analysis.support.study import Report, Scale, Study, markdown_table
from analysis.support.toy import NAMES, toy_arms
from analysis.support.units import Unit
from data.markov import BayesPredictor, MarkovLanguage, Sequences
from data.scores import Scores, estimate
from landscape.figures import COLOURS
from models.settings import TrainingSettings, checkpoints_of
from models.tasks import score_bayes, score_model

SEQUENCES = 4096
"""Number of fresh sequences that score the last checkpoints of all runs. It was fixed before there were results."""

SEED = 1
ALLOWED_ERRORS = 3
MEASURES = ("loss overall", "loss simple", "loss complex", "accuracy simple", "accuracy complex")
GROUPS = ("simple", "complex")
NEEDLESS = {"second-single": "single", "second-looped": "looped"}


def stages(scale: Scale) -> list[list[Unit]]:
    """The training, then the scores and the learning curves of every run, and the ceilings."""
    arms, needless, seeds = toy_arms(scale), _needless(scale), scale.pick(5, 2)
    training = training_units(scale.runs, arms | needless, seeds)
    count = _count(scale)
    scores = measuring_units(scale.runs, arms, seeds, "score", score, count=count)
    curves = measuring_units(scale.runs, arms, seeds, "learn", learn)
    return [training, [*scores, *curves, Unit("ceilings", ceilings, {"count": count})]]


def _needless(scale: Scale) -> dict[str, TrainingSettings]:
    """The settings of single and looped training on the second-order language, for which one layer is enough."""
    return {name: replace(toy_arms(scale)[arm], task="second-order") for name, arm in NEEDLESS.items()}


def ceilings(count: int) -> dict[str, dict[str, float]]:
    """Scores of the Bayes predictor, and of the Bayes predictor that knows each sequence's type."""
    sequences = _sequences(count)
    told = BayesPredictor(sequences.language).predict_knowing_type(sequences.tokens, sequences.is_complex)
    knowing = Scores.of(np.log(told), sequences.tokens, sequences.is_complex)
    return {"Bayes": _flat(score_bayes(sequences)), "Bayes, knowing the type": _flat(knowing)}


def score(folder: str, count: int) -> dict[str, float]:
    """Scores of a run's last checkpoint on the fresh sequences.

    ``excess`` is the loss above the Bayes predictor's loss, and ``excess error`` is its standard error.
    """
    sequences = _sequences(count)
    found = score_model(model_at(checkpoints_of(Path(folder))[-1]), sequences)
    excess = estimate(found.loss - score_bayes(sequences).loss, sequences.is_complex, "overall")
    return {**_flat(found), "excess": excess.mean, "excess error": excess.standard_error}


def learn(folder: str) -> dict[str, Any]:
    """Learning curves of simple and complex sequences, with each group's step of half of its progress and its delay."""
    result = landscape.probe(
        checkpoints_of(Path(folder)),
        [landscape.Loss(), landscape.Samples(terms=False), landscape.Learning("type")],
        Path(folder) / "learning.landscape.h5",
    )
    row = result.rows[-1].data["learning"]
    names = [str(name) for name in row.group_name.values]
    order = [names.index(name) for name in GROUPS]
    return {
        "steps": row.run_step.values.tolist(),
        **{
            name: row[f"group_{name}"].values[..., order].tolist()
            for name in ("loss", "accuracy", "known", "half_step", "delay")
        },
        **{name: row[f"group_{name}"].values[order].tolist() for name in ("half_step_interval", "delay_interval")},
    }


def report(scale: Scale, found: Mapping[str, Any]) -> Report:
    """Tables of final scores and of the steps of half the progress, and a figure of the learning curves."""
    arms, seeds = toy_arms(scale), range(scale.pick(5, 2))
    data = _dataset(arms, seeds, found)
    faults = [
        f"{arm}, seed {seed}"
        for arm in arms
        for seed in seeds
        if (score := found[f"score-{arm}-{seed}"])["excess"] < -ALLOWED_ERRORS * score["excess error"]
    ]
    text = f"""Scored at the last checkpoint on {_count(scale):,} fresh sequences, the same for all; losses in nats a
token. Operations are those of the matrix products of the whole training.

{_reached(data, found["ceilings"])}
Against Looped-Attn, if nothing else is named, paired by seed (negative: lower). Of the last of these columns
Cohen's d_z is by the standard deviation of the paired differences, d by that of either arm (pooled):

{_against(data)}
Runs with a lower loss than the Bayes predictor by more than {ALLOWED_ERRORS} paired standard errors, which would show a
fault of the evaluation: {len(faults)} of {len(arms) * len(seeds)}{": " * bool(faults)}{"; ".join(faults)}.

The step at which half of a group's progress is made (256 sequences), the delay of the complex ones, and of how many
seeds the delay's own 95 % interval is above zero:

{_when(data)}
Where looping isn't needed, the loss above that of the language itself (nats a token, held-out sequences):

{_needless_table(found, seeds)}"""
    return Report(text, data, {"curves": _curves(data, found["ceilings"]["Bayes"])})


def _dataset(arms: Mapping[str, TrainingSettings], seeds: range, found: Mapping[str, Any]) -> xr.Dataset:
    """All numbers by arm and seed."""

    def every(kind: str, name: str) -> list[list[Any]]:
        return [[found[f"{kind}-{arm}-{seed}"][name] for seed in seeds] for arm in arms]

    at = ("arm", "seed")
    variables: dict[str, Any] = {
        name.replace(" ", "_"): (at, every("score", name)) for name in (*MEASURES, "excess", "excess error")
    }
    for name in ("half_step", "delay"):
        variables[name] = ((*at, "group"), every("learn", name))
        variables[f"{name}_interval"] = ((*at, "group", "bound"), every("learn", f"{name}_interval"))
    for name in ("flops", "seconds"):
        variables[name] = (at, [[float(np.sum(each)) for each in row] for row in every("train", name)])
    curves = {
        arm: xr.Dataset(
            {
                name: (("seed", "step", "group"), [found[f"learn-{arm}-{seed}"][name] for seed in seeds])
                for name in ("loss", "accuracy", "known")
            },
            {"step": found[f"learn-{arm}-0"]["steps"]},
        )
        for arm in arms
    }
    together = xr.concat(curves.values(), "arm", join="outer").rename(
        loss="curve_loss", accuracy="curve_accuracy", known="curve_known"
    )
    return xr.Dataset(variables, {"arm": list(arms), "seed": list(seeds), "group": list(GROUPS)}).merge(together)


def _reached(data: xr.Dataset, best: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for arm in data.arm.values:
        own = data.sel(arm=arm)
        cells = [mean_of(own[name.replace(" ", "_")].values).text(3) for name in MEASURES]
        rows.append([NAMES[str(arm)], *cells, f"{float(own.flops.mean()):.2e}", f"{float(own.seconds.mean()):.0f} s"])
    rows += [[name, *(f"{values[measure]:.3f}" for measure in MEASURES), "", ""] for name, values in best.items()]
    return markdown_table(["", *MEASURES, "operations", "processor time"], rows)


def _against(data: xr.Dataset) -> str:
    pairs = [(str(arm), "looped") for arm in data.arm.values if arm != "looped"]
    rows = []
    for arm, other in [*pairs, ("single-long", "single")]:
        by_seed = [data[name.replace(" ", "_")] for name in MEASURES]
        values = [(each.sel(arm=arm).values, each.sel(arm=other).values) for each in by_seed]
        cells = [difference_of(*pair).text(3, "+") for pair in values]
        title = NAMES[arm] + f", against {NAMES[other]}" * (other != "looped")
        rows.append([title, *cells, *(f"{effect(*values[-1]):+.1f}" for effect in (paired_effect, pooled_effect))])
    return markdown_table(["", *MEASURES, "d_z", "d"], rows)


def _when(data: xr.Dataset) -> str:
    rows = []
    for arm in data.arm.values:
        own = data.sel(arm=arm)
        simple, complex_ = (own.half_step.sel(group=group).values for group in data.group.values)
        later = own.delay_interval.sel(group="complex").values[:, 0] > 0
        delay = own.delay.sel(group="complex").values
        rows.append([NAMES[str(arm)], *(mean_of(each).text(0) for each in (simple, complex_, delay)),
                     f"{int(later.sum())} of {len(later)}"])  # fmt: skip
    return markdown_table(["", "simple", "complex", "delay", "later for sure"], rows)


def _needless_table(found: Mapping[str, Any], seeds: range) -> str:
    excess = {
        name: [
            metrics["evaluation_loss"][-1] - metrics["source_loss"][-1]
            for seed in seeds
            for metrics in (found[f"train-{name}-{seed}"]["metrics"],)
        ]
        for name in NEEDLESS
    }
    rows = [[NAMES[arm], mean_of(excess[name]).text(4)] for name, arm in NEEDLESS.items()]
    rows.append(["looped - single", difference_of(excess["second-looped"], excess["second-single"]).text(4, "+")])
    return markdown_table(["", "excess"], rows)


def _curves(data: xr.Dataset, best: Mapping[str, float]) -> Figure:
    """A figure of the accuracy of simple and of complex sequences over training.

    Lines are means over seeds. Bands reach from the lowest to the highest seed.
    """
    figure = Figure(figsize=(6.9, 3.0), layout="constrained")
    for axes, group in zip(figure.subplots(1, 2), data.group.values, strict=True):
        for arm, colour in zip(data.arm.values, COLOURS, strict=False):
            own = data.curve_accuracy.sel(arm=arm, group=group).dropna("step", how="all")
            axes.plot(own.step, own.mean("seed"), color=colour, label=NAMES[str(arm)])
            axes.fill_between(own.step, own.min("seed"), own.max("seed"), color=colour, alpha=0.15, linewidth=0)
        axes.axhline(best[f"accuracy {group}"], color="black", linestyle=":", label="Bayes")
        axes.set(xscale="symlog", xlabel="training step", ylabel="accuracy", title=f"{group} sequences")
        axes.set_xlim(left=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _count(scale: Scale) -> int:
    return scale.pick(SEQUENCES, 64)


def _sequences(count: int) -> Sequences:
    return MarkovLanguage().sample(count, SEED)


def _flat(scores: Scores) -> dict[str, float]:
    summary = scores.summary()
    return {f"{quantity} {group}": each.mean for quantity in summary for group, each in summary[quantity].items()}


STUDY = Study(
    "learning",
    "Toy: which sequences does each model learn, when, and how near to the ceiling?",
    stages,
    report,
)
