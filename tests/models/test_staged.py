"""Staged training: the stages, the switch and its evidence, and continued runs that equal uninterrupted ones."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import landscape
from landscape.checkpoint import read_checkpoint
from landscape.dynamics.plateau import ShiftCriterion
from landscape.errors import InputError
from models import densely
from models.cost import counted
from models.journal import JOURNAL, read_journal
from models.settings import SwitchSettings, TrainingSettings, newest_checkpoint
from models.stages import Stage, stage_at
from models.switching import Watch
from models.training import TrainingRun, train
from tests.models.test_train import assert_same_run

SWITCH = SwitchSettings("epoch", latest=2, subset=8)
STAGED = TrainingSettings("looped", epochs=6, steps_per_epoch=2, batch=4, switch=SWITCH)


def softened(how: str, epochs: int) -> list[Stage]:
    settings = replace(STAGED, switch=replace(SWITCH, soften=how, soften_epochs=epochs))
    return [stage_at(settings, 3, epoch, 2) for epoch in range(7)]


class TestStages:
    def test_without_a_switch_there_is_one(self) -> None:
        assert stage_at(replace(STAGED, switch=None), 3, 5, None) == Stage(3)

    def test_before_the_switch_there_is_one_pass(self) -> None:
        assert stage_at(STAGED, 3, 50, None) == stage_at(STAGED, 3, 1, 2) == Stage(1)

    def test_abrupt(self) -> None:
        assert softened("none", 3) == [Stage(1)] * 2 + [Stage(3)] * 5

    def test_passes_come_one_after_another(self) -> None:
        assert [stage.loops for stage in softened("loops", 3)] == [1, 1, 2, 2, 2, 3, 3]
        assert {(stage.gain, stage.rate) for stage in softened("loops", 3)} == {(1.0, 1.0)}

    def test_gain_and_rate_rise_to_one(self) -> None:
        assert [stage.gain for stage in softened("gain", 3)] == [1, 1, 0.25, 0.5, 0.75, 1, 1]
        assert [stage.rate for stage in softened("rate", 3)] == [1, 1, 0.25, 0.5, 0.75, 1, 1]
        assert [stage.loops for stage in softened("gain", 3)] == [1, 1, 3, 3, 3, 3, 3]


class TestSwitch:
    def test_is_single_before_and_looped_after(self, tmp_path: Path) -> None:
        """Up to the switch the weights are Single-Attn's, bit for bit. Each checkpoint holds its number of passes."""
        train(STAGED, tmp_path / "staged")
        train(replace(STAGED, model="single", switch=None), tmp_path / "single")
        staged, single = (read_checkpoint(tmp_path / name / "step-000004.pt") for name in ("staged", "single"))
        assert all(torch.equal(staged.state[name], single.state[name]) for name in single.state)
        loops = {path.name: read_checkpoint(path).arguments["loops"] for path in (tmp_path / "staged").glob("*.pt")}
        assert loops["step-000004.pt"] == 1
        assert loops["step-000006.pt"] == loops["step-000012.pt"] == 3
        assert landscape.load_problem(tmp_path / "staged" / "step-000004.pt").model.loops == 1
        assert landscape.load_problem(tmp_path / "staged" / "step-000006.pt").model.loops == 3

    def test_its_cost_is_in_the_checkpoint(self, tmp_path: Path) -> None:
        """The checkpoint holds the evaluation of its weights with one pass and with three passes."""
        train(STAGED, tmp_path)
        checkpoint = read_checkpoint(tmp_path / "step-000004.pt")
        run = TrainingRun.begin(STAGED)
        run.model.load_state_dict(checkpoint.state)
        for loops, prefix in ((1, ""), (3, "switched_")):
            run.model.loops = loops
            expected = run.task.evaluate(run.model)
            assert {name: checkpoint.metrics[prefix + name] for name in expected} == expected
        assert not any("switched" in name for name in read_checkpoint(tmp_path / "step-000006.pt").metrics)

    def test_journal_has_all_that_led_to_it(self, tmp_path: Path) -> None:
        """The journal holds each epoch's mean loss and gradient norm, so the criterion can be evaluated again."""
        settings = replace(
            STAGED, epochs=40, switch=SwitchSettings(delta_loss=0.2, delta_grad=0.5, patience=3, subset=8)
        )
        train(settings, tmp_path)
        entries = read_journal(tmp_path)
        assert [entry["epoch"] for entry in entries] == list(range(1, 41))
        switched = entries[-1]["switched"]
        assert 3 < switched < 40
        criterion = ShiftCriterion(0.2, 0.5, patience=3)
        for entry in entries[:switched]:
            assert criterion.update(entry["loss"], entry["grad_norm"]) == (entry["epoch"] == switched)
            assert {name: entry[name] for name in criterion.evidence} == criterion.evidence
        assert all("grad_norm" not in entry for entry in entries[switched:])

    def test_the_loss_is_the_epoch_s_mean_and_the_norm_that_of_the_subset(self) -> None:
        settings = replace(STAGED, switch=SwitchSettings(subset=8))
        run = TrainingRun.begin(settings)
        losses = []
        for _ in range(2):
            inputs, targets = run.draw(4, (run.step,))
            losses.append(nn.functional.cross_entropy(run.model(inputs), targets).item())
            run.advance()
        problem = landscape.Problem(run.model, nn.CrossEntropyLoss(), [run.draw(8, (0, 1))])
        assert run.journal[0]["loss"] == pytest.approx(sum(losses) / 2, rel=1e-12)
        assert run.journal[0]["grad_norm"] == pytest.approx(float(problem.gradient().norm()), rel=1e-5)

    def test_moments_are_kept_or_dropped(self) -> None:
        kept, dropped = (
            TrainingRun.begin(replace(STAGED, switch=replace(SWITCH, keep_moments=keep))) for keep in (True, False)
        )
        for run in (kept, dropped):
            for _ in range(4):
                run.advance()
            assert run.switched == 2
        assert len(kept.optimizer.state) == len(list(kept.model.parameters()))
        assert len(dropped.optimizer.state) == 0

    def test_no_switch_without_passes_to_switch_to(self) -> None:
        with pytest.raises(InputError, match="single has one pass"):
            TrainingRun.begin(replace(STAGED, model="single"))

    def test_the_journal_counts_epochs_whatever_the_criterion(self) -> None:
        run = TrainingRun.begin(STAGED)
        for _ in range(6):
            run.advance()
        assert [entry["epoch"] for entry in run.journal] == [1, 2, 3]
        assert run.journal[1]["switch_epoch"] == 2

    def test_a_run_that_diverges_ends_with_its_epoch(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="the loss isn't finite in epoch"):
            train(replace(STAGED, learning_rate=1e30), tmp_path)

    @pytest.mark.parametrize("criterion", ["loss", "gradient", "curvature", "shift"])
    def test_every_criterion_is_told_what_it_watches(self, criterion: str) -> None:
        settings = replace(STAGED, switch=SwitchSettings(criterion, latest=3, subset=8))
        run = TrainingRun.begin(settings)
        for _ in range(8):
            run.advance()
        assert [entry["switched"] for entry in run.journal] == [None, None, 3, 3]
        watched = {"loss": (), "gradient": ("grad_norm",), "curvature": ("top_eigenvalue",), "shift": ("grad_norm",)}
        assert all(math.isfinite(run.journal[2][name]) for name in watched[criterion])

    def test_curvature_is_the_hessian_s_top_eigenvalue(self) -> None:
        run = TrainingRun.begin(replace(STAGED, switch=SwitchSettings("curvature", subset=8)))
        data = run.draw(8, (0, 1))
        watch = Watch(SwitchSettings("curvature"), lambda: data)
        hessian = landscape.full_spectrum(landscape.Problem(run.model, nn.CrossEntropyLoss(), [data]).hessian())
        assert watch.look(run.model)["top_eigenvalue"] == pytest.approx(hessian.eigenvalues[0], rel=1e-2)
        assert watch.cost(run.model) > 0

    @pytest.mark.parametrize(
        "wrong",
        [
            SwitchSettings("epoch"),
            SwitchSettings(subset=0),
            SwitchSettings(latest=0),
            SwitchSettings(patience=0),
            SwitchSettings("loss", delta_grad=0.1),
            SwitchSettings("curvature", delta_loss=0.1),
        ],
    )
    def test_impossible_switches_are_refused(self, tmp_path: Path, wrong: SwitchSettings) -> None:
        with pytest.raises(InputError):
            train(replace(STAGED, switch=wrong), tmp_path / "new")
        assert not (tmp_path / "new").exists()


