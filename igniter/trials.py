"""One trial of a search: its parameters, its run's arguments, and the end of one without hope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igniter.errors import UsageError
from igniter.result import Result
from igniter.studies import Study

if TYPE_CHECKING:
    import optuna

_PRUNED_AT = "igniter.pruned_at"
_DIRECTORIES = ("output_dir", "checkpoint_dir", "model_dir")


class Pruning:
    """A callback object that reports a trial's metric at each evaluation, and ends it for that.

    A report is made once: after a resume an evaluation that runs again finds its own.
    """

    def __init__(self, trial: optuna.trial.Trial, metric: str) -> None:
        self._trial, self._metric = trial, metric

    @property
    def pruned(self) -> bool:
        """Whether the trial was found to be without hope."""
        return _PRUNED_AT in self._trial.user_attrs

    def attach(self, trainer: Any) -> None:
        """Look whether there is anything to report.

        Raises:
            UsageError: no evaluation gives the metric.
        """
        known = sorted(trainer.evaluators)
        if self._metric.partition("/")[0] not in known:
            raise UsageError(
                f"trials are pruned on {self._metric}, which no evaluation gives; the evaluations "
                f"are called {', '.join(known) or '(there is none)'}: give search(metric=…)"
            )

    def on_validation_end(
        self, trainer: Any, cycle: int, name: str, metrics: Mapping[str, float]
    ) -> None:
        """Report the metric at this iteration, and end the run where that has no hope."""
        if self._metric not in metrics:
            return
        trial, iteration = self._trial, int(trainer.state.iteration)
        reported = trial.storage.get_trial(trial._trial_id).intermediate_values
        if iteration not in reported:
            trial.report(float(metrics[self._metric]), iteration)
        elif iteration < max(reported):
            return  # it went on from here, before it was stopped
        if iteration >= trainer.length.total:
            return  # nothing is left to be spared
        if not self.pruned and trial.should_prune():
            trial.set_user_attr(_PRUNED_AT, iteration)
        if self.pruned:
            trainer.say(f"pruned at iteration {iteration}: {self._metric} is behind other trials'")
            trainer.terminate()


class Trial:
    """What an objective is given: a trial of optuna's, and the arguments of its run.

    Draw every parameter first, then train: what ``train_kwargs`` holds names the run by them.
    """

    def __init__(
        self, study: Study, trial: optuna.trial.Trial, metric: str, arguments: Mapping[str, Any]
    ) -> None:
        """``arguments`` are those of ``train`` that all trials share."""
        self._study, self._trial, self._arguments = study, trial, arguments
        self.pruning = Pruning(trial, metric)

    @property
    def number(self) -> int:
        """Its number in the study, from 0."""
        return self._trial.number

    @property
    def name(self) -> str:
        """The name of its run's directory."""
        return f"trial-{self.number:04d}"

    @property
    def parameters(self) -> dict[str, Any]:
        """What was drawn so far, by name."""
        return dict(self._trial.params)

    def suggest_float(self, name: str, low: float, high: float, **how: Any) -> float:
        """As optuna's: a number from ``low`` to ``high``; ``log=True``, ``step=…``."""
        self._study.reseed(self.number, name)
        return self._trial.suggest_float(name, low, high, **how)

    def suggest_int(self, name: str, low: int, high: int, **how: Any) -> int:
        """As optuna's: a whole number, ``high`` included; ``log=True``, ``step=…``."""
        self._study.reseed(self.number, name)
        return self._trial.suggest_int(name, low, high, **how)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """As optuna's: one of ``choices``."""
        self._study.reseed(self.number, name)
        return self._trial.suggest_categorical(name, choices)

    @property
    def train_kwargs(self) -> dict[str, Any]:
        """The arguments of ``train`` for this trial: its directory, its place in MLflow.

        Its parameters are among those of the run, and of what makes two commands the same run.
        """
        shared = dict(self._arguments)
        for name in _DIRECTORIES:
            if shared.get(name) is not None:
                shared[name] = Path(shared[name]) / self.name
        for name in ("parameters", "identity"):
            shared[name] = {**shared[name], **self.parameters}
        return shared


def value_of(outcome: object, metric: str) -> float:
    """What an objective's ``outcome`` comes to.

    Raises:
        UsageError: it is neither a run's result that has the ``metric`` nor a number.
    """
    if isinstance(outcome, Result):
        if metric not in outcome.metrics:
            known = ", ".join(outcome.metrics) or "none"
            raise UsageError(f"the run gave no {metric}; its metrics are {known}")
        return float(outcome.metrics[metric])
    if isinstance(outcome, (int, float)):
        return float(outcome)
    raise UsageError(
        f"the objective returned {type(outcome).__name__}; return what train() returned, or a "
        "number"
    )
