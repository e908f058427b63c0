"""The optuna study in a directory: opened by one process, its choices drawn by address."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from igniter import atomic, study_files
from igniter.errors import IdentityMismatch, RunRefused, UsageError
from igniter.identity import differences
from igniter.lock import RunLock
from igniter.study_files import Storage
from igniter.tracking.failures import first_line

if TYPE_CHECKING:
    import optuna

MakeSampler = Callable[..., Any]
_ARGUMENTS = "igniter.arguments"
_KEY = "igniter.key"
_MLFLOW = "igniter.mlflow_run_id"
_TOGETHER = "igniter.drawn_together"
_FIXED = "fixed_params"  # optuna's


@dataclass(frozen=True)
class Asked:
    """What a study is asked for; ``sampler`` makes one from ``seed=…``, None for optuna's TPE."""

    direction: Literal["min", "max"]
    arguments: Mapping[str, Any]
    seed: int
    storage: Storage = "sqlite"
    sampler: MakeSampler | None = None
    pruner: optuna.pruners.BasePruner | None = None


class Study:
    """A study that this process holds."""

    def __init__(self, study: optuna.Study, asked: Asked) -> None:
        """For :func:`opened`."""
        import optuna

        self.study, self.seed = study, asked.seed
        self._make: MakeSampler = asked.sampler or optuna.samplers.TPESampler

    @property
    def key(self) -> str:
        """What names the study among all others."""
        return str(self.study.user_attrs[_KEY])

    @property
    def mlflow_run_id(self) -> str | None:
        """The MLflow run that those of the trials are children of."""
        found = self.study.user_attrs.get(_MLFLOW)
        return None if found is None else str(found)

    @mlflow_run_id.setter
    def mlflow_run_id(self, run_id: str) -> None:
        self.study.set_user_attr(_MLFLOW, run_id)

    def ended(self) -> Counter[str]:
        """How many trials have ended in which way: ``complete``, ``pruned``, ``fail``."""
        states = (trial.state for trial in self.study.get_trials(deepcopy=False))
        return Counter(state.name.lower() for state in states if state.is_finished())

    def next(self) -> optuna.trial.Trial:
        """The trial that was at work when a process ended, or else a new one."""
        import optuna

        trials = self.study.get_trials(deepcopy=False)
        begun = [trial for trial in trials if trial.state == optuna.trial.TrialState.RUNNING]
        if begun:
            return self._taken_up(begun[0])
        self.reseed(len(trials))
        trial = self.study.ask()
        # What the sampler draws together it draws here, from what is known of other trials alone.
        trial.set_user_attr(_TOGETHER, trial.relative_params)
        return trial

    def _taken_up(self, begun: optuna.trial.FrozenTrial) -> optuna.trial.Trial:
        """The trial that was at work; what was drawn together for it stands."""
        import optuna

        self.reseed(begun.number)
        trial = optuna.trial.Trial(self.study, begun._trial_id)
        if _TOGETHER not in begun.user_attrs:
            trial.set_user_attr(_TOGETHER, trial.relative_params)
            return trial
        # optuna's own way for parameters that were settled elsewhere.
        fixed = {**begun.user_attrs[_TOGETHER], **begun.system_attrs.get(_FIXED, {})}
        trial.storage.set_trial_system_attr(begun._trial_id, _FIXED, fixed)
        return optuna.trial.Trial(self.study, begun._trial_id)

    def reseed(self, number: int, parameter: str = "") -> None:
        """Set the sampler by the address of what it is to draw: no state of it is carried."""
        from igniter.rng import Address

        address = Address(self.seed, f"search/{parameter}")
        self.study.sampler = self._make(seed=address(number) & 0xFFFFFFFF)

    def tell(self, number: int, value: float | None, *, pruned: bool) -> None:
        """End a trial: completed with ``value``, failed where that is None or not finite."""
        from optuna.trial import TrialState

        if pruned:
            self.study.tell(number, state=TrialState.PRUNED)
        elif value is None or not math.isfinite(value):
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, value)

    def best(self) -> optuna.trial.FrozenTrial | None:
        """The completed trial with the best value, the earlier of two that are equal."""
        from optuna.study import StudyDirection
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        sign = -1.0 if self.study.direction == StudyDirection.MAXIMIZE else 1.0
        return min(trials, key=lambda trial: (sign * trial.values[0], trial.number), default=None)


def require_optuna() -> None:
    """Refuse to search without the extra.

    Raises:
        UsageError: optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise UsageError(
            "igniter.search needs optuna, which is not here: pip install 'torch-igniter[search]'"
        )


@contextmanager
def opened(
    root: Path, asked: Asked, notify: Callable[[str], None], *, break_lock: bool = False
) -> Iterator[Study]:
    """Open the study in ``root``, made if it is not there; meanwhile no other process can.

    Raises:
        RunLocked: another process is at work on it.
        IdentityMismatch: it was begun with other arguments.
        RunRefused: its file cannot be read or made.
        UsageError: ``root`` cannot be written to, or the storage is none of the known.
    """
    import optuna

    path = study_files.path_in(root, asked.storage)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = RunLock.acquire(root / "study.lock", break_lock=break_lock, notify=notify)
    except OSError as error:
        raise UsageError(f"no study can be kept in {root}: {error}") from error
    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with lock, ExitStack() as stack:
            try:
                atomic.sweep(root)
                if not path.exists():
                    attributes = {_KEY: uuid.uuid4().hex, _ARGUMENTS: dict(asked.arguments)}
                    study_files.create(path, asked.storage, asked.direction, attributes)
                storage = stack.enter_context(study_files.storage(path, asked.storage))
                study = optuna.load_study(
                    study_name=study_files.NAME, storage=storage, pruner=asked.pruner
                )
                stored = study.user_attrs[_ARGUMENTS]
            except Exception as error:  # of sqlalchemy's, of whatever optuna makes of a file
                raise RunRefused(
                    f"the study in {path} cannot be used: {first_line(str(error))}\n"
                    "Restore the file, or give a new study another --output-dir."
                ) from error
            _refuse_other_arguments(stored, root, asked)
            yield Study(study, asked)
    finally:
        optuna.logging.set_verbosity(said)


def _refuse_other_arguments(stored: Mapping[str, Any], root: Path, asked: Asked) -> None:
    changed = "\n".join(f"  {change}" for change in differences(stored, asked.arguments))
    if changed:
        raise IdentityMismatch(
            f"the study in {root} was begun with other arguments:\n{changed}\n"
            "Give those again, or the new study another --output-dir."
        )