class TestContinuing:
    @pytest.mark.parametrize("keep", [True, False])
    @pytest.mark.parametrize("stop", [1, 3, 4, 5, 8])
    def test_a_stopped_run_reaches_the_same_weights(self, tmp_path: Path, stop: int, keep: bool) -> None:
        def interrupt(step: int) -> None:
            if step == stop:
                raise KeyboardInterrupt

        switch = SwitchSettings(delta_loss=9.0, delta_grad=9.0, patience=1, keep_moments=keep, soften="gain",
                                soften_epochs=2, subset=8)  # fmt: skip
        settings = replace(STAGED, switch=switch)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "stopped", interrupt)
        train(settings, tmp_path / "stopped")
        train(settings, tmp_path / "whole")
        assert_same_run(tmp_path / "stopped", tmp_path / "whole")
        ours, theirs = (read_journal(tmp_path / name) for name in ("stopped", "whole"))
        assert [entry | {"seconds": 0} for entry in ours] == [entry | {"seconds": 0} for entry in theirs]

    def test_densely_repeats_the_stage(self, tmp_path: Path) -> None:
        train(STAGED, tmp_path / "run")
        assert densely.main(tmp_path / "run" / "step-000004.pt", steps=2, out=tmp_path / "dense") == 0
        ours, theirs = (read_checkpoint(tmp_path / name / "step-000006.pt") for name in ("run", "dense"))
        assert all(torch.equal(ours.state[name], theirs.state[name]) for name in ours.state)
        assert ours.arguments == theirs.arguments
        assert read_checkpoint(tmp_path / "dense" / "step-000004.pt").arguments["loops"] == 1

    def test_a_lost_journal_is_refused(self, tmp_path: Path) -> None:
        train(STAGED, tmp_path)
        (tmp_path / JOURNAL).unlink()
        newest_checkpoint(tmp_path).unlink()
        with pytest.raises(InputError, match="journal"):
            train(STAGED, tmp_path)


