"""Hyper-parameter search: a study of optuna's whose trials are runs.

Synopsis::

    def objective(trial):
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        ...
        return train(
            to_save={"model": model, "optimizer": optimizer},
            train_spec=RunSpec(…, callback=[trial.pruning]),
            eval_spec=RunSpec(…),
            **trial.train_kwargs,
        )

    search(objective, metric="eval/loss", trials=20, **train_kwargs(args), parameters=vars(args))

Started again after any end, the same command goes on: finished trials stand, and the one that was
at work continues from its checkpoint. It ends as if it had never been stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from igniter import opening, studies
from igniter.directions import direction
from igniter.errors import Interrupted, NonFiniteError, UsageError
from igniter.identity import plain, shaping
from igniter.result import Result
from igniter.search_tracking import SearchTracking
from igniter.settings import Settings
from igniter.studies import MakeSampler, Study
from igniter.study_files import Storage
from igniter.trials import Trial, value_of

if TYPE_CHECKING:
    import optuna

    from igniter.tracking.display import Display

Objective = Callable[[Trial], Result | float]


@dataclass(frozen=True)
class SearchResult:
    """How a search stands: the best trial's value, parameters, number and run directory.

    ``finished`` counts the trials that came to an end, among them those ``pruned`` and ``failed``.
    Without a completed trial there is no best one. ``signal`` is what interrupted it.
    """

    status: Literal["completed", "interrupted"]
    finished: int
    pruned: int
    failed: int
    value: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    trial: int | None = None
    run_dir: Path | None = None
    signal: int | None = None


def search(
    objective: Objective,
    *,
    metric: str,
    trials: int = 20,
    mode: Literal["auto", "max", "min"] = "auto",
    sampler: MakeSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
    storage: Storage = "sqlite",
    catch: tuple[type[Exception], ...] = (NonFiniteError,),
    parameters: Mapping[str, Any] | None = None,
    identity: Mapping[str, Any] | None = None,
    on_interrupt: Literal["return", "raise"] = "return",
    **settings: Any,
) -> SearchResult:
    """Run trials until ``trials`` of them have ended, in all starts together.

    Args:
        objective: called with each :class:`~igniter.trials.Trial`; trains with its
            ``train_kwargs`` and returns what ``train`` returned, or a number of its own.
        metric: what of the result counts, such as ``eval/loss``; its last value.
        trials: how many there are to be; a finished search goes on with more, also where a flag
            of this name says so.
        mode: whether more or less of it is better; ``auto`` tells from its name.
        sampler: makes one of optuna's samplers from ``seed=…``, such as the class itself; made anew
            for each draw, so that none has a state to lose. None for optuna's TPE.
        pruner: of optuna's, for trials whose spec has ``trial.pruning``; None for its default.
        storage: ``sqlite`` or optuna's ``journal``, a file in the directory of the study.
        catch: errors that end a trial as failed; any other ends the search, and the trial goes on
            at the next start.
        parameters, identity, settings: of every run, as ``train`` takes them. ``output_dir`` is
            the study's directory, with a run ``trial-0007`` in it for each trial; ``seed`` is that
            of the sampler, too.
        on_interrupt: as ``train`` takes it.

    Raises:
        UsageError: an argument cannot be honoured, or optuna is not installed.
        RunRefused: another process is at work on the study, or it was begun with other arguments.
        Interrupted: a signal ended it and ``on_interrupt`` is ``raise``.
    """
    studies.require_optuna()
    from igniter.tracking.display import Display

    chosen = Settings.of(settings)
    _refuse(chosen, trials, sampler)
    way = direction(mode, metric, {})
    given = shaping((parameters or {}) if identity is None else identity)
    # How many trials there are to be is for a search what its length is for a run.
    shared = {name: value for name, value in given.items() if name != "trials"}
    root = opening.locate(chosen, opening.asked(chosen, None, shared, None)).root
    asked = studies.Asked(
        direction=way,
        arguments=plain({**shared, "metric": metric, "mode": way, **_shaping_each_trial(chosen)}),
        seed=chosen.seed,
        storage=storage,
        sampler=sampler,
        pruner=pruner,
    )
    display = Display(chosen.progress)
    try:
        with studies.opened(root, asked, display.say, break_lock=chosen.break_lock) as study:
            if study.ended().total() >= trials:
                result = _result(study, root, None)
                display.say(_in_words(result, metric))
                return result
            mlflow = SearchTracking(study, root, chosen, display.warn)
            arguments = {
                **settings,
                "output_dir": root,
                "mlflow_run_name": None,
                "mlflow_parent_run_id": mlflow.begin(),
                "parameters": dict(parameters or {}),
                "identity": shared,
                "on_interrupt": "raise",
            }
            stopped = None
            try:
                _run_all(study, objective, metric, trials, catch, arguments, display)
            except Interrupted as stop:
                stopped = stop
            result = _result(study, root, stopped)
            display.say(_in_words(result, metric))
            mlflow.end(result.status, metric)
    finally:
        display.close()
    if stopped is not None and on_interrupt == "raise":
        raise stopped
    return result


def _shaping_each_trial(settings: Settings) -> dict[str, Any]:
    """What a run may change on its way, and trials to be compared may not."""
    names = ("seed", "max_epochs", "max_iterations", "epoch_length")
    return {name: getattr(settings, name) for name in names}


def _refuse(settings: Settings, trials: int, sampler: object) -> None:
    if trials < 1:
        raise UsageError(f"trials is {trials}; it must be at least 1")
    if settings.eval_only:
        raise UsageError("a search trains; to evaluate a trial, evaluate its run's checkpoint")
    if settings.resume != "auto":
        raise UsageError(
            f"resume is {settings.resume!r}; a search goes on where it was left, with auto: give "
            "another --output-dir to begin a new one"
        )
    if sampler is not None and not callable(sampler):
        raise UsageError(
            f"sampler is a {type(sampler).__name__}, whose random state would be lost in a stop; "
            "give its class, or a function that makes one from seed=…"
        )


def _run_all(
    study: Study,
    objective: Objective,
    metric: str,
    trials: int,
    catch: tuple[type[Exception], ...],
    arguments: Mapping[str, Any],
    display: Display,
) -> None:
    import optuna

    from igniter.rng import kept_generators, seed_everything

    while study.ended().total() < trials:
        trial = Trial(study, study.next(), metric, arguments)
        display.say(f"{trial.name}, of {trials} trials", trial=trial.number)
        value, pruned = None, False
        try:
            with kept_generators():
                # As igniter_main does for a run: each start builds the same initial weights.
                seed_everything(study.seed)
                value = value_of(objective(trial), metric)
        except optuna.TrialPruned:  # by the objective itself
            pruned = True
        except catch as error:
            display.warn(f"{trial.name} failed: {error}")
        study.tell(trial.number, value, pruned=pruned or trial.pruning.pruned)


def _in_words(result: SearchResult, metric: str) -> str:
    ended = (
        f"search {result.status}: {result.finished} trials have ended, {result.pruned} of them "
        f"pruned and {result.failed} failed"
    )
    if result.run_dir is None:
        return f"{ended}; there is no best one"
    drawn = ", ".join(f"{name} {value}" for name, value in result.parameters.items())
    return f"{ended}; the best is {result.run_dir}: {metric} {result.value:.4g} with {drawn}"


def _result(study: Study, root: Path, stopped: Interrupted | None) -> SearchResult:
    best, ended = study.best(), study.ended()
    result = SearchResult(
        "completed" if stopped is None else "interrupted",
        ended.total(),
        pruned=ended["pruned"],
        failed=ended["fail"],
        signal=None if stopped is None else stopped.result.signal,
    )
    if best is None:
        return result
    return replace(
        result,
        value=best.values[0],
        parameters=dict(best.params),
        trial=best.number,
        run_dir=root / f"trial-{best.number:04d}",
    )
