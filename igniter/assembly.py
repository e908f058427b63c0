"""A run put together from its parts, in the order that exactness asks for."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from igniter import checks
from igniter.assembled import Assembled
from igniter.best import Best
from igniter.cadence import Timer
from igniter.checkpoint.state import SavedObjects
from igniter.committing import Committer
from igniter.devices import device_named
from igniter.engine import StepEngine
from igniter.evaluation import Evaluator
from igniter.examples import Examples
from igniter.extent import extent
from igniter.figures import Figures
from igniter.holdings import Holdings
from igniter.loader import Batches
from igniter.measure import Measures, Speed, gradient_norm
from igniter.metrics import accumulated
from igniter.opening import Opened
from igniter.pacing import Pace
from igniter.rates import LearningRates
from igniter.recording import Recorder
from igniter.reporting import Reporter
from igniter.rng import make_deterministic
from igniter.run import Parts, TrainingRun
from igniter.saving import Saver
from igniter.schedules import Schedules
from igniter.settings import Settings
from igniter.signals import StopSignals, leave_to_main_thread
from igniter.spec import RunSpec
from igniter.tracking.display import Display
from igniter.tracking.journal import Journal
from igniter.watch import Watch


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
    checks.before_training(settings, spec, evaluations, objects, display.warn)

    def before_workers() -> None:
        saver.rest()

    batches = Batches(
        spec.loader,
        seed=settings.seed,
        purpose="train",
        display=display,
        before_workers=before_workers,
    )
    length = extent(settings, spec, batches.length)
    metrics = {name: accumulated(name, metric, device) for name, metric in spec.metrics.items()}
    norm = gradient_norm(spec.metrics, device)
    signals = StopSignals(settings.stop_signals)
    figures = Figures(opened.paths.figures, display.warn)
    engine = StepEngine(
        spec,
        batches,
        seed=settings.seed,
        purpose="train",
        device=device,
        metrics=[*metrics.values(), *norm.values()],
        after_iteration=lambda: run.after_iteration(),
        before_step=objects.begin_iteration,
        figures=figures,
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
            before_workers=before_workers,
            figures=figures,
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
    rates = LearningRates(
        objects.by_name,
        None if opened.loaded is None else opened.loaded.manifest.get("learning_rates"),
        override="learning_rate" in settings.override,
    )
    schedules = Schedules(objects.by_name, length, display.warn)
    holdings = Holdings(
        objects,
        batches,
        {**metrics, **norm},
        {"train": engine.state.metrics}
        | {evaluator.name: evaluator.engine.state.metrics for evaluator in evaluators},
        journal,
        opened.record,
        display.warn,
    )
    save_every = settings.interval("save_every")
    pace = None
    if save_every.share is not None:
        pace = Pace(save_every.share, holdings.size, display.say)
    extra = {
        "arguments": opened.record.arguments,
        "learning_rates": rates.in_force,
        "epoch_length": length.epoch,
        "versions": opened.provenance.versions,
    }
    behind = ThreadPoolExecutor(1, "igniter-save", initializer=leave_to_main_thread)
    recorder = Recorder(opened.record, opened.paths, opened.store, best, behind, display.warn)
    saver = Saver(
        Committer(opened.store, journal, extra),
        holdings,
        recorder,
        behind,
        on_nan=settings.on_nan,
        warn=display.warn,
        last_good=opened.loaded.checkpoint if opened.loaded and opened.own else None,
        pace=pace,
        copies=bool(save_every.terms or evaluators),
    )
    speed = Speed(engine, device)
    reporter = Reporter(
        spec,
        metrics,
        Measures(objects.optimizers, length.epoch, norm, speed),
        engine.state.metrics,
        journal,
        opened.record,
        display,
        settings.on_nan,
        saver.standing,
    )
    parts = Parts(
        length=length,
        batches=batches,
        interrupted=interrupted,
        evaluators=evaluators,
        reporter=reporter,
        speed=speed,
        saver=saver,
        recorder=recorder,
        lock=opened.lock,
        signals=signals,
        display=display,
        best=best,
        save=Timer(save_every, length, pace=pace),
        log=timer(spec, "log_every"),
        print=timer(spec, "print_every"),
    )
    run = TrainingRun(engine, parts)
    wanted = settings.mlflow_log_model and opened.target is not None
    assembled = Assembled(
        run,
        objects,
        length,
        batches,
        list(evaluators),
        signals,
        journal,
        opened,
        Examples({name: to_save[name] for name in objects.modules if wanted}),
        holdings,
    )
    try:
        assembled.restore(rates, best, display.warn)
        for callback in spec.callbacks:
            callback(engine, engine)
        for evaluator in evaluators:
            for callback in evaluator.spec.callbacks:
                callback(evaluator.engine, engine)
        unclear = checks.unsaved_state(spec, engine, evaluators, objects, display.warn)
        Watch(objects.modules, unclear, schedules, display.warn).begin(engine, opened.iteration)
    except BaseException:
        assembled.close()
        raise
    return assembled
