"""Training: the files that a run writes, and continued runs that equal uninterrupted ones."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import landscape
from data.markov import MarkovLanguage
from landscape.checkpoint import Checkpoint, read_checkpoint
from landscape.errors import InputError
from models import densely
from models import train as train_command
from models.problems import markov
from models.settings import TrainingSettings, checkpoint_path, claim, newest_checkpoint
from models.tasks import TASKS, score_model
from models.training import TrainingRun, sizes_of, train
from tests.conftest import ROOT

TINY = TrainingSettings("looped", epochs=3, steps_per_epoch=4, batch=8)


def contents(checkpoint: Checkpoint) -> list[torch.Tensor]:
    """All weights and all of Adam's moments."""
    moments = checkpoint.optimizer["state"].values()
    return [*checkpoint.state.values(), *(value for state in moments for value in state.values())]


def assert_same_run(first: Path, second: Path) -> None:
    """Every checkpoint of two runs is equal, bit for bit."""
    names = [sorted(path.name for path in folder.glob("*.pt")) for folder in (first, second)]
    assert names[0] == names[1]
    for name in names[0]:
        ours, theirs = (read_checkpoint(folder / name) for folder in (first, second))
        assert all(torch.equal(a, b) for a, b in zip(contents(ours), contents(theirs), strict=True))
        assert (ours.step, ours.metrics, ours.arguments) == (theirs.step, theirs.metrics, theirs.arguments)


class TestSchedule:
    def test_default_run(self) -> None:
        steps = TrainingSettings("looped").checkpoint_steps()
        assert steps[:8] == [0, 1, 2, 4, 8, 16, 20, 40]
        assert steps[15:18] == [200, 400, 600]
        assert steps[-2:] == [3800, 4000]

    @pytest.mark.parametrize(("epochs", "steps", "last"), [(1, 1, 1), (13, 3, 39), (25, 1, 25)])
    def test_starts_at_0_and_ends_at_the_last_step(self, epochs: int, steps: int, last: int) -> None:
        schedule = TrainingSettings("single", epochs=epochs, steps_per_epoch=steps).checkpoint_steps()
        assert (schedule[0], schedule[-1]) == (0, last)
        assert schedule == sorted(set(schedule))

    def test_the_rate_rises_falls_and_stays_where_neither_is_asked_for(self) -> None:
        settings = replace(TINY, warmup=3, cooldown=4, learning_rate=1.0)
        run = TrainingRun.begin(settings)
        rates = []
        for step in range(13):  # one beyond the end, as who goes on from a checkpoint would
            run.step = step
            run._enter(run.stage)
            rates.append(run.optimizer.param_groups[0]["lr"])
        assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
        assert {group["lr"] for group in TrainingRun.begin(TINY).optimizer.param_groups} == {TINY.learning_rate}

    def test_a_run_from_before_a_setting_existed_goes_on(self, tmp_path: Path) -> None:
        claim(tmp_path, TINY, {})
        stored = json.loads((tmp_path / "settings.json").read_text())
        del stored["cooldown"]
        (tmp_path / "settings.json").write_text(json.dumps(stored))
        claim(tmp_path, TINY, {})
        with pytest.raises(InputError, match="cooldown=0, not cooldown=5"):
            claim(tmp_path, replace(TINY, cooldown=5), {})

    def test_names_order_as_steps_do(self, tmp_path: Path) -> None:
        for step in (0, 20, 4000, 999_999, 1_000_000):
            checkpoint_path(tmp_path, step).touch()
            assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, step)


