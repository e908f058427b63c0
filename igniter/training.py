"""``train`` and ``evaluate``: put a run together, let it run, and say how it ended.

Heavy libraries are imported inside the functions: a script's ``--help`` and usage errors come
before them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from igniter.about import About
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
    about: About | None = None,
    **settings: Any,
) -> Result:
    """Train, from where the run was left to its end; or, with ``eval_only``, evaluate it.

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
        about: what the run asks its user for: lines to show, entries of manifests, what to export.
        settings: the fields of :class:`~igniter.settings.Settings`.

    Returns:
        The result: ``completed``, or ``interrupted`` with a checkpoint committed. With
        ``eval_only`` its metrics are those of the evaluations, at the checkpoint's iteration.

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
    if chosen.eval_only:
        from igniter.eval_only import evaluate_run

        result = evaluate_run(chosen, asked, to_save, train_spec, evaluations, display)
        return _returned(result, on_interrupt)
    once = on_interrupt == "raise"
    opened = opening.open_run(chosen, asked, once=once, notify=display.say, warn=display.warn)
    specs = {"train": train_spec, **evaluations}
    opened.record.datasets = described({key: spec.loader for key, spec in specs.items()})
    try:
        with kept_generators():
            assembled = assembly.assemble(
                chosen, opened, to_save, train_spec, evaluations, display, about or About()
            )
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
    return _returned(result, on_interrupt)


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
        to_save: the objects that the steps use; modules are in eval mode meanwhile.
        eval_spec: one evaluation (called ``eval``), or several by name.
        checkpoint: a checkpoint's directory, or a run's for its newest; None to load nothing. It
            may hold more than ``to_save`` names, and lack what is no module.
        seed: of all randomness in it.
        device: ``auto`` or a torch device.

    Returns:
        Every metric as ``<name>/<metric>``.

    Raises:
        NoUsableCheckpoint, CheckpointDamaged, CheckpointMismatch: ``checkpoint`` cannot be used.
    """
    from igniter.checkpoint.store import load
    from igniter.eval_only import evaluated
    from igniter.tracking.display import Display

    values = evaluated(
        Settings(seed=seed, device=device),
        to_save,
        _by_name(eval_spec),
        Display("none"),
        loaded=None if checkpoint is None else load(Path(checkpoint)),
    )
    return values or {}


def _run(opened: Opened, assembled: Assembled, display: Display, settings: Settings) -> Result:
    """Announce the run, train it, record how it ended, and say how to go on."""
    from igniter import attempt, words
    from igniter.exporting import export_result
    from igniter.opening import begin_attempt

    total = assembled.length.total
    if opened.is_finished(total):
        words.already_complete(opened, assembled.length, display)
        return opened.result("completed")
    begin_attempt(opened, total)
    words.starting(opened, assembled.length, display, assembled.about.banner())
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
                export_result(opened, assembled, settings, display)
            else:
                outcome.reason = signals.reason
    except Exception as error:
        words.failed(
            error, assembled.run.engine.done, assembled.run.parts.saver.standing(), display
        )
        raise
    stopped = outcome.status == "interrupted"
    result = opened.result(outcome.status, signal=signals.received if stopped else None)
    words.ending(opened, result, assembled.length, outcome, display)
    return result


def _returned(result: Result, on_interrupt: str) -> Result:
    if result.status == "interrupted" and on_interrupt == "raise":
        raise Interrupted(result)
    return result


def _by_name(specs: EvalSpecs) -> dict[str, RunSpec]:
    if specs is None:
        return {}
    if isinstance(specs, RunSpec):
        return {"eval": specs}
    for name in specs:
        if not isinstance(name, str) or name in _OTHER_GROUPS or "/" in name:
            raise UsageError(f"an evaluation cannot be called {name!r}; choose another name")
    return dict(specs)


def _refuse_several_processes() -> None:
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1":
        raise UsageError(
            f"WORLD_SIZE is {world}: this version trains in one process. Start the script without "
            "torchrun"
        )
