"""A run put together from its parts, in the order that exactness asks for."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from igniter import attaching, checks, hooks
from igniter.about import About
from igniter.assembled import Assembled
from igniter.best import Best
from igniter.cadence import Length, Timer
from igniter.checkpoint.state import SavedObjects
from igniter.committing import Committer
from igniter.devices import device_named
from igniter.directions import direction
from igniter.engine import StepEngine
from igniter.evaluation import Evaluator
from igniter.examples import Examples
from igniter.extent import extent
from igniter.figures import Figures
from igniter.holdings import Holdings
from igniter.measure import Measures, Speed, gradient_norm
from igniter.metrics import accumulated
from igniter.onnx_export import require_onnx
from igniter.opening import Opened
from igniter.pacing import Pace
from igniter.phases import PhasedBatches
from igniter.rates import LearningRates
from igniter.recording import Recorder
from igniter.reporting import Reporter
from igniter.rng import make_deterministic
from igniter.run import Parts, TrainingRun
from igniter.saving import Saver
from igniter.schedules import Schedules
from igniter.settings import Settings
from igniter.signals import StopSignals, leave_to_main_thread
from igniter.spec import RunSpec, metrics_by_full_name
from igniter.tracking.display import Display
from igniter.tracking.journal import Journal
from igniter.training_batches import open_batches
from igniter.watch import Watch


def assemble(
    settings: Settings,
    opened: Opened,
    to_save: Mapping[str, Any],
    spec: RunSpec,
    evaluations: Mapping[str, RunSpec],
    display: Display,
    about: About,
) -> Assembled:
    """Build everything, put the checkpoint's state back, and attach the user's handlers.

    Raises:
        UsageError: a part cannot be used as it is.
        CheckpointMismatch: the checkpoint does not fit the objects.
    """
    if "onnx" in settings.export:
        require_onnx()
    if settings.deterministic:
        make_deterministic()
    device = device_named(settings.device)
    itself = attaching.saved_by_itself([spec, *evaluations.values()], to_save)
    objects = SavedObjects({**to_save, **itself}, may_lack=attaching.is_own_name)
    for module in objects.modules.values():
        module.to(device)
    checks.before_training(settings, spec, evaluations, objects, display.warn)
    evaluations_run = evaluations if settings.evaluate else {}

    def before_workers() -> None:
        saver.rest()

    batches = open_batches(
        spec.loader, seed=settings.seed, display=display, before_workers=before_workers
    )
    length = extent(settings, spec, batches.length)
    if isinstance(batches, PhasedBatches):
        batches.set_epoch_length(length.epoch)
    metrics = {name: accumulated(name, metric, device) for name, metric in spec.metrics.items()}
    norm = gradient_norm(spec.metrics, device)
    signals = StopSignals(settings.stop_signals, time_limit=settings.time_limit)
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
        # Not before there is something new to save: what takes longer than the time limit, such as
        # an evaluation that is owed, would else be begun by each attempt and never be finished.
        if engine.done > opened.iteration:
            signals.look_at_clock()
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
            limit=settings.limit_batches,
        ): Timer(evaluation.interval("every", settings.interval("eval_every")), length, at_end=True)
        for name, evaluation in evaluations_run.items()
    }
    engine.evaluators = {evaluator.name: evaluator.engine for evaluator in evaluators}
    for each in (engine, *engine.evaluators.values()):
        each.objects, each.run_dir, each.length = objects.by_name, opened.paths.root, length
        each.attempt = opened.attempt
        each.say, each.warn = display.say, display.warn
    attaching.configure(spec, evaluations_run, settings, engine, length)
    best = _best(settings, evaluations)
    journal = Journal.open(
        opened.paths.journal,
        attempt=opened.attempt,
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
        {"train": engine, **engine.evaluators},
        journal,
        opened.record,
        display.warn,
        about.metadata,
    )
    save_every = settings.interval("save_every")
    pace = None
    if save_every.share is not None:
        pace = Pace(save_every.share, holdings.size, display.say)
    behind = ThreadPoolExecutor(1, "igniter-save", initializer=leave_to_main_thread)
    recorder = Recorder(opened.record, opened.paths, opened.store, best, behind, display.warn)
    saver = Saver(
        Committer(opened.store, journal, _manifest_entries(opened, rates, length, about)),
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
    wanted = settings.export or (settings.mlflow_log_model and opened.target is not None)
    assembled = Assembled(
        run,
        objects,
        length,
        batches,
        list(evaluators),
        signals,
        journal,
        opened,
        Examples({n: to_save[n] for n in objects.modules if wanted and n in to_save}),
        holdings,
        about,
        list(attaching.callback_objects([spec, *evaluations.values()]).values()),
    )
    try:
        assembled.restore(rates, best, display.warn)
        attaching.attach(engine, {"train": spec, **evaluations_run}, [spec, *evaluations.values()])
        if display.details:
            hooks.show_order([engine, *engine.evaluators.values()], display.say)
        unclear = checks.unsaved_state(spec, engine, evaluators, objects, display.warn)
        Watch(objects.modules, unclear, schedules, display.warn).begin(engine, opened.iteration)
    except BaseException:
        assembled.close()
        raise
    return assembled


def _best(settings: Settings, evaluations: Mapping[str, RunSpec]) -> Best:
    """What ranks checkpoints, in the direction that is better for the metric."""
    measured = metrics_by_full_name(evaluations)
    better = direction(settings.best_mode, settings.best_metric, measured)
    return Best(settings.best_metric, better, settings.keep_best)


def _manifest_entries(
    opened: Opened, rates: LearningRates, length: Length, about: About
) -> dict[str, Any]:
    """What each manifest says of the run."""
    entries = {
        "arguments": opened.record.arguments,
        "learning_rates": rates.in_force,
        "epoch_length": length.epoch,
        "total_iterations": length.total,
        "versions": opened.provenance.versions,
    }
    return entries if about.model is None else {**entries, "model": about.model}