class TestDensely:
    def test_repeats_the_run_bit_for_bit(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run, dense = tmp_path / "run", tmp_path / "dense"
        train(TINY, run)
        assert densely.main(run / "step-000004.pt", steps=4, out=dense) == 0
        assert capsys.readouterr().out.strip() == str(dense / "step-000008.pt")
        assert [path.name for path in sorted(dense.glob("*.pt"))] == [f"step-{step:06}.pt" for step in range(4, 9)]
        for step in (4, 8):
            ours, theirs = (read_checkpoint(checkpoint_path(folder, step)) for folder in (run, dense))
            assert all(torch.equal(a, b) for a, b in zip(contents(ours), contents(theirs), strict=True))

    def test_refuses_the_run_s_own_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The run's journal would end with the repetition, and the run couldn't be continued."""
        last = train(TINY, tmp_path)
        before = (tmp_path / "journal.jsonl").read_bytes()
        assert densely.main(last, steps=1, out=tmp_path) == 2
        assert "own folder" in capsys.readouterr().err
        assert (tmp_path / "journal.jsonl").read_bytes() == before

    def test_refuses_what_belongs_to_no_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert densely.main(tmp_path / "a.pt", out=tmp_path / "dense") == 2
        assert "name a checkpoint in its run's folder" in capsys.readouterr().err
        train(TINY, tmp_path)
        assert densely.main(tmp_path / "step-000004.pt", steps=0, out=tmp_path / "dense") == 2
        assert not (tmp_path / "dense").exists()


class TestRun:
    def test_writes_the_checkpoints_of_its_schedule(self, tmp_path: Path) -> None:
        last = train(TINY, tmp_path)
        assert last == tmp_path / "step-000012.pt"
        found = [read_checkpoint(path) for path in sorted(tmp_path.glob("*.pt"))]
        assert [checkpoint.step for checkpoint in found] == [0, 1, 2, 4, 8, 12]
        assert all(checkpoint.problem == "markov" for checkpoint in found)
        assert all(
            (checkpoint.arguments["model"], checkpoint.arguments["loops"]) == ("looped", 3) for checkpoint in found
        )

    def test_loss_at_the_start_is_that_of_guessing(self, tmp_path: Path) -> None:
        """For Gaussian logits of variance s^2 that are independent of the target, the loss is at most log V + s^2 / 2.

        An embedding of 16 normal entries and head weights uniform in +-1/4 give s^2 = 16 / 48 = 1/3; the single draw of
        96 head weights and the layer's own addition may double it.
        """
        train(TrainingSettings("single", epochs=1, steps_per_epoch=1), tmp_path)
        metrics = read_checkpoint(tmp_path / "step-000000.pt").metrics
        for name in ("training_loss", "evaluation_loss_overall"):
            assert -0.05 < metrics[name] - math.log(6) < 1 / 3

    def test_first_step_is_adam_s(self) -> None:
        """Adam's first step moves every weight by learning_rate * g / (|g| + 1e-8), whatever its betas."""
        run = TrainingRun.begin(TINY)
        inputs, targets = run.task.batch(8, np.random.SeedSequence(0, spawn_key=(0,)))
        before = [parameter.detach().clone() for parameter in run.model.parameters()]
        loss = nn.functional.cross_entropy(run.model(inputs), targets)
        gradient = torch.autograd.grad(loss, list(run.model.parameters()))
        run.advance()
        for parameter, old, g in zip(run.model.parameters(), before, gradient, strict=True):
            # A step of 3e-3 on weights of up to 4 in float32 is rounded by up to 2^-23 * 2.
            assert torch.allclose(parameter, old - 3e-3 * g / (g.abs() + 1e-8), rtol=0, atol=3e-7)

    def test_training_lowers_the_loss_but_not_below_bayes(self, tmp_path: Path) -> None:
        metrics = read_checkpoint(train(TrainingSettings("looped", epochs=3), tmp_path)).metrics
        assert metrics["bayes_loss_overall"] < metrics["evaluation_loss_overall"] < math.log(6) - 0.3
        assert metrics["evaluation_accuracy_simple"] > 0.8

    def test_single_and_looped_are_paired(self) -> None:
        single, looped = (TrainingRun.begin(TrainingSettings(model, seed=3)) for model in ("single", "looped"))
        pairs = zip(single.model.state_dict().values(), looped.model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

    def test_seed_changes_weights_and_data(self) -> None:
        first, second = (TrainingRun.begin(TrainingSettings("single", seed=seed)) for seed in (0, 1))
        assert not torch.equal(first.model.head.weight, second.model.head.weight)
        inputs = [TASKS["markov"].batch(8, np.random.SeedSequence(seed, spawn_key=(0,)))[0] for seed in (0, 1)]
        assert not torch.equal(*inputs)

    def test_leaves_the_global_random_state_alone(self) -> None:
        torch.manual_seed(11)
        expected = torch.rand(3)
        torch.manual_seed(11)
        TrainingRun.begin(TINY)
        assert torch.equal(torch.rand(3), expected)


class TestContinuing:
    @pytest.mark.parametrize("stop", [0, 3, 8, 11])
    def test_a_stopped_run_reaches_the_same_weights(self, tmp_path: Path, stop: int) -> None:
        def interrupt(step: int) -> None:
            if step == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(TINY, tmp_path / "stopped", interrupt)
        train(TINY, tmp_path / "stopped")
        train(TINY, tmp_path / "whole")
        assert_same_run(tmp_path / "stopped", tmp_path / "whole")

    def test_a_finished_run_is_left_as_it_is(self, tmp_path: Path) -> None:
        last = train(TINY, tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert train(TINY, tmp_path) == last
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before

    def test_other_settings_are_refused_and_named(self, tmp_path: Path) -> None:
        train(TINY, tmp_path)
        before = sorted(tmp_path.iterdir())
        other = TrainingSettings("looped", epochs=3, steps_per_epoch=4, batch=8, seed=1, width=8)
        with pytest.raises(InputError, match="seed=0, width=16, not seed=1, width=8") as refusal:
            train(other, tmp_path)
        assert "\n" not in str(refusal.value)
        assert sorted(tmp_path.iterdir()) == before

    def test_a_default_given_by_hand_is_the_same_setting(self, tmp_path: Path) -> None:
        last = train(TINY, tmp_path)
        assert (
            train(TrainingSettings("looped", epochs=3, steps_per_epoch=4, batch=8, width=16, loops=3), tmp_path) == last
        )

    def test_checkpoints_of_unknown_settings_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "step-000004.pt").touch()
        with pytest.raises(InputError, match=r"no settings\.json"):
            claim(tmp_path, TINY, {})

    @pytest.mark.parametrize(
        "wrong", [{"epochs": 0}, {"batch": 0}, {"seed": -1}, {"cooldown": -1}, {"learning_rate": math.nan}]
    )
    def test_settings_of_no_run_are_refused(self, tmp_path: Path, wrong: dict[str, float]) -> None:
        with pytest.raises(InputError):
            train(TrainingSettings("single", **wrong), tmp_path / "new")
        assert not (tmp_path / "new").exists()


class TestCommand:
    @pytest.mark.slow
    def test_interrupt_and_continue(self, tmp_path: Path) -> None:
        out = tmp_path / "run"
        command = [sys.executable, "-m", "models.train", "looped", "--out", str(out), "--epochs", "12"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        # A background job inherits an ignored SIGINT and would pass it on. A handler set here is reset in the child.
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
        signal.signal(signal.SIGINT, previous)
        while not (out / "step-000020.pt").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        message = process.communicate()[1].strip()
        assert process.returncode == 130
        assert f"the same command continues after {newest_checkpoint(out).name} in {out}" in " ".join(message.split())
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
        subprocess.run([*command[:5], str(tmp_path / "whole"), *command[6:]], cwd=ROOT, check=True, capture_output=True)
        assert_same_run(out, tmp_path / "whole")

    def test_wrong_settings_exit_2_with_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        train(TINY, tmp_path)
        assert train_command.main(TrainingSettings("looped"), out=tmp_path) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith(f"error: {tmp_path} holds a run with epochs=3")

    def test_a_size_that_is_none_leaves_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The corrected command may then use the folder."""
        assert train_command.main(TrainingSettings("single", width=0), out=tmp_path / "run") == 2
        assert "a size below 1" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(("name", "text"), [("settings.json", "{"), ("settings.json", "3"), ("journal.jsonl", "{")])
    def test_a_damaged_run_exits_2_with_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
    ) -> None:
        train(TINY, tmp_path)
        (tmp_path / name).write_text(text)
        assert train_command.main(TINY, out=tmp_path) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1

    def test_a_file_in_place_of_the_folder_exits_2(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "run").touch()
        assert train_command.main(TINY, out=tmp_path / "run") == 2
        assert "choose another --out" in capsys.readouterr().err

    def test_other_files_are_no_checkpoints(self, tmp_path: Path) -> None:
        (tmp_path / "step-best.pt").touch()
        assert newest_checkpoint(tmp_path) is None

    def test_no_threads_exit_2(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert train_command.main(TINY, out=tmp_path / "new", threads=0) == 2
        assert "0 threads" in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


class TestProblem:
    def test_markov_poses_the_loss_of_the_checkpoint(self, tmp_path: Path) -> None:
        checkpoint = read_checkpoint(train(TINY, tmp_path))
        problem = markov(checkpoint, **checkpoint.arguments)
        problem.model.load_state_dict(checkpoint.state)
        sequences = MarkovLanguage().sample(256, 0)
        (inputs, targets) = problem.batches[0]
        assert torch.equal(torch.cat([inputs, targets[:, -1:]], dim=1), torch.from_numpy(sequences.tokens))
        expected = score_model(problem.model, sequences).loss.mean()
        # Float32 logits under a float64 softmax against float32 throughout.
        assert nn.CrossEntropyLoss()(problem.model(inputs), targets).item() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("name", ["single", "looped"])
    def test_shipped_checkpoints_are_trained_models(self, name: str) -> None:
        checkpoint = read_checkpoint(ROOT / "data" / f"{name}.pt")
        assert (checkpoint.step, checkpoint.problem, checkpoint.arguments["model"]) == (4000, "markov", name)
        problem = markov(checkpoint, **checkpoint.arguments)
        problem.model.load_state_dict(checkpoint.state)
        measured = TASKS["markov"].evaluate(problem.model)
        # Float32 logits of order 10, summed in another order on another machine.
        assert measured["evaluation_loss_overall"] == pytest.approx(
            checkpoint.metrics["evaluation_loss_overall"], abs=1e-4
        )


class TestTasks:
    @pytest.mark.parametrize("name", TASKS)
    def test_every_task_trains_is_evaluated_and_poses_its_problem(self, tmp_path: Path, name: str) -> None:
        """The problem's loss is the mean over the answers' symbols, at the checkpoint's weights."""
        model = "single" if name in ("markov", "second-order") else "gpt"
        settings = TrainingSettings(model, task=name, epochs=1, steps_per_epoch=2, batch=8, width=8, heads=2)
        last = train(settings, tmp_path)
        checkpoint = read_checkpoint(last)
        assert all(math.isfinite(value) for value in checkpoint.metrics.values())
        problem = landscape.load_problem(last)
        run = TrainingRun.begin(settings)
        run.model.load_state_dict(checkpoint.state)
        ((inputs, targets),) = problem.batches
        with torch.no_grad():
            expected = nn.functional.cross_entropy(run.model(inputs), targets).item()
        assert float(problem.evaluate().loss) == pytest.approx(expected, rel=1e-5)

    def test_learned_positions_reach_as_far_as_the_longest_questions(self) -> None:
        """Addition of 12 bits: 25 of the question, ``>``, 13 of the answer; the final ``.`` is no input."""
        assert sizes_of(TrainingSettings("gpt", task="addition"))["context"] == 39
        assert sizes_of(TrainingSettings("gpt"))["context"] == 32

    def test_a_model_that_knows_the_answers_is_wholly_right(self) -> None:
        """A model that knows the answers is right everywhere, and one wrong symbol makes a sequence wrong."""
        task = TASKS["copy"]
        inputs, targets = task.batch(64, 3)

        class Knowing(nn.Module):
            """A model that looks the answer up by the question, the only part of the sequence that it may see."""

            spoilt = False

            def forward(self, tokens: torch.Tensor) -> torch.Tensor:
                logits = torch.zeros(len(tokens), task.vocabulary, tokens.shape[1])
                for place, row in enumerate(tokens.tolist()):
                    asked = row.index(task.vocabulary - 2)
                    answer = [*row[:asked], task.vocabulary - 1]
                    if self.spoilt and place % 2:
                        answer[-1] = 0
                    for at, symbol in enumerate(answer[: tokens.shape[1] - asked]):
                        logits[place, symbol, asked + at] = 9.0
                return logits

        found = task.evaluate(Knowing())
        assert {value for name, value in found.items() if "accuracy" in name} == {1.0}
        spoilt = Knowing()
        spoilt.spoilt = True
        found = task.evaluate(spoilt)
        assert {value for name, value in found.items() if "accuracy" in name} == {0.5}
        assert targets.shape == inputs.shape

    def test_the_language_of_second_order_is_scored_against_itself(self) -> None:
        task = TASKS["second-order"]

        class Language(nn.Module):
            def forward(self, tokens: torch.Tensor) -> torch.Tensor:
                padded = np.concatenate([tokens.numpy(), np.zeros((len(tokens), 1), dtype=np.int64)], axis=1)
                return torch.from_numpy(task.language.log_probabilities(padded)).transpose(1, 2)

        found = task.evaluate(Language())
        assert found["evaluation_loss"] == pytest.approx(found["source_loss"], abs=1e-12)
        assert found["evaluation_accuracy"] == found["source_accuracy"]


class TestWatched:
    def test_the_weights_are_those_of_an_unwatched_run_also_when_stopped(self, tmp_path: Path) -> None:
        def interrupt(step: int) -> None:
            if step == 9:
                raise KeyboardInterrupt

        alone = train(TINY, tmp_path / "alone")
        with pytest.raises(KeyboardInterrupt):
            train(TINY, tmp_path / "watched", interrupt, watch=5.0)
        watched = train(TINY, tmp_path / "watched", watch=5.0)
        one, other = (read_checkpoint(each) for each in (alone, watched))
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
        with landscape.open_record(tmp_path / "watched" / "watch.landscape.h5") as record:
            steps = record["loss"].step.values
        assert len(steps)
        assert (steps[1:] > steps[:-1]).all()
