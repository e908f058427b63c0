"""A run put together from its parts, in the order that exactness asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from igniter import checks
from igniter.best import Best
from igniter.cadence import Length, Timer
from igniter.checkpoint.state import SavedObjects
from igniter.devices import device_named
from igniter.engine import StepEngine
from igniter.errors import UsageError
from igniter.evaluation import Evaluator
from igniter.loader import Batches
from igniter.metrics import accumulated
from igniter.opening import Opened
from igniter.reporting import Reporter
from igniter.rng import make_deterministic
from igniter.run import Parts, TrainingRun
from igniter.saving import Saver
from igniter.settings import Settings
from igniter.signals import StopSignals
from igniter.spec import RunSpec
from igniter.tracking.display import Display
from igniter.tracking.journal import Journal


@dataclass
class Assembled:
    """A run that can be trained."""

    run: TrainingRun
    objects: SavedObjects
    length: Length
    batches: Batches
    evaluators: list[Evaluator]
    signals: StopSignals
    journal: Journal
    opened: Opened

    def run_to_end(self) -> Literal["completed", "interrupted"]:
        """Train until the end or a stop."""
        loaded = self.opened.loaded
        try:
            with self.objects.watched():
                self.run.go(
                    self.opened.iteration,
                    after_everything=loaded is not None and loaded.checkpoint.final,
                )
        finally:
            # Before the attempt ends: forked workers hold what tells its end to the shipper.
            self.close_loaders()
        return "interrupted" if self.run.stopped else "completed"

    def close_loaders(self) -> None:
        """End the workers."""
        self.batches.close()
        for evaluator in self.evaluators:
            evaluator.close()

    def close(self) -> None:
        """End the workers and close the journal."""
        self.close_loaders()
        self.journal.close()


def assemble(
    settings: Settings,
    opened: Opened,
    to_save: Mapping[str, Any],
    spec: RunSpec,
    evaluations: Mapping[str, RunSpec],
    display: Display,
) -> Assembled:
    """Build everything, put the checkpoint's state back, and attach the user's handlers.

    Raises:
        UsageError: a part cannot be used as it is.
        CheckpointMismatch: the checkpoint does not fit the objects.
    """
    if settings.deterministic:
        make_deterministic()
    device = device_named(settings.device)
    objects = SavedObjects(to_save)
    for module in objects.modules.values():
        module.to(device)
    checks.before_training(settings, spec, evaluations, to_save, display.warn)
    batches = Batches(spec.loader, seed=settings.seed, purpose="train", notify=display.say)
    length = run_length(settings, spec, batches)
    metrics = {name: accumulated(name, metric, device) for name, metric in spec.metrics.items()}
    signals = StopSignals(settings.stop_signals)

    def after_iteration() -> None:
        run.after_iteration()

    engine = StepEngine(
        spec,
        batches,
        seed=settings.seed,
        purpose="train",
        device=device,
        metrics=list(metrics.values()),
        after_iteration=after_iteration,
        before_step=objects.begin_iteration,
    )

    def timer(spec: RunSpec, name: str) -> Timer:
        return Timer(spec.interval(name, settings.interval(name)), length)

    def interrupted() -> bool:
        opened.lock.beat()
        # A handler that asked for the end has been and gone: it could not ask again.
        return signals.received is not None and not engine.should_terminate

    evaluators = {
        Evaluator(
            name,
            evaluation,
            seed=settings.seed,
            device=device,
            modules=objects.modules.values(),
            interrupted=interrupted,
        ): Timer(evaluation.interval("every", settings.interval("eval_every")), length, at_end=True)
        for name, evaluation in evaluations.items()
    }
    best = Best(settings.best_metric, settings.best_mode, settings.keep_best)
    journal = Journal.open(
        opened.paths.journal,
        attempt=len(opened.record.attempts) + 1,
        offset=opened.journal_offset,
        warn=display.warn,
    )
    saver = Saver(
        opened.store,
        objects,
        batches,
        metrics,
        {"train": engine.state.metrics}
        | {evaluator.name: evaluator.engine.state.metrics for evaluator in evaluators},
        journal,
        on_nan=settings.on_nan,
        extra={
            "arguments": opened.record.arguments,
            "learning_rate_set": _learning_rate_set(settings, opened),
            "epoch_length": length.epoch,
            "versions": opened.provenance.versions,
        },
        warn=display.warn,
        last_good=opened.loaded.checkpoint if opened.loaded and opened.own else None,
    )
    reporter = Reporter(
        spec,
        metrics,
        engine.state.metrics,
        journal,
        opened.record,
        display,
        settings.on_nan,
        saver.standing,
    )
    parts = Parts(
        length=length,
        evaluators=evaluators,
        reporter=reporter,
        saver=saver,
        record=opened.record,
        paths=opened.paths,
        lock=opened.lock,
        signals=signals,
        display=display,
        best=best,
        save=Timer(settings.interval("save_every"), length),
        log=timer(spec, "log_every"),
        print=timer(spec, "print_every"),
    )
    run = TrainingRun(engine, parts)
    assembled = Assembled(run, objects, length, batches, list(evaluators), signals, journal, opened)
    try:
        _restore(settings, assembled, best, display.warn)
        for callback in spec.callbacks:
            callback(engine, engine)
        for evaluator in evaluators:
            for callback in evaluator.spec.callbacks:
                callback(evaluator.engine, engine)
    except BaseException:
        assembled.close()
        raise
    return assembled


def run_length(settings: Settings, spec: RunSpec, batches: Batches) -> Length:
    """How long the run is, in iterations.

    Raises:
        UsageError: the loader is empty, or cannot tell its length and nobody else does.
    """
    epoch = spec.epoch_length or settings.epoch_length or batches.length
    if batches.length == 0:
        raise UsageError("the training loader is empty: it has no batches (look at drop_last too)")
    if epoch is None:
        raise UsageError(
            "the training loader cannot tell its length; say how many batches make an epoch with "
            "--epoch-length or RunSpec(epoch_length=…)"
        )
    max_epochs = spec.max_epochs or settings.max_epochs
    ends = [] if max_epochs is None else [max_epochs * epoch]
    if settings.max_iterations is not None:
        ends.append(settings.max_iterations)
    return Length(epoch=epoch, total=min(ends))


def _restore(
    settings: Settings, assembled: Assembled, best: Best, warn: Callable[[str], None]
) -> None:
    opened, saver = assembled.opened, assembled.run.parts.saver
    if opened.loaded is None:
        saver.check_storable()
    else:
        before = opened.loaded.manifest.get("epoch_length")
        if opened.own and before != assembled.length.epoch:
            warn(
                f"an epoch has {assembled.length.epoch} iterations, and had {before} at the "
                "checkpoint: the data or the batch size changed, so this is not the run it was"
            )
        saver.restore(opened.loaded)
        rate = _learning_rate_set(settings, opened)
        if rate is not None and rate != opened.loaded.manifest.get("learning_rate_set"):
            assembled.objects.set_learning_rate(rate)
    if opened.own:
        best.restore(opened.record.best, up_to=opened.iteration)
        opened.store.protected = best.iterations


def _learning_rate_set(settings: Settings, opened: Opened) -> float | None:
    """The learning rate that the optimizers were built with, or that was last put in its place.

    It stands in each manifest, so that ``--override learning_rate`` acts once: a schedule that
    has gone on from the new rate is not set back at each start.
    """
    rate = opened.record.arguments.get("learning_rate")
    if opened.loaded is None or "learning_rate" in settings.override:
        if rate is None and "learning_rate" in settings.override:
            raise UsageError("--override learning_rate: the run has no argument of that name")
        return None if rate is None else float(rate)
    before: float | None = opened.loaded.manifest.get("learning_rate_set")
    return before
