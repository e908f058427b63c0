"""The user's callbacks joined to a run, and what of the specs is saved by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from igniter import hooks
from igniter.cadence import Length
from igniter.engine import StepEngine
from igniter.errors import UsageError
from igniter.protocols import has_state
from igniter.run_engine import RunEngine
from igniter.settings import Settings
from igniter.spec import RunSpec
from igniter.updates import UpdateOptions

_CALLBACKS = "callbacks/"
_UPDATES = "updates"


def callback_objects(specs: Iterable[RunSpec]) -> dict[str, Any]:
    """The callback objects of all ``specs``, each once, under names of their own.

    What gives an evaluation its weights is one of them.

    Raises:
        UsageError: one is neither an object with a hook nor a function.
    """
    found: list[Any] = []
    for spec in specs:
        found += [callback for callback in spec.callbacks if _is_object(callback)]
        if hooks.is_callback_object(spec.weights):
            found.append(spec.weights)
    return hooks.labels({id(callback): callback for callback in found}.values())


def _is_object(callback: Any) -> bool:
    """Whether it is a callback object, not a function."""
    if isinstance(callback, type):
        raise UsageError(f"the callback {callback.__name__} is a class; give an object of it")
    if not hooks.is_callback_object(callback) and not callable(callback):
        raise UsageError(
            f"the callback {type(callback).__name__} has none of the hooks (igniter/hooks.py lists "
            "them) and is no function"
        )
    return hooks.is_callback_object(callback)


def is_own_name(name: str) -> bool:
    """Whether ``name`` in a checkpoint is of what igniter saves by itself.

    A callback may be added to a run, or taken away, while it is stopped.
    """
    return name == _UPDATES or name.startswith(_CALLBACKS)


def saved_by_itself(specs: Iterable[RunSpec], to_save: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``specs`` has a state and is not in ``to_save``, by the name it is saved under.

    Raises:
        UsageError: ``to_save`` has such a name for something else.
    """
    specs = list(specs)
    found = {f"{_CALLBACKS}{name}": value for name, value in callback_objects(specs).items()}
    # The training's, which comes first: those of an evaluation have nothing to save.
    if specs and specs[0].updates is not None:
        found[_UPDATES] = specs[0].updates
    held = {id(value) for value in to_save.values()}
    own = {n: value for n, value in found.items() if has_state(value) and id(value) not in held}
    for name in own:
        if name in to_save:
            raise UsageError(f"to_save has {name!r}, a name of igniter's own; choose another")
    return own


def update_options(settings: Settings) -> UpdateOptions:
    """What the settings say of updates."""
    return UpdateOptions(
        settings.precision,
        settings.accumulate,
        settings.clip_norm,
        settings.clip_value,
        settings.compile,
    )


def configure_all(specs: Iterable[RunSpec], settings: Settings, device: Any) -> None:
    """Have the steps of ``specs`` compute in the precision that the flags say, on ``device``."""
    for spec in specs:
        if spec.updates is not None:
            spec.updates.configure(update_options(settings), device, None)


def configure(
    spec: RunSpec,
    evaluations: Mapping[str, RunSpec],
    settings: Settings,
    engine: StepEngine,
    length: Length,
) -> None:
    """Have the training step make its updates as the flags say, and evaluations in its precision.

    Raises:
        UsageError: they say something that the step does not do.
    """
    configure_all(evaluations.values(), settings, engine.device)
    options = update_options(settings)
    updates = spec.updates
    if updates is None:
        if options != UpdateOptions():
            raise UsageError(
                f"{options.flags()}: the training step does not do this by itself. Make its "
                "updates with igniter.updates.Updates, give it in RunSpec(updates=…), or train an "
                "igniter.Model"
            )
        return
    if options.precision == "fp16" and engine.device.type == "mps":
        raise UsageError("--precision fp16 cannot scale its loss on mps; give bf16 or fp32")
    updates.configure(options, engine.device, length.epoch)
    forget, state, needed = engine.before_step, engine.state, options.methods()
    unchecked = 1 + options.accumulate if needed else 0

    def before_step() -> None:
        nonlocal unchecked
        forget()
        updates.begin(state.iteration)
        if unchecked:
            unchecked -= 1
            if not unchecked and not needed <= updates.used:
                raise UsageError(
                    f"{options.flags()}: the training step does not obey this, since it does not "
                    f"use {', '.join(sorted(needed - updates.used))} of its updates. Use them as "
                    "igniter.updates shows (in a Model, self.updates), or leave the flags out"
                )

    engine.before_step = before_step


def attach(engine: RunEngine, specs: Mapping[str, RunSpec], among: Iterable[RunSpec]) -> None:
    """Attach the callbacks of ``specs`` in their order: functions are called, objects join once.

    ``specs`` are the evaluations' by name, and the training's as ``train`` where ``engine`` trains.
    ``among`` are all of the run: what an object is called depends on the others.
    """
    names = {id(callback): name for name, callback in callback_objects(among).items()}
    engines = {"train": engine, **engine.evaluators}
    for part, spec in specs.items():
        for callback in spec.callbacks:
            if not hooks.is_callback_object(callback):
                callback(engines[part], engine)
            elif id(callback) in names:
                hooks.attach(names.pop(id(callback)), callback, engine)
        if id(spec.weights) in names:
            hooks.attach(names.pop(id(spec.weights)), spec.weights, engine)
