"""``Settings``: everything ``train`` can be told besides what to train, with its defaults."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from igniter.errors import UsageError
from igniter.intervals import Interval, parse_interval
from igniter.signals import DEFAULT_STOP_SIGNALS

_MAY_BE_TIMES = ("save_every", "print_every")
_COUNT_ONLY = ("eval_every", "log_every")


@dataclass(frozen=True)
class Settings:
    """The keyword arguments of ``train`` that the command line also sets.

    Args:
        max_epochs, max_iterations: how long to train in all; the shorter one holds.
        epoch_length: iterations an epoch; None for the loader's length.
        output_dir: the run's directory; None for ``output/<script>-<identity>``.
        checkpoint_dir, model_dir: these alone elsewhere.
        resume: ``auto``, ``always``, ``never``, ``must``, or the path of a checkpoint.
        override: names of arguments whose new value wins over the checkpoint's
            (``learning_rate``).
        strict: refuse to resume when script, versions or commit changed.
        break_lock: take over a run that another host seems to be at work on.
        seed: of the data's order and of all randomness in loading, steps and evaluations.
        deterministic: use torch's deterministic kernels.
        device: ``auto`` or a torch device; modules of ``to_save`` and batches are moved to it.
        on_nan: ``stop`` or ``warn`` when a logged training metric is not finite.
        stop_signals: the signals that end training after the current iteration.
        save_every: when checkpoints are saved besides at a stop and at the end.
        keep_last, keep_every, keep_best: how many of the newest, which multiples of iterations,
            and how many of the best checkpoints are kept.
        best_metric, best_mode: what ``best`` means, such as ``eval/accuracy`` and ``max``.
        eval_every, log_every, print_every: when to evaluate, log and print.
        progress: ``auto``, ``bar``, ``plain``, ``json`` or ``none``.
        mlflow: whether to track the run in MLflow.
        mlflow_tracking_uri, mlflow_experiment_name, mlflow_run_name, mlflow_tracking_username:
            where and as what; None for the environment's or igniter's own defaults.
    """

    max_epochs: int | None = 10
    max_iterations: int | None = None
    epoch_length: int | None = None
    output_dir: Path | str | None = None
    checkpoint_dir: Path | str | None = None
    model_dir: Path | str | None = None
    resume: str = "auto"
    override: Sequence[str] = ()
    strict: bool = False
    break_lock: bool = False
    seed: int = 0
    deterministic: bool = False
    device: str = "auto"
    on_nan: Literal["stop", "warn"] = "stop"
    stop_signals: Sequence[str] = DEFAULT_STOP_SIGNALS
    save_every: Interval | str | int = "1 epoch, 5 minutes"
    keep_last: int = 3
    keep_every: int | None = None
    keep_best: int = 1
    best_metric: str | None = None
    best_mode: Literal["max", "min"] = "max"
    eval_every: Interval | str | int = "1 epoch"
    log_every: Interval | str | int = "100 iterations"
    print_every: Interval | str | int = "1 epoch, 1 minute"
    progress: Literal["auto", "bar", "plain", "json", "none"] = "auto"
    mlflow: bool = True
    mlflow_tracking_uri: str | None = None
    mlflow_experiment_name: str | None = None
    mlflow_run_name: str | None = None
    mlflow_tracking_username: str | None = None

    def __post_init__(self) -> None:
        """Read the intervals.

        Raises:
            UsageError: a value cannot be used.
        """
        for names, allow_time in ((_MAY_BE_TIMES, True), (_COUNT_ONLY, False)):
            for name in names:
                interval = parse_interval(getattr(self, name), allow_time=allow_time)
                object.__setattr__(self, name, interval)
        if self.max_epochs is None and self.max_iterations is None:
            raise UsageError("training needs an end: give max_epochs or max_iterations")
        for name in ("max_epochs", "max_iterations", "epoch_length", "keep_best"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """The settings with what is ``given``.

        Raises:
            UsageError: a name is none of the settings', or a value cannot be used.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UsageError(f"train() has no argument {name!r}{hint}")
        return cls(**given)

    def interval(self, name: str) -> Interval:
        """The interval called ``name``."""
        value = getattr(self, name)
        assert isinstance(value, Interval)
        return value
