"""Hooks: the ``on_…`` methods of a callback object or of a model, called at their moments.

Synopsis::

    class Announce:
        def on_epoch_end(self, trainer, epoch):
            trainer.say(f"epoch {epoch} is over")

    RunSpec(…, callback=[Announce()])

=========================================================  ======================================
hook (of a callback; a model's have no ``trainer``)         called
=========================================================  ======================================
``on_attempt_start(trainer)``                               at each start, the checkpoint loaded
``on_training_start(trainer)``                              once, before iteration 1
``on_training_end(trainer)``                                once, before the final checkpoint
``on_epoch_start(trainer, epoch)``                          before the first batch of each epoch
``on_epoch_end(trainer, epoch)``                            after each epoch and its evaluations
``on_batch_start(trainer, batch)``                          before each step
``on_batch_end(trainer, batch, output)``                    after it, before the safe point
``on_validation_start(trainer, cycle, name)``               before an evaluation
``on_validation_batch_start(trainer, batch)``               before each of its steps
``on_validation_batch_end(trainer, batch, output)``         after each
``on_validation_end(trainer, cycle, name, metrics)``        after it; metrics such as ``eval/loss``
``on_testing_start`` and so on                              the same four, in a test
``on_attempt_end(trainer)``                                 last, however the attempt ends
=========================================================  ======================================

After a resume what follows from the checkpoint's iteration is done again, from the state that was
before it: what hooks change in a state that is saved they change exactly once.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from igniter.errors import UsageError
from igniter.ignite_import import Events
from igniter.imports import nearest
from igniter.run_engine import RunEngine, RunEvents

Arguments = Callable[[RunEngine], tuple[Any, ...]]


def _nothing(engine: RunEngine) -> tuple[Any, ...]:
    return ()


def _epoch(engine: RunEngine) -> tuple[Any, ...]:
    return (engine.state.epoch,)


def _batch(engine: RunEngine) -> tuple[Any, ...]:
    return (engine.state.batch,)


def _batch_and_output(engine: RunEngine) -> tuple[Any, ...]:
    return engine.state.batch, engine.state.output


def _cycle(engine: RunEngine) -> tuple[Any, ...]:
    return engine.cycle, engine.name


def _cycle_and_metrics(engine: RunEngine) -> tuple[Any, ...]:
    return engine.cycle, engine.name, engine.metrics_by_full_name()


_NAMES: dict[Arguments, list[str]] = {
    _nothing: [],
    _epoch: ["epoch"],
    _batch: ["batch"],
    _batch_and_output: ["batch", "output"],
    _cycle: ["cycle", "name"],
    _cycle_and_metrics: ["cycle", "name", "metrics"],
}
_TRAINING: dict[str, tuple[Any, Arguments]] = {
    "on_attempt_start": (Events.STARTED, _nothing),
    "on_attempt_end": (RunEvents.ATTEMPT_ENDED, _nothing),
    "on_training_start": (RunEvents.TRAINING_STARTED, _nothing),
    "on_training_end": (RunEvents.TRAINING_ENDED, _nothing),
    "on_epoch_start": (Events.EPOCH_STARTED, _epoch),
    "on_epoch_end": (Events.EPOCH_COMPLETED, _epoch),
    "on_batch_start": (Events.GET_BATCH_COMPLETED, _batch),
    "on_batch_end": (Events.ITERATION_COMPLETED, _batch_and_output),
}
_EVALUATION: dict[str, tuple[Any, Arguments]] = {
    "start": (Events.STARTED, _cycle),
    "batch_start": (Events.GET_BATCH_COMPLETED, _batch),
    "batch_end": (Events.ITERATION_COMPLETED, _batch_and_output),
    "end": (Events.COMPLETED, _cycle_and_metrics),
}


def is_callback_object(value: Any) -> bool:
    """Whether it is attached by its methods, not called to attach something itself."""
    return hasattr(value, "attach") or any(True for _ in hooks_of(value))


def hook_names() -> list[str]:
    """The names of all hooks, in the order in which a run comes by them."""
    kinds = [f"on_{kind}_{moment}" for kind in ("validation", "testing") for moment in _EVALUATION]
    return [*_TRAINING, *kinds]


def hooks_of(value: Any) -> Iterator[str]:
    """The names of its hooks, in that order."""
    return (name for name in hook_names() if callable(getattr(value, name, None)))


def labels(callbacks: Iterable[Any]) -> dict[str, Any]:
    """Each callback object under a name of its own: its class's, numbered from the second on."""
    counts: Counter[str] = Counter()
    named = {}
    for callback in callbacks:
        kind = type(callback).__name__
        counts[kind] += 1
        named[kind if counts[kind] == 1 else f"{kind}-{counts[kind]}"] = callback
    return named