class TestCost:
    def test_a_step_of_single_attention(self) -> None:
        """A step costs three times the forward products: projections, head, and scores and mixtures of all pairs."""
        run = TrainingRun.begin(TrainingSettings("single", epochs=1, steps_per_epoch=1))
        run.advance()
        tokens, length = 64 * 32, 32
        forward = 2 * tokens * (4 * 16 * 16 + 16 * 6) + 2 * 2 * tokens * length * 16
        assert run.journal[0]["flops"] == 3 * forward

    def test_three_passes_cost_three_layers(self) -> None:
        costs = []
        for loops in (1, 2, 3):
            run = TrainingRun.begin(TrainingSettings("looped", epochs=1, steps_per_epoch=1, loops=loops))
            run.advance()
            costs.append(run.journal[0]["flops"])
        assert costs[2] - costs[1] == costs[1] - costs[0] == 3 * (2 * 64 * 32 * 1024 + 4 * 64 * 32 * 32 * 16)

    def test_fused_attention_is_counted_as_its_products(self) -> None:
        query = torch.randn(2, 4, 16, 8, requires_grad=True)
        with counted() as flops:
            nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True).sum().backward()
        assert flops.get_total_flops() == 3 * 2 * 2 * (2 * 4 * 16 * 16 * 8)
