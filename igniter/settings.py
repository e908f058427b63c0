"""``Settings``: everything ``train`` can be told besides what to train, with its defaults."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from igniter.errors import UsageError
from igniter.intervals import Interval, parse_duration, parse_interval
from igniter.setting_values import (
    check_choice,
    names_of,
    positive_number_or_none,
    tags_of,
    whole_number,
    word_or_path,
)
from igniter.signals import DEFAULT_STOP_SIGNALS, signal_named

_MAY_BE_TIMES = ("save_every", "print_every")
_COUNT_ONLY = ("eval_every", "log_every")
# The smallest value of each whole number.
_WHOLE = {
    "max_epochs": 1,
    "max_iterations": 1,
    "epoch_length": 1,
    "limit_batches": 1,
    "accumulate": 1,
    "seed": 0,
    "keep_last": 1,
    "keep_every": 1,
    "keep_best": 1,
}
_MAY_BE_NONE = ("max_epochs", "max_iterations", "epoch_length", "keep_every", "limit_batches")
_CHOICES = {
    "precision": ("fp32", "bf16", "fp16"),
    "on_nan": ("stop", "warn"),
    "best_mode": ("auto", "max", "min"),
    "progress": ("auto", "bar", "plain", "json", "none", "debug"),
    "mlflow_log_checkpoints": ("none", "last", "best", "all"),
}
RESUME_MODES = ("auto", "always", "never", "must")
CHECKPOINTS = ("best", "latest")
EXPORTS = ("torch", "onnx")
_OVERRIDES = ("learning_rate",)


@dataclass(frozen=True)
class Settings:
    """The keyword arguments of ``train`` that the command line also sets.

    Args:
        max_epochs, max_iterations: how long to train in all; the shorter one holds.
        epoch_length: iterations an epoch; None for the loader's length.
        limit_batches: at most so many batches an epoch, and in each evaluation: a quick look.
        stop_after: a time such as ``2 hours`` after which this attempt stops, as by SIGTERM.
        evaluate: whether to run the evaluations while training.
        eval_only: whether to train nothing, and run each evaluation once on a checkpoint.
        checkpoint: that checkpoint: ``best``, ``latest`` or a path; None for the best where there
            is one, else the latest.
        precision: of the step's operations: ``fp32``, or ``bf16`` or ``fp16`` by autocast.
        accumulate: batches whose gradients make one update of the weights.
        clip_norm, clip_value: the largest norm of the gradients of an update, and the largest
            absolute value in them; None for no limit.
        compile: whether to compile the modules by ``torch.compile``.
        output_dir: the run's directory; None for ``output/<script>-<identity>``.
        checkpoint_dir, model_dir: these alone elsewhere.
        resume: ``auto``, ``always``, ``never``, ``must``, or the path of a checkpoint.
        override: names of arguments whose new value wins over the checkpoint's
            (``learning_rate``).
        inputs: files and directories that the run reads, by name; a change in them since the
            attempt before is told.
        strict: refuse to resume when script, modules, inputs, versions or commit changed.
        break_lock: take over a run that another host seems to be at work on.
        seed: of the data's order and of all randomness in loading, steps and evaluations.
        deterministic: use torch's deterministic kernels.
        device: ``auto``, or a torch device or its name; modules of ``to_save`` and batches are
            moved to it.
        on_nan: ``stop`` or ``warn`` when a logged training metric is not finite.
        stop_signals: the signals that end training after the current iteration.
        save_every: when checkpoints are saved besides at a stop and at the end; ``auto`` as often
            as 1 % of the time pays for, at least every 10 minutes.
        keep_last, keep_every, keep_best: how many of the newest, which multiples of iterations,
            and how many of the best checkpoints are kept.
        best_metric, best_mode: what ``best`` means, such as ``eval/accuracy`` and ``max``; ``auto``
            tells the mode from the metric, or from its name.
        eval_every, log_every, print_every: when to evaluate, log and print.
        progress: ``auto``, ``bar``, ``plain``, ``json``, ``none``, or ``debug``: plain lines, and
            the order in which callbacks are called.
        export: what a completed run's modules are exported as besides safetensors: ``torch``, a
            program of torch.export, and ``onnx``.
        picture: whether to draw the metrics, as ``metrics.png`` and ``.svg``, when training ends.
        tensorboard: whether to write TensorBoard's files too, into the run's directory.
        mlflow: whether to track the run in MLflow.
        mlflow_offline: whether to leave the sending to `igniter sync`, later.
        mlflow_tracking_uri, mlflow_experiment_name, mlflow_run_name, mlflow_tracking_username:
            where and as what; None for the environment's or igniter's own defaults.
        mlflow_system_metrics: whether the machine is monitored too, by MLflow's own means.
        mlflow_log_model: whether a completed run's model is logged as one that MLflow can serve.
        mlflow_register_model: the name under which the registry is to hold that model too.
        mlflow_log_checkpoints: which checkpoints MLflow keeps too: ``none``, ``all``, or, whenever
            an attempt ends, the ``last`` or the ``best``.
        mlflow_log_git_diff: whether uncommitted changes of the script's repository are logged.
        mlflow_tags, mlflow_description: of the run, tags by name or as ``name=value``.
        mlflow_parent_run_id: the run that it is a child of, such as a sweep's.
    """

    max_epochs: int | None = 10
    max_iterations: int | None = None
    epoch_length: int | None = None
    limit_batches: int | None = None
    stop_after: Interval | str | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    compile: bool = False
    evaluate: bool = True
    eval_only: bool = False
    checkpoint: Path | str | None = None
    output_dir: Path | str | None = None
    checkpoint_dir: Path | str | None = None
    model_dir: Path | str | None = None
    resume: Path | str = "auto"
    override: Sequence[str] = ()
    inputs: Mapping[str, Path | str] = field(default_factory=dict)
    strict: bool = False
    break_lock: bool = False
    seed: int = 0
    deterministic: bool = False
    device: str = "auto"
    on_nan: Literal["stop", "warn"] = "stop"
    stop_signals: Sequence[str] = DEFAULT_STOP_SIGNALS
    save_every: Interval | str | int = "auto"
    keep_last: int = 3
    keep_every: int | None = None
    keep_best: int = 1
    best_metric: str | None = None
    best_mode: Literal["auto", "max", "min"] = "auto"
    eval_every: Interval | str | int = "1 epoch"
    log_every: Interval | str | int = "100 iterations"
    print_every: Interval | str | int = "1 epoch, 1 minute"
    progress: Literal["auto", "bar", "plain", "json", "none", "debug"] = "auto"
    picture: bool = True
    export: Sequence[str] = ()
    tensorboard: bool = False
    mlflow: bool = True
    mlflow_offline: bool = False
    mlflow_tracking_uri: str | None = None
    mlflow_experiment_name: str | None = None
    mlflow_run_name: str | None = None
    mlflow_tracking_username: str | None = None
    mlflow_system_metrics: bool = False
    mlflow_log_model: bool = True
    mlflow_register_model: str | None = None
    mlflow_log_checkpoints: Literal["none", "last", "best", "all"] = "none"
    mlflow_log_git_diff: bool = False
    mlflow_tags: Mapping[str, str] | Sequence[str] = ()
    mlflow_description: str | None = None
    mlflow_parent_run_id: str | None = None

    def __post_init__(self) -> None:
        """Check every value and bring it to one type.

        Raises:
            UsageError: a value cannot be used.
        """
        for names, allow_time in ((_MAY_BE_TIMES, True), (_COUNT_ONLY, False)):
            for name in names:
                auto = name == "save_every"
                interval = parse_interval(
                    getattr(self, name), allow_time=allow_time, allow_auto=auto
                )
                self._set(name, interval)
        for name, minimum in _WHOLE.items():
            self._set(
                name, whole_number(name, getattr(self, name), minimum, or_none=name in _MAY_BE_NONE)
            )
        for name in ("clip_norm", "clip_value"):
            self._set(name, positive_number_or_none(name, getattr(self, name)))
        if self.max_epochs is None and self.max_iterations is None:
            raise UsageError("training needs an end: give max_epochs or max_iterations")
        if not isinstance(self.inputs, Mapping):
            raise UsageError(f"inputs is {self.inputs!r}; it must map names to paths")
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        self._set("resume", word_or_path("resume", self.resume, RESUME_MODES))
        if self.checkpoint is not None:
            self._set("checkpoint", word_or_path("checkpoint", self.checkpoint, CHECKPOINTS))
            if not self.eval_only:
                raise UsageError(
                    f"checkpoint is {self.checkpoint!r}, which is for evaluating alone: add "
                    "eval_only (--eval-only). To train from a checkpoint, give it as resume"
                )
        self._set("stop_after", parse_duration(self.stop_after or "never"))
        self._set("override", names_of("override", self.override, _OVERRIDES))
        for name in self.override:
            check_choice("override", name, _OVERRIDES)
        self._set("stop_signals", names_of("stop_signals", self.stop_signals, DEFAULT_STOP_SIGNALS))
        for name in self.stop_signals:
            signal_named(name)
        self._set("export", names_of("export", self.export, EXPORTS))
        for name in self.export:
            check_choice("export", name, EXPORTS)
        self._set("device", str(self.device))
        self._set("mlflow_tags", tags_of(self.mlflow_tags))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

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

    @property
    def tags(self) -> dict[str, str]:
        """``mlflow_tags`` by name."""
        assert isinstance(self.mlflow_tags, dict)
        return self.mlflow_tags

    @property
    def time_limit(self) -> float | None:
        """``stop_after`` in seconds."""
        return self.interval("stop_after").seconds

    def interval(self, name: str) -> Interval:
        """The interval called ``name``."""
        value = getattr(self, name)
        assert isinstance(value, Interval)
        return value