def warn_of_others(label: str, owner: Any, warn: Callable[[str], None]) -> None:
    """Warn of methods of ``owner`` that look like hooks and are none, such as other trainers'."""
    known = set(hook_names())
    for name in sorted(set(dir(type(owner))) - known):
        if name.startswith("on_") and callable(getattr(type(owner), name)):
            warn(f"{label}.{name} is no hook: igniter does not call it{nearest(name, known)}")


def attach(label: str, callback: Any, trainer: RunEngine) -> None:
    """Let ``callback`` take part in the run of ``trainer``, under the name ``label`` in errors."""
    warn_of_others(label, callback, trainer.warn)
    if hasattr(callback, "attach"):
        named(f"{label}.attach", callback.attach)(trainer)
    attach_training(label, callback, trainer, trainer)
    for evaluator in trainer.evaluators.values():
        attach_evaluation(label, callback, evaluator, trainer)


def attach_training(label: str, owner: Any, trainer: RunEngine, *first: Any) -> None:
    """Have the hooks of ``owner`` in training called, with ``first`` before other arguments."""
    for name, (event, arguments) in _TRAINING.items():
        _add(trainer, event, label, owner, name, arguments, first)


def attach_evaluation(label: str, owner: Any, evaluator: RunEngine, *first: Any) -> None:
    """Have those called that belong to the evaluation of ``evaluator``, likewise."""
    for moment, (event, arguments) in _EVALUATION.items():
        _add(evaluator, event, label, owner, f"on_{evaluator.kind}_{moment}", arguments, first)


def _add(
    engine: RunEngine,
    event: Any,
    label: str,
    owner: Any,
    name: str,
    arguments: Arguments,
    first: tuple[Any, ...],
) -> None:
    hook = getattr(owner, name, None)
    if hook is None:
        return
    if not callable(hook):
        raise UsageError(f"{label}.{name} is of type {type(hook).__name__}; give a method, or None")
    check_call(f"{label}.{name}", hook, ["trainer"] * len(first) + _NAMES[arguments])
    called = named(f"{label}.{name}", hook)

    def handler() -> None:
        called(*first, *arguments(engine))

    # What the user wrote, to be looked into, and its name, to be shown.
    handler.hook, handler.label = hook, f"{label}.{name}"  # type: ignore[attr-defined]
    engine.add_event_handler(event, handler)


def check_call(label: str, hook: Callable[..., Any], given: list[str]) -> None:
    """See that ``hook`` can be called with what is ``given``, and runs when it is called.

    Raises:
        UsageError: it cannot, or does not.
    """
    for kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction):
        if kind(hook):
            raise UsageError(
                f"{label} is a coroutine or a generator, which does not run when it is called; "
                "make it an ordinary method"
            )
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):  # written in C, it does not tell
        return
    try:
        signature.bind(*given)
    except TypeError as error:
        raise UsageError(
            f"{label} takes ({', '.join(signature.parameters)}); it is called with "
            f"({', '.join(given)}): {error}"
        ) from error


def show_order(engines: Iterable[RunEngine], say: Callable[[str], None]) -> None:
    """Say, for each event that is listened to, who is called at it, in order."""
    for engine in engines:
        for event, handlers in engine._event_handlers.items():
            names = [
                getattr(handler, "label", getattr(handler, "__qualname__", type(handler).__name__))
                for handler, *_ in handlers
            ]
            if names:
                say(f"{engine.name} {getattr(event, 'name', event)}: {', '.join(names)}")


def named(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, whose errors say where they come from."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            # As ``add_note`` of Python 3.11 does; igniter says it where the interpreter does not.
            error.__notes__ = [*getattr(error, "__notes__", ()), f"raised in {label}"]  # type: ignore[attr-defined]
            raise

    return call
