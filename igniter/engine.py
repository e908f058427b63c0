"""The loop, on ignite's Engine: one batch, one step, one safe point, again.

ignite's Engine is run without data and keeps its events, its state and its handlers. What it
cannot do is ours: each iteration fetches its own batch from a position, sets the generators by
address, and is followed by a hook after *all* handlers of ITERATION_COMPLETED, the only place
where training looks up from its work.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from igniter.average import samples_in
from igniter.devices import to_device
from igniter.errors import UsageError
from igniter.figures import Figures
from igniter.ignite_import import Engine, Events
from igniter.loader import Batches
from igniter.metrics import Accumulated
from igniter.phases import PhasedBatches
from igniter.rng import Address, set_generators
from igniter.run_engine import RunEngine, RunEvents
from igniter.spec import RunSpec

__all__ = ["Engine", "Events", "RunEvents", "StepEngine"]

# An attribute of an enumeration takes 0.1 µs to look up, and these are several in an iteration.
_EPOCH_STARTED = Events.EPOCH_STARTED
_ITERATION_STARTED = Events.ITERATION_STARTED
_GET_BATCH_COMPLETED = Events.GET_BATCH_COMPLETED
_ITERATION_COMPLETED = Events.ITERATION_COMPLETED


class StepEngine(RunEngine):
    """Runs a spec's step on batches from a position.

    Args:
        spec: its step and its batch size.
        batches: where the next batch comes from.
        seed, purpose: of the randomness of its steps and of its handlers; with ``stage`` and the
            iteration they are its whole address.
        device: where batches go.
        metrics: what takes in each output.
        after_iteration: called after every handler of each ITERATION_COMPLETED.
        before_step: called before each step.
        clock: gives seconds from any origin.
        figures: where logged figures and images are kept; None for nowhere.

    ``spec`` is what it was made with, ``done`` the last iteration whose step is done.

    ``samples`` and ``waited`` count over the engine's life: the samples that steps have handled,
    and the seconds spent waiting for batches.
    """

    # Pausing is refused here; ignite's loop without it has no generators in it.
    interrupt_resume_enabled = False
    evaluators: Mapping[str, StepEngine]

    def __init__(
        self,
        spec: RunSpec,
        batches: Batches | PhasedBatches,
        *,
        seed: int,
        purpose: str,
        device: torch.device,
        metrics: list[Accumulated],
        after_iteration: Callable[[], None],
        before_step: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        figures: Figures | None = None,
    ) -> None:
        super().__init__(self._one_iteration, purpose.removeprefix("eval/"), figures)
        # Without a handler of its own, ignite's errors go to stderr beside ours.
        self.logger.addHandler(logging.NullHandler())
        self.spec = spec
        self.kind = "training" if purpose == "train" else spec.kind
        self._step = spec.step
        self._batch_size = spec.batch_size
        self._batches = batches
        self._steps = Address(seed, f"{purpose}/step")
        self._events = {
            event: Address(seed, f"{purpose}/{event.name}") for event in (*Events, *RunEvents)
        }
        self.device = device
        self._on_cpu = device.type == "cpu"
        self._metrics = metrics
        self._needs_output = bool(spec.metrics)
        self._after_iteration = after_iteration
        self.before_step = before_step
        self._clock = clock
        self._in_mid_epoch = False
        self._raised: BaseException | None = None
        self.done = 0
        self.samples = 0
        self.waited = 0.0

    def _one_iteration(self, engine: Engine, _: Any) -> Any:
        asked = self._clock()
        batch = next(self._batches)
        self.waited += self._clock() - asked
        if not self._on_cpu:
            batch = to_device(batch, self.device)
        self.state.batch = batch
        set_generators(self._steps(self.stage, self.state.iteration))
        self.before_step()
        if self._event_handlers[_GET_BATCH_COMPLETED]:
            # It belongs to the step: its handlers draw before it, and may give another batch.
            self._fire_event(_GET_BATCH_COMPLETED)
            batch = self.state.batch
        output = self._step(self, batch)
        samples = samples_in(batch, output, self._batch_size)
        self.samples += samples
        if isinstance(output, (dict, Mapping)):
            self.state.output = output  # type: ignore[assignment]
            for metric in self._metrics:
                metric.update(self, output, samples)
        elif self._needs_output:
            raise UsageError(
                f"the step returned {type(output).__name__}, not a dict; return a dict of "
                'tensors or numbers, such as {"loss": loss}'
            )
        # What ignite counts is begun: a handler of ITERATION_STARTED may end the run before it.
        self.done = self.state.iteration
        return output

    def _run_once_on_dataset_legacy(self) -> float:
        # What ignite does for data of its own, of which there is none here, takes 3 µs more.
        if self.state.dataloader is not None:
            return float(super()._run_once_on_dataset_legacy())
        began = time.time()
        state, length = self.state, self.state.epoch_length
        assert length is not None  # ignite asks for it where there is no data
        while True:
            state.batch = state.output = None
            state.iteration += 1
            self._fire_event(_ITERATION_STARTED)
            if self.should_terminate:
                break
            state.output = self._process_function(self, None)
            self._fire_event(_ITERATION_COMPLETED)
            if self.should_terminate or state.iteration % length == 0:
                break
        self._maybe_terminate_legacy()
        return time.time() - began

    def _fire_event(self, event_name: Any, *event_args: Any, **event_kwargs: Any) -> None:
        # What has no public way in: a handler cannot be made to stay the last one, nor can the
        # run be told that an epoch was begun before.
        if self._in_mid_epoch and event_name is _EPOCH_STARTED:
            self._in_mid_epoch = False
            return
        if self._event_handlers[event_name]:
            # What handlers draw does not depend on what was run before them: an evaluation, a
            # resume. Those round a step draw with it, and events of the user's own are fired in
            # the midst of something.
            of_step = event_name is _ITERATION_COMPLETED or event_name is _GET_BATCH_COMPLETED
            if not of_step and event_name in self._events:
                set_generators(self._events[event_name](self.stage, self.state.iteration))
            super()._fire_event(event_name, *event_args, **event_kwargs)
        else:
            # ignite spends 2 µs on an event that nobody listens to.
            self.last_event_name = event_name
        if event_name is _ITERATION_COMPLETED:
            self._after_iteration()

    def _handle_exception(self, e: BaseException) -> None:
        # ignite takes an error for handled where EXCEPTION_RAISED has a handler, and comes by
        # here once for each of its loops.
        if self._raised is not e:
            self._raised = e
            self._fire_event(Events.EXCEPTION_RAISED, e)
        raise e

    def attached(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """Each handler of the user's, with what it was attached with, and its event's name."""
        for event, handlers in self._event_handlers.items():
            for handler, args, kwargs in handlers:
                function = getattr(handler, "hook", handler)
                if not str(getattr(function, "__module__", "")).startswith("igniter."):
                    name = str(getattr(event, "name", event))
                    yield name, functools.partial(function, *args, **kwargs)

    def continue_from(self, iteration: int, *, epoch_length: int, max_epochs: int) -> None:
        """Make ``iteration``, counted over the whole run, the last one that is done.

        An epoch that was begun is not started again: EPOCH_STARTED does not fire for it.
        """
        self.load_state_dict(
            {"iteration": iteration, "epoch_length": epoch_length, "max_epochs": max_epochs}
        )
        self._in_mid_epoch = iteration % epoch_length != 0
        self.done = iteration
