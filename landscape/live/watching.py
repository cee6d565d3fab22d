"""The watch: instruments that measure the landscape within a training, and a record of what they saw."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from torch import Tensor
from torch.optim import Optimizer

from landscape.curvature.products.work import Counting
from landscape.errors import InputError
from landscape.live.budget import EVERY, FIXED, Accounts, TrainingWork
from landscape.live.events import EVENTS, Event, EventName, JumpCriterion
from landscape.live.instrument import Instrument, Turn
from landscape.live.named import instruments_of
from landscape.live.outputs import Send, scalars, senders
from landscape.live.rows import Rows
from landscape.live.steps import Moment, Steps
from landscape.live.table import LiveTable
from landscape.live.undisturbed import undisturbed
from landscape.problem import Problem
from landscape.problem.batches import map_tensors, samples_in
from landscape.reporting.messages import cause

_logger = logging.getLogger("landscape")
_GRACE = 60.0  # seconds of training before the watch's share of the time is judged
_URGENT = ("loss jumped", "threshold crossed")  # events after which every instrument may take a turn


class Watch:
    """Measures the landscape within a training, within a budget, without a change of the training.

    Between the steps at which an instrument has a turn, a step of the training costs a few function calls. At a turn
    the instruments measure at theta_t, the weights before the step. The learning rate and the update are those of the
    step from theta_t to theta_{t+1}. See `landscape.live.undisturbed` for what is restored.

    Attributes:
        problem: the model on the evaluation set.
        instruments: the instruments by name, in the order of their turns.
        events: the events so far.
        resting: for each instrument that failed, the error.
        seconds: time that the turns took.
    """

    def __init__(
        self,
        problem: Problem,
        optimizer: Optimizer,
        record: str | Path | None = None,
        *,
        budget: float = 0.05,
        instruments: Iterable[Any] | None = None,
        other_data: Problem | None = None,
        log_to: Any = None,
        table: bool = False,
        on_error: Literal["rest", "raise"] = "rest",
        overwrite: bool = False,
    ) -> None:
        """Set up the instruments, and hook onto the optimiser. `landscape.watch` has the arguments.

        Raises:
            InputError: an argument can't be used; the message is one line that says which and what to do.
        """
        _check(budget, on_error, optimizer)
        self.events: list[Event] = []
        self.resting: dict[str, str] = {}
        self.seconds = 0.0
        self._asked = 0.0  # of them, turns in every so many steps, which no budget rules
        self._table = LiveTable() if table else None
        self._send: list[Send] = [*senders(log_to), *([] if self._table is None else [self._table])]
        self._raises = on_error == "raise"
        self._does: dict[EventName, list[Callable[[Event], Any]]] = {name: [] for name in EVENTS}
        with undisturbed(problem.device, problem.model):
            self.problem = problem.to(compile_products="off")
            found = instruments_of(instruments, self.problem, optimizer, other_data)
            self.instruments = {each.name: each for each in found}
            self._work = TrainingWork(self.problem)
            foreseen = {name: self._work.foreseen(each.cost(self.problem)) for name, each in self.instruments.items()}
        every = {name: each.every for name, each in self.instruments.items() if each.every is not None}
        self._accounts = Accounts(budget, foreseen, self._work.of_step(), every)
        # Work of a unit of each instrument; of some it is counted at their first turn.
        self._units = {name: self._work.of_unit(each.unit) for name, each in self.instruments.items() if each.unit}
        self._hearing = [each for each in self.instruments.values() if type(each).hear is not Instrument.hear]
        # Several processes take turns at equal steps, whatever their batches and times.
        self._alone = self.problem.processes.size == 1
        self._jump = JumpCriterion()
        self._next, self._made = 0, 0  # the next step's least number, and the steps of the optimiser so far
        self._due, self._urgent = list[str](), False
        self._fresh: list[Event] = []
        self._begun, self._over = math.nan, False
        self.rows = Rows(record, self.problem, self.instruments.values(), budget, overwrite=overwrite)
        self._steps = Steps(self.problem, optimizer)
        self._schedule()

    def on(self, event: EventName, do: Callable[[Event], Any]) -> None:
        """Call a function at every event of a kind; see `landscape.live.events` for the kinds and their criteria.

        Raises:
            InputError: there is no such kind.
        """
        if event not in self._does:
            raise InputError(f"there is no event {event!r}; there are {', '.join(EVENTS)}")
        self._does[event].append(do)

    def step(self, step: int | None = None, *, loss: float | Tensor | None = None, batch: Any = None) -> None:
        """Measure what is due: call this after ``optimizer.step()``, once in each round of the training's loop.

        Without a step of the optimiser since the last call (accumulated gradients, a step that a GradScaler skipped),
        nothing is measured and no step is counted.

        Args:
            step: number of the step from theta_t to theta_{t+1}, ascending; default: counted from 0.
            loss: the training's loss of this step, for events; a number or a scalar tensor.
            batch: the training's batch, or its number of samples, which decides the work of a step; default: as many
                samples as the first batch of the evaluation set has.

        Raises:
            InputError: the number isn't above the last step's, or ``loss`` has a graph that hasn't been through
                ``backward``.
        """
        started = time.perf_counter()
        if math.isnan(self._begun):
            self._begun = started
            self.rows.begin()
            self._say_intervals(batch)
        if not self._steps.made:
            return
        number = self._next if step is None else int(step)
        if number < self._next:
            raise InputError(f"step {number} comes after step {self._next - 1}: the numbers of steps ascend")
        if self._due:
            _refuse_pending(loss)
        self._next, self._made = number + 1, self._made + 1
        if loss is not None:
            loss = loss.item() if isinstance(loss, Tensor) else float(loss)
            self._note(self._jump.judge(number, loss))
        moment = self._steps.taken(number)
        if self._due:
            with undisturbed(self.problem.device, self.problem.model):
                self._take_turns(number, moment)
        if loss is not None:
            for each in self._hearing:
                each.hear(loss)
        self._accounts.earn(self._work.of_step(self._samples(batch)))
        ended = time.perf_counter()
        self.seconds += ended - started
        self._judge_time(number, ended - self._begun)
        self.rows.add_events(number, self._fresh)
        if refused := self.rows.flush_many():
            _logger.warning("step %d: %s; the rows stay in memory", number, refused)
        self._schedule()
        self._tell()

    def _samples(self, batch: Any) -> int | None:
        if batch is None or not self._alone:
            return None
        return batch if isinstance(batch, int) else samples_in(batch)

    def _schedule(self) -> None:
        """Choose the instruments of the next step."""
        due = self._accounts.due(self._made)
        if self._urgent:
            due |= {name for name in self.instruments if self._accounts.may_borrow(name)}
        self._urgent = False
        if due:
            due -= self.resting.keys()
        if due and self._over:
            due = {name for name in due if self.instruments[name].every}
        self._due = [name for name in self.instruments if name in due] if due else []
        self._steps.wanted = bool(due)

    def _take_turns(self, step: int, moment: Moment | None) -> None:
        if moment is None:
            self._note(Event(step, "not finite", "the weights before this step are NaN or infinite", math.nan))
            return
        for name in self._due:
            self._take_turn(self.instruments[name], moment)

    def _take_turn(self, instrument: Instrument, moment: Moment) -> None:
        name, started = instrument.name, time.perf_counter()
        try:
            turn = self._counted(instrument, moment)
            self.rows.add(turn.rows, moment.step, time.perf_counter() - started)
        except Exception as error:
            if self._raises:
                raise
            self.resting[name] = cause(error)
            self._note(Event(moment.step, "instrument failed", f"{name} rests: {cause(error)}", math.nan))
            return
        if instrument.every is not None:
            self._asked += time.perf_counter() - started
        following = turn.units if turn.following is None else turn.following
        unit = self._units[name]
        self._accounts.pay(name, unit * turn.units + FIXED, unit * following + FIXED)
        self._send_out(turn, moment.step)
        for event in turn.events:
            self._note(event)

    def _send_out(self, turn: Turn, step: int) -> None:
        """Give a turn's numbers to the loggers; one that fails gets none from then on, and the training goes on."""
        for send in list(self._send):
            try:
                for group, row in turn.rows.items():
                    send(scalars(group, row.dataset), step)
            except Exception as error:
                if self._raises:
                    raise
                self._send.remove(send)
                _logger.warning("step %d: a logger gets no more numbers: %s", step, cause(error))

    def _counted(self, instrument: Instrument, moment: Moment) -> Turn:
        """A turn; the first turn's work is counted."""
        if instrument.name in self._units:
            return instrument.measure(moment)
        with Counting() as counting:
            turn = instrument.measure(moment)
        self._units[instrument.name] = counting.work.seconds(self.problem.device) / turn.units
        return turn

    def _judge_time(self, step: int, elapsed: float) -> None:
        """Let the instruments rest while the watch takes more than twice the time that was asked for."""
        own, training = self.seconds - self._asked, elapsed - self.seconds
        over = self._alone and training > _GRACE and own > 2 * self._accounts.budget * training
        if over and not self._over:
            message = f"the watch takes {own / training:.1%} of the training's time, and rests until this is less"
            self._note(Event(step, "over budget", message, own / training))
        self._over = over

    def _note(self, event: Event | None) -> None:
        if event is not None:
            self.events.append(event)
            self._fresh.append(event)
            self._urgent |= event.name in _URGENT and self._alone

    def _tell(self) -> None:
        """Call the user's functions, outside of the restored state, so that they may change what they like."""
        while self._fresh:
            event = self._fresh.pop(0)
            _logger.warning("step %d: %s: %s", event.step, event.name, event.message)
            for do in self._does[event.name]:
                do(event)

    def _say_intervals(self, batch: Any) -> None:
        """Say which instruments may have 100 steps without a turn."""
        work = self._work.of_step(self._samples(batch))
        rare = {name: each for name, each in self._accounts.intervals(work).items() if each > EVERY}
        if rare:
            turns = ", ".join(
                f"{name} {'never' if math.isinf(each) else f'about every {each:,.0f} steps'}"
                for name, each in rare.items()
            )
            _logger.warning(
                "a budget of %g %% gives turns at these intervals: %s; a smaller evaluation set, fewer instruments or "
                "a larger budget give more",
                100 * self._accounts.budget,
                turns,
            )

    @property
    def intervals(self) -> dict[str, float]:
        """Steps from one turn to the next of each instrument, as the budget allows; infinite for one that rests."""
        found = self._accounts.intervals(self._work.of_step())
        return {name: math.inf if name in self.resting else each for name, each in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """The state of the watch at this step, for the training's own checkpoint.

        All rows so far are on disk when this method returns. The state has tensors, numbers and texts, so
        ``torch.load(..., weights_only=True)`` reads it.

        Raises:
            InputError: the disk doesn't take the rows.
        """
        self.rows.flush()
        return {
            "rows": self.rows.counts,
            "next": self._next,
            "made": self._made,
            "due": list(self._due),
            "units": dict(self._units),
            "resting": dict(self.resting),
            "accounts": self._accounts.state_dict(),
            "jump": self._jump.state_dict(),
            "instruments": {name: each.state_dict() for name, each in self.instruments.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a training's checkpoint; rows of later steps, which a run has made before it ended, are dropped.

        Raises:
            InputError: the state is of a watch with other instruments.
        """
        try:
            if state["instruments"].keys() != self.instruments.keys():
                raise InputError(
                    f"the state is of a watch with the instruments {', '.join(state['instruments'])}, and this one "
                    f"has {', '.join(self.instruments)}: give the same instruments"
                )
            self._next, self._made, self._due = int(state["next"]), int(state["made"]), list(state["due"])
            self._units, self.resting = dict(state["units"]), dict(state["resting"])
            self._accounts.load_state_dict(state["accounts"])
            self._jump.load_state_dict(state["jump"])
            for name, each in self.instruments.items():
                # Checkpoints are often read onto the CPU.
                here = map_tensors(lambda tensor: tensor.to(self.problem.device), state["instruments"][name])
                each.load_state_dict(here)
        except (KeyError, TypeError) as error:
            raise InputError("this isn't the state of a watch: give what watch.state_dict() returned") from error
        self._steps.wanted = bool(self._due)
        self.rows.resume(self._next)
        if self.rows.counts != state["rows"]:
            _logger.warning("the record has other rows before step %d than the state knows of", self._next)

    def resume(self, step: int) -> None:
        """Go on at a step without a state: earlier rows are kept, later ones dropped, and the instruments begin anew.

        Raises:
            InputError: the record can't be read.
        """
        self._next = step
        self.rows.resume(step)

    def close(self) -> None:
        """Take the hooks off the optimiser, and finish the record.

        Raises:
            InputError: the disk doesn't take the record; what was written before is kept.
        """
        self._stop()
        self.rows.finish()

    def end(self) -> None:
        """Take the hooks off the optimiser, and write the rows; the record stays unfinished, and a later run goes on.

        Raises:
            InputError: the disk doesn't take the rows.
        """
        self._stop()
        self.rows.end()

    def _stop(self) -> None:
        self._steps.close()
        if self._table is not None:
            self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish the record; after an exception, only write the rows, so that a later run can go on."""
        if kind is None:
            self.close()
        else:
            self.end()


def _check(budget: float, on_error: str, optimizer: Optimizer) -> None:
    if not 0 < budget < math.inf:
        raise InputError(f"budget is a share of the training's work above 0, such as 0.05, not {budget}")
    if on_error not in ("rest", "raise"):
        raise InputError(f"on_error is 'rest' or 'raise', not {on_error!r}")
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"optimizer must be a torch optimiser, not {type(optimizer).__name__}")


_LOOKED_AT = 1000  # nodes of a loss's graph that are looked at for a saved tensor


def _refuse_pending(loss: float | Tensor | None) -> None:
    """Refuse to measure between forward and backward: hooks of the model may hold what the backward pass needs.

    A graph that has been through ``backward`` has given its saved tensors up, and reading them raises RuntimeError.
    """
    node = loss.grad_fn if isinstance(loss, Tensor) else None
    nodes = [] if node is None else [node]
    for _ in range(_LOOKED_AT):
        if not nodes:
            return
        node = nodes.pop()
        for name in dir(node):
            if name.startswith("_saved_"):
                try:
                    held = isinstance(getattr(node, name), Tensor)
                except RuntimeError:
                    return
                if held:
                    raise InputError(
                        "the loss has a graph that hasn't been through backward: call watch.step after "
                        "optimizer.step(), or give loss.detach()"
                    )
        nodes += [each for each, _ in node.next_functions if each is not None]
