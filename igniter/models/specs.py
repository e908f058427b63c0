"""A model as run specs: its steps with its loaders, its hooks, and how its run is described."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from igniter import hooks
from igniter.about import About
from igniter.errors import UsageError
from igniter.ignite_import import Events
from igniter.models.base import NO_PARTS, ModelBase
from igniter.models.description import Description
from igniter.models.hooks import is_overridden, own_hooks
from igniter.models.stepping import Stepping
from igniter.models.unsaved import Unsaved
from igniter.run_engine import RunEngine, RunEvents
from igniter.spec import RunSpec, metrics_by_full_name


def training(model: ModelBase, loader: Any, callbacks: Any) -> RunSpec:
    """The training of ``model`` on ``loader``."""

    def train_step(engine: Any, batch: Any) -> Any:
        return model.train_step(batch)

    return RunSpec(
        step=train_step,
        loader=loader,
        metrics=model.metrics("train"),
        callback=[_joining(model), *_patience(model), *_several(callbacks)],
        updates=model.updates,
    )


def _several(callbacks: Any) -> Sequence[Any]:
    return callbacks if isinstance(callbacks, Sequence) else [callbacks]


def _patience(model: ModelBase) -> list[Any]:
    """What ends training when validations are no better, where the model has a patience."""
    if model.patience is None:
        return []
    if not is_overridden(model, "have_metrics_improved"):
        raise UsageError(
            f"patience is {model.patience}, and {_label(model)} does not say what is better: "
            "override have_metrics_improved, or use igniter.handlers.EarlyStopping('eval/loss')"
        )
    from igniter.handlers.early_stopping import EarlyStopping

    hooks.check_call(
        f"{_label(model)}.have_metrics_improved", model.have_metrics_improved, ["metrics"]
    )
    return [EarlyStopping(patience=model.patience, improved=model.have_metrics_improved)]


def evaluation(model: ModelBase, loader: Any, name: str, options: Mapping[str, Any]) -> RunSpec:
    """The evaluation or, where ``options`` have the kind ``testing``, the test of ``model``."""
    tests = options.get("kind") == "testing"

    def step(engine: Any, batch: Any) -> Any:
        return model.test_step(batch) if tests else model.eval_step(batch)

    def attach(engine: RunEngine, trainer: RunEngine) -> None:
        if trainer is not model.trainer:  # in a training they were attached before the callbacks
            hooks.attach_evaluation(_label(model), own_hooks(model), engine)

    step.model = model  # type: ignore[attr-defined]
    spec = RunSpec(step=step, loader=loader, **{"metrics": model.metrics(name), **options})
    return replace(spec, callback=(attach, *spec.callbacks))


def evaluations(
    model: ModelBase, given: Any, name: str = "eval", kind: str = "validation"
) -> dict[str, RunSpec]:
    """By name: of a loader, which is called ``name``, or of several by name, or of specs."""
    if given is None:
        return {}
    named = given if isinstance(given, Mapping) else {name: given}
    return {
        key: each if isinstance(each, RunSpec) else evaluation(model, each, key, {"kind": kind})
        for key, each in named.items()
    }


def about(model: ModelBase) -> About:
    """What its run may ask the model for."""

    def named(name: str) -> Any:
        return hooks.named(f"{_label(model)}.{name}", getattr(model, name))

    exports = is_overridden(model, "trained_state_dict")
    return About(
        banner=named("banner"),
        metadata=named("checkpoint_metadata"),
        exported=named("trained_state_dict") if exports else None,
        model=Description.of(type(model), model.parameters).as_data(),
    )


def _joining(model: ModelBase) -> Callable[[RunEngine, RunEngine], None]:
    """What lets the model take part in a run of its training, before every callback of the run."""

    def join(engine: RunEngine, trainer: RunEngine) -> None:
        model.trainer = trainer
        hooks.warn_of_others(_label(model), model, trainer.warn)
        trainer.add_event_handler(RunEvents.TRAINING_STARTED, model.train)
        if model.stepping is not None:
            _step_after(model.stepping, trainer)
        hooks.attach_training(_label(model), own_hooks(model), trainer)
        for evaluator in trainer.evaluators.values():
            if getattr(evaluator.spec.step, "model", None) is model:
                hooks.attach_evaluation(_label(model), own_hooks(model), evaluator)
        if is_overridden(model, "should_training_stop"):
            _watch_for_the_end(model, trainer)
        unsaved = Unsaved(model, model.to_save().values(), NO_PARTS)
        trainer.add_event_handler(Events.STARTED, unsaved.watch, trainer)

    return join


def _step_after(stepping: Stepping, trainer: RunEngine) -> None:
    evaluators = trainer.evaluators
    stepping.check(metrics_by_full_name({n: e.spec for n, e in evaluators.items()}))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, stepping.after_epoch)
    for evaluator in evaluators.values():
        evaluator.add_event_handler(
            Events.COMPLETED,
            lambda engine: stepping.after_evaluation(engine.metrics_by_full_name()),
        )


def _watch_for_the_end(model: ModelBase, trainer: RunEngine) -> None:
    """Ask the model whether to stop, after its own hooks of the same moments."""
    name = f"{_label(model)}.should_training_stop"
    hooks.check_call(name, model.should_training_stop, [])
    asked = hooks.named(name, model.should_training_stop)

    def look() -> None:
        if asked():
            trainer.terminate()

    for event in (Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED):
        trainer.add_event_handler(event, look)
    for evaluator in trainer.evaluators.values():
        evaluator.add_event_handler(Events.COMPLETED, look)


def _label(model: ModelBase) -> str:
    return type(model).__name__
