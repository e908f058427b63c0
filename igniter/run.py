"""A run in motion: what happens at the safe point, and what follows from it.

The order at iteration *i*: the step, its metrics and every handler of ITERATION_COMPLETED; then the
safe point, where metrics are logged, a checkpoint of *i* may be committed and a stop is obeyed;
then what follows from *i*: evaluations, and at an epoch's end EPOCH_COMPLETED. A run resumed at *i*
does again all that follows, so nothing needs to be remembered as owed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from igniter.best import Best
from igniter.cadence import Length, Timer
from igniter.engine import Events, RunEvents, StepEngine
from igniter.evaluation import Evaluator
from igniter.loader import Batches
from igniter.lock import RunLock
from igniter.measure import Speed
from igniter.phases import PhasedBatches
from igniter.recording import Recorder
from igniter.reporting import Reporter
from igniter.saving import Saver
from igniter.signals import StopSignals
from igniter.tracking.display import RENDER_SECONDS, Display


@dataclass
class Parts:
    """What a run is put together from."""

    length: Length
    batches: Batches | PhasedBatches
    interrupted: Callable[[], bool]
    evaluators: Mapping[Evaluator, Timer]
    reporter: Reporter
    speed: Speed
    saver: Saver
    recorder: Recorder
    lock: RunLock
    signals: StopSignals
    display: Display
    best: Best
    save: Timer
    log: Timer
    print: Timer
    clock: Callable[[], float] = time.monotonic


class TrainingRun:
    """Drives the engine from a position to the end, or to a stop."""

    def __init__(self, engine: StepEngine, parts: Parts) -> None:
        self.engine = engine
        self.parts = parts
        self.stopped = False
        self._completed = False
        self._follow_on_start = self._ended = False
        # The first iteration does not pass by the safe point: the measuring of speed begins there.
        self._wake_iteration: float = 0
        self._wake_time = 0.0
        # Before every handler of the user's, which then finds the run's own work done.
        engine.add_event_handler(Events.EPOCH_STARTED, parts.reporter.begin_epoch)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def go(self, iteration: int, *, after_everything: bool, ended: bool) -> None:
        """Train on from ``iteration``; ``after_everything`` that follows from it was done before.

        Where it had ``ended`` nothing is trained, and it only completes. Called once, after the
        user's handlers were attached.
        """
        parts, length = self.parts, self.parts.length
        now = parts.clock()
        for timer in self._timers():
            timer.begin(iteration, now)
        parts.display.begin(iteration, length.total)
        # After every handler of the user's on STARTED: they prepare what follows.
        self.engine.add_event_handler(Events.STARTED, self._begin)
        self.engine.add_event_handler(Events.STARTED, self._follow_the_resumed)
        self.engine.add_event_handler(Events.STARTED, self._enter_the_loader)
        self._follow_on_start = iteration > 0 and not after_everything
        self._ended = ended
        epochs = length.epoch_of(max(length.total, iteration))
        self.engine.continue_from(iteration, epoch_length=length.epoch, max_epochs=epochs)
        try:
            if iteration < length.total and not ended:
                self.engine.run()
            else:
                # ignite takes an engine at its end for one to be started anew.
                self.engine.fire_event(Events.STARTED)
                if not self.stopped:
                    self.engine.fire_event(Events.COMPLETED)
            if not (self.stopped or self._completed):
                # A handler ended the run in a way that leaves COMPLETED out.
                self._complete()
        except BaseException:
            self.engine.end_attempt(after_an_error=True)
            raise
        self.engine.end_attempt()

    def after_iteration(self) -> None:
        """The safe point. Where nothing is due it costs a look at the clock and comparisons."""
        iteration = self.engine.state.iteration
        now = self.parts.clock()
        if (
            iteration < self._wake_iteration
            and now < self._wake_time
            and self.parts.signals.received is None
            and not self.engine.should_terminate
            and not self.engine.save_asked
        ):
            return
        self._safe_point(iteration, now)

    def _safe_point(self, iteration: int, now: float) -> None:
        parts, length = self.parts, self.parts.length
        parts.signals.look_at_clock()
        last = iteration == length.total or bool(self.engine.should_terminate)
        log_due = parts.log.due(iteration, now)
        if log_due or last:
            # A window that only the end cuts short goes on if the run is made longer.
            parts.reporter.log_window(iteration, self._epoch, close=log_due)
        evaluators = [e for e, timer in parts.evaluators.items() if timer.due(iteration, now)]
        # All that is due is asked, so that each counts on from here.
        asked = self._save_asked(iteration)
        save_due = (parts.save.due(iteration, now) or asked) and not last
        stop = parts.signals.reason
        if stop is not None and not self.engine.should_terminate:
            parts.saver.finish(iteration, self._epoch, stop)
            self._stop()
            return
        if evaluators:
            parts.speed.pause()
        parts.saver.poll()
        if save_due or (evaluators and parts.best.followed):
            parts.saver.save(iteration, self._epoch)
        print_due = parts.print.due(iteration, now)
        self._follow(iteration, evaluators)
        if self.stopped:
            return
        if print_due or last:
            specs = {evaluator.name: evaluator.spec for evaluator in parts.evaluators}
            parts.reporter.print(iteration, length, specs)
        parts.reporter.show(iteration)
        parts.lock.beat()
        if iteration == length.total and not length.ends_epoch(iteration):
            self.engine.terminate()
        parts.speed.go_on(iteration)
        self._set_alarm(iteration, parts.clock())

    def _save_asked(self, iteration: int) -> bool:
        """Whether a handler asked for a checkpoint, which may be one to keep."""
        asked, self.engine.save_asked = self.engine.save_asked, None
        if asked == "keep":
            self.parts.recorder.keep(iteration)
        return asked is not None

    def _begin(self) -> None:
        """What is once in a run, at its start."""
        if self.engine.state.iteration == 0:
            self.engine.fire_event(RunEvents.TRAINING_STARTED)

    def _follow_the_resumed(self) -> None:
        """Do again what follows from the iteration that the checkpoint was taken at."""
        if not self._follow_on_start:
            return
        self._follow_on_start = False
        iteration, length = self.engine.state.iteration, self.parts.length
        due = [e for e, timer in self.parts.evaluators.items() if timer.was_due(iteration)]
        begun, state = self.engine.state.epoch, self.engine.state
        state.epoch = length.epoch_of(iteration)
        self._follow(iteration, due)
        # As without a stop: an evaluation's handler that ends the run leaves the event out.
        if length.ends_epoch(iteration) and not self.engine.should_terminate:
            self.engine.fire_event(Events.EPOCH_COMPLETED)
        state.epoch = begun

    def _enter_the_loader(self) -> None:
        """Go to the position in the data, which may take long; a stop on the way loses nothing."""
        if self.engine.should_terminate or self.engine.state.iteration >= self.parts.length.total:
            return
        if not self.parts.batches.enter(self.parts.interrupted):
            # The checkpoint that the attempt began from holds all there is.
            self._stop()

    def _follow(self, iteration: int, evaluators: list[Evaluator]) -> None:
        """What follows before the handlers of the epoch's end: its metrics, and evaluations."""
        ends_epoch = self.parts.length.ends_epoch(iteration)
        if not (evaluators or ends_epoch):
            return
        if evaluators:
            # What handlers of the evaluations do meanwhile is not part of this safe point.
            self.parts.saver.hold(iteration, self._epoch)
        if ends_epoch:
            self.parts.reporter.log_epoch(iteration, self._epoch)
        for evaluator in evaluators:
            if not self._evaluate(evaluator, iteration):
                self.parts.saver.finish_at_held(iteration, self.parts.signals.reason or "request")
                self._stop()
                return

    def _evaluate(self, evaluator: Evaluator, iteration: int) -> bool:
        """Run one evaluation and take in what it gives; tell whether it was finished."""
        values = evaluator.run(iteration)
        if values is None:
            return False
        self.parts.reporter.take_in(iteration, self._epoch, values, evaluator.spec)
        if self.parts.best.consider(iteration, values):
            self.parts.recorder.keep_best()
        return True

    def _stop(self) -> None:
        """End the attempt, whose last checkpoint stands."""
        self.parts.reporter.show(self.engine.state.iteration)
        self.stopped = True
        self.engine.terminate(skip_completed=True)

    def _complete(self) -> None:
        """Save what holds after all that follows, before the user's handlers of COMPLETED."""
        self._completed = True
        self.parts.saver.rest()  # what follows may fork workers
        if not self._ended:
            self.engine.fire_event(RunEvents.TRAINING_ENDED)
        iteration = self.engine.done
        epoch = self.parts.length.epoch_of(iteration)
        self.parts.saver.finish(iteration, epoch, "completed", final=True)

    @property
    def _epoch(self) -> int:
        return self.parts.length.epoch_of(self.engine.state.iteration)

    def _timers(self) -> list[Timer]:
        parts = self.parts
        return [parts.save, parts.log, parts.print, *parts.evaluators.values()]

    def _set_alarm(self, iteration: int, now: float) -> None:
        """When the next iteration is that cannot pass by the safe point at a glance."""
        length = self.parts.length
        epoch_end = (iteration // length.epoch + 1) * length.epoch
        timers = self._timers()
        self._wake_iteration = min(epoch_end, length.total, *(t.iteration for t in timers))
        self._wake_time = min(now + RENDER_SECONDS, *(t.time for t in timers))
