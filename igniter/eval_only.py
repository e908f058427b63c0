"""Evaluations without training: of objects as they are, or of a run as a checkpoint holds it.

Nothing of a run is changed, and its lock is not taken, so one that is at work can be evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from igniter import attaching
from igniter.checkpoint.files import Loaded
from igniter.checkpoint.state import SavedObjects
from igniter.checkpoint.store import CheckpointStore
from igniter.devices import device_named
from igniter.errors import CheckpointMismatch, UsageError
from igniter.evaluation import Evaluator
from igniter.history import History
from igniter.identity import differences
from igniter.opening import Asked, locate
from igniter.result import Result
from igniter.rng import kept_generators, make_deterministic
from igniter.run_engine import RunEngine
from igniter.rundir import RunRecord
from igniter.selection import select
from igniter.settings import Settings
from igniter.signals import StopSignals
from igniter.spec import RunSpec
from igniter.tracking.display import Display, summary


def evaluate_run(
    settings: Settings,
    asked: Asked,
    to_save: Mapping[str, Any],
    spec: RunSpec,
    evaluations: Mapping[str, RunSpec],
    display: Display,
) -> Result:
    """Run each evaluation once on the checkpoint that is asked for, and print what it gives.

    That is what the training, of which ``spec`` is, logged at the iteration of the checkpoint.

    Raises:
        UsageError: there is no evaluation.
        RunRefused: there is no checkpoint that can be used, or it does not fit.
    """
    if not evaluations:
        raise UsageError("--eval-only: the script has no evaluation; give train() an eval_spec")
    paths = locate(settings, asked)
    loaded = select(settings.checkpoint, paths, display.warn)
    record = RunRecord.load(paths.run_yaml) if paths.run_yaml.exists() else None
    checkpoint, epoch = loaded.checkpoint, loaded.manifest["epoch"]
    facts = {"checkpoint": str(checkpoint.path), "iteration": checkpoint.iteration, "epoch": epoch}
    display.start(f"evaluating {checkpoint.path}", **facts)
    _warn_of_other_arguments(loaded, asked, display.warn)
    with StopSignals(settings.stop_signals) as signals:
        values = evaluated(
            settings,
            to_save,
            evaluations,
            display,
            spec=spec,
            loaded=loaded,
            interrupted=lambda: signals.received is not None,
        )
    best = None if record is None or record.best is None else record.best["iteration"]
    best_checkpoint = None if best is None else CheckpointStore(paths.checkpoints).find(best)
    result = Result(
        status="completed" if values is not None else "interrupted",
        iteration=checkpoint.iteration,
        epoch=epoch,
        metrics=values or {},
        run_dir=paths.root,
        best_checkpoint=None if best_checkpoint is None else best_checkpoint.path,
        mlflow_run_id=None if record is None else record.mlflow_run_id,
        signal=signals.received if values is None else None,
        history=History(paths.journal, checkpoint.iteration),
    )
    if values is None:
        how = f"stopped by {signals.reason or 'a request'}; there is no result"
    else:
        how = f"iteration {checkpoint.iteration}, epoch {epoch}; {summary(values)}"
    display.end(how, status=result.status, **facts, metrics=dict(result.metrics))
    return result


def evaluated(
    settings: Settings,
    to_save: Mapping[str, Any],
    evaluations: Mapping[str, RunSpec],
    display: Display,
    *,
    spec: RunSpec | None = None,
    loaded: Loaded | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Every metric of ``evaluations`` as ``<name>/<metric>``; None where it was interrupted.

    Args:
        to_save: the objects that the steps use; what else they use, such as an optimizer, may be
            there or not.
        spec: that of the training, where there is one: some of its callbacks have a part in
            evaluations, and a state.
        loaded: what is put into the objects before; nothing where it is None.
        interrupted: asked after each batch.

    Raises:
        CheckpointMismatch: a module is not in the checkpoint, or something in it does not fit.
        UsageError: an evaluation cannot be used as it is.
    """
    if settings.deterministic:
        make_deterministic()
    device = device_named(settings.device)
    specs = [*([] if spec is None else [spec]), *evaluations.values()]
    itself = attaching.saved_by_itself(specs, to_save)
    objects = SavedObjects({**to_save, **itself}, may_lack=lambda name: name not in objects.modules)
    for module in objects.modules.values():
        module.to(device)
    attaching.configure_all(specs, settings, device)
    trainer = RunEngine(lambda engine, batch: None, "train", None)
    evaluators: list[Evaluator] = []
    values: dict[str, float] = {}
    try:
        for name, evaluation in evaluations.items():
            evaluators.append(
                Evaluator(
                    name,
                    evaluation,
                    seed=settings.seed,
                    device=device,
                    modules=objects.modules.values(),
                    interrupted=interrupted,
                    limit=settings.limit_batches,
                )
            )
        trainer.evaluators = {evaluator.name: evaluator.engine for evaluator in evaluators}
        for engine in (trainer, *trainer.evaluators.values()):
            engine.objects, engine.say, engine.warn = objects.by_name, display.say, display.warn
        if loaded is not None:
            trainer.state.iteration = loaded.checkpoint.iteration
            trainer.state.epoch = loaded.manifest["epoch"]
            _restore(objects, loaded, display.warn)
        with kept_generators():
            attaching.attach(trainer, evaluations, specs)
            for evaluator in evaluators:
                found = evaluator.run(trainer.state.iteration)
                if found is None:
                    return None
                values.update(found)
    finally:
        for evaluator in evaluators:
            evaluator.close()
    return values


def _restore(objects: SavedObjects, loaded: Loaded, warn: Callable[[str], None]) -> None:
    """Put into the objects what the checkpoint holds of them."""
    path = loaded.checkpoint.path
    lacking, besides = objects.unmatched(loaded.state)
    for name in lacking:
        if name in objects.modules:
            raise CheckpointMismatch(
                f"{path} has no {name!r}, a module of to_save; it holds {', '.join(besides)} "
                "besides. Use the names that it was saved under"
            )
        warn(f"{path} has nothing of {name}, which is used as it was built")
    objects.restore(loaded.state, str(path), loaded.rank_state["groups"])
    loaded.release()


def _warn_of_other_arguments(loaded: Loaded, asked: Asked, warn: Callable[[str], None]) -> None:
    changed = differences(loaded.manifest.get("arguments", asked.identity), asked.identity)
    if changed:
        listed = "\n".join(f"  {difference}" for difference in changed)
        warn(f"the checkpoint was trained with other arguments than are given:\n{listed}")
