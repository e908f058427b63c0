"""``train`` and ``evaluate``: put a run together, let it run, and say how it ended.

Heavy libraries are imported inside the functions: a script's ``--help`` and usage errors come
before them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from igniter.errors import Interrupted, UsageError
from igniter.result import Result
from igniter.settings import Settings
from igniter.spec import RunSpec
from igniter.verify import plan

if TYPE_CHECKING:
    from igniter.assembled import Assembled
    from igniter.opening import Opened
    from igniter.tracking.display import Display

EvalSpecs = RunSpec | Mapping[str, RunSpec] | None

# What metrics are called that no evaluation gives; ``system`` is MLflow's.
_OTHER_GROUPS = ("train", "lr", "epoch", "perf", "system")


def train(
    *,
    to_save: Mapping[str, Any],
    train_spec: RunSpec,
    eval_spec: EvalSpecs = None,
    parameters: Mapping[str, Any] | None = None,
    name: str | None = None,
    identity: Mapping[str, Any] | None = None,
    on_interrupt: Literal["return", "raise"] = "return",
    **settings: Any,
) -> Result:
    """Train, from where the run was left to its end.

    Synopsis::

        train(
            to_save={"model": model, "optimizer": optimizer},
            train_spec=RunSpec(step=train_step, loader=loader, metrics={"loss": "loss"}),
            **train_kwargs(args),
            parameters=vars(args),
        )

    Args:
        to_save: by name, all that training changes: objects with ``state_dict`` and
            ``load_state_dict``. Their state is what a checkpoint holds.
        train_spec: the step for one batch, its loader and its metrics.
        eval_spec: one evaluation (called ``eval``), or several by name.
        parameters: what MLflow shows as the run's parameters.
        name: of this run below ``output_dir``, where a script trains more than once.
        identity: the arguments that make two commands the same run; ``parameters`` without
            igniter's own free ones where it is not given.
        on_interrupt: whether a stop by signal returns, or raises
            :class:`~igniter.errors.Interrupted` for ``igniter_main`` to turn into the exit code.
        settings: the fields of :class:`~igniter.settings.Settings`.

    Returns:
        The result: ``completed``, or ``interrupted`` with a checkpoint committed.

    Raises:
        UsageError: an argument cannot be honoured.
        RunRefused: the run cannot go on as asked: another identity, locked, no usable checkpoint,
            no room for the last save.
        NonFiniteError: training produced NaN or infinity.
        Interrupted: a signal ended it and ``on_interrupt`` is ``raise``.
    """
    from igniter import assembly, opening
    from igniter.datasets import described
    from igniter.rng import kept_generators
    from igniter.tracking.display import Display

    chosen = Settings.of(settings)
    _refuse_several_processes()
    asked = opening.asked(chosen, name, identity, parameters)
    own_root = opening.locate(chosen, asked).root
    verified = plan.read()
    if verified is not None:
        chosen, train_spec = verified.applied(chosen, train_spec, own_root)
    display = Display(chosen.progress)
    evaluations = _by_name(eval_spec)
    once = on_interrupt == "raise"
    opened = opening.open_run(chosen, asked, once=once, notify=display.say, warn=display.warn)
    specs = {"train": train_spec, **evaluations}
    opened.record.datasets = described({key: spec.loader for key, spec in specs.items()})
    try:
        with kept_generators():
            assembled = assembly.assemble(chosen, opened, to_save, train_spec, evaluations, display)
            try:
                if verified is not None:
                    from igniter.verify import tracer

                    tracer.attach(
                        verified,
                        opened,
                        assembled,
                        to_save,
                        train_spec,
                        name=name,
                        own_root=own_root,
                    )
                result = _run(opened, assembled, display, chosen)
            finally:
                assembled.close()
    finally:
        display.close()
        opened.lock.release()
    if result.status == "interrupted" and on_interrupt == "raise":
        raise Interrupted(result)
    return result


def evaluate(
    *,
    to_save: Mapping[str, Any],
    eval_spec: RunSpec | Mapping[str, RunSpec],
    checkpoint: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, float]:
    """Evaluate the objects as they are, or as a checkpoint holds them.

    Args:
        to_save: the objects the steps use; those with ``eval`` are in eval mode meanwhile.
        eval_spec: one evaluation (called ``eval``), or several by name.
        checkpoint: a checkpoint's directory, or a run's for its newest; None to load nothing. It
            may hold more than ``to_save`` names.
        seed: of all randomness in it.
        device: ``auto`` or a torch device.

    Returns:
        Every metric as ``<name>/<metric>``.

    Raises:
        NoUsableCheckpoint, CheckpointDamaged, CheckpointMismatch: ``checkpoint`` cannot be used.
    """
    from igniter.checkpoint.state import SavedObjects
    from igniter.checkpoint.store import load
    from igniter.devices import device_named
    from igniter.evaluation import Evaluator
    from igniter.rng import kept_generators

    where = device_named(device)
    objects = SavedObjects(to_save)
    for module in objects.modules.values():
        module.to(where)
    iteration = 0
    if checkpoint is not None:
        loaded = load(Path(checkpoint))
        iteration = loaded.checkpoint.iteration
        held = {key: value for key, value in loaded.state.items() if key in to_save}
        objects.restore(held, str(loaded.checkpoint.path))
    values: dict[str, float] = {}
    for key, spec in _by_name(eval_spec).items():
        evaluator = Evaluator(key, spec, seed=seed, device=where, modules=objects.modules.values())
        try:
            for callback in spec.callbacks:
                callback(evaluator.engine, evaluator.engine)
            with kept_generators():
                values.update(evaluator.run(iteration) or {})
        finally:
            evaluator.close()
    return values


def _run(opened: Opened, assembled: Assembled, display: Display, settings: Settings) -> Result:
    """Announce the run, train it, record how it ended, and say how to go on."""
    from igniter import attempt, words
    from igniter.opening import begin_attempt

    total = assembled.length.total
    if opened.is_finished(total):
        words.already_complete(opened, assembled.length, display)
        return opened.result("completed")
    begin_attempt(opened, total)
    words.starting(opened, assembled.length, display)
    signals = assembled.signals
    try:
        with attempt.recorded(
            opened,
            signals,
            display.warn,
            picture=settings.picture,
            tensorboard=settings.tensorboard,
        ) as outcome:
            outcome.status = assembled.run_to_end()
            if outcome.status == "completed":
                _export(opened, assembled, display)
            elif signals.received is not None:
                outcome.reason = signals.received.name
    except Exception as error:
        words.failed(
            error, assembled.run.engine.done, assembled.run.parts.saver.standing(), display
        )
        raise
    stopped = outcome.status == "interrupted"
    result = opened.result(outcome.status, signal=signals.received if stopped else None)
    words.ending(opened, result, assembled.length, outcome, display)
    return result


def _export(opened: Opened, assembled: Assembled, display: Display) -> None:
    from igniter.export import export
    from igniter.program import export_programs

    directory, modules = opened.paths.model, assembled.objects.modules
    try:
        export(directory, modules, opened.record.parameters)
    except (OSError, RuntimeError, ValueError) as error:
        # The final checkpoint holds the same weights.
        display.warn(f"the model was not exported to {directory}: {error}")
    found, iteration = assembled.examples.found, opened.record.iteration
    for name, problem in export_programs(directory, modules, found, iteration).items():
        display.say(
            f"{name} cannot be logged as an MLflow model: {problem}. Its weights are in "
            f"{directory}; --no-mlflow-log-model leaves this out"
        )


def _by_name(specs: EvalSpecs) -> dict[str, RunSpec]:
    if specs is None:
        return {}
    if isinstance(specs, RunSpec):
        return {"eval": specs}
    for name in specs:
        if name in _OTHER_GROUPS or "/" in name:
            raise UsageError(f"an evaluation cannot be called {name!r}; choose another name")
    return dict(specs)


def _refuse_several_processes() -> None:
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1":
        raise UsageError(
            f"WORLD_SIZE is {world}: this version trains in one process. Start the script without "
            "torchrun"
        )
