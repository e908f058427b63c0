"""igniter's own flags: their names, defaults and help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from igniter.argument_types import (
    duration,
    export_names,
    interval_type,
    learning_rate,
    name_and_value,
    positive_number,
    signal_names,
    whole_number,
    word_or_path,
)
from igniter.options import COMMAND_LINE_ONLY
from igniter.settings import CHECKPOINTS, RESUME_MODES

_SWITCH: dict[str, Any] = {"action": argparse.BooleanOptionalAction, "default": False}
VERIFY_RESUME = "--verify-resume"


class _BarSwitch(argparse.BooleanOptionalAction):
    """``--train-pbar`` and ``--no-train-pbar`` as values of ``--progress``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        off = option_string is not None and option_string.startswith("--no-")
        setattr(namespace, self.dest, "none" if off else "bar")


class _Group:
    """One titled group of the help, where each setting's text ends with the default."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self._group = parser.add_argument_group(title)

    def add(self, name: str, text: str, *others: str, **options: Any) -> None:
        """Add a flag, with its default in its help."""
        action = self._group.add_argument(name, *others, **options)
        sets_nothing = action.dest in COMMAND_LINE_ONLY
        # Set afterwards: Python 3.10 adds a default of its own to a switch's help.
        action.help = text if sets_nothing else f"{text} (default: %(default)s)"

    def add_hidden(self, *names: str, **options: Any) -> None:
        """Let pytorch-igniter's names set what a flag above sets, without a line in the help."""
        self._group.add_argument(
            *names, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add igniter's flags, in titled groups, each with its default in its help."""
    _add_training(_Group(parser, "Training").add)
    _add_updates(_Group(parser, "Updates of the weights").add)
    _add_run_and_files(_Group(parser, "Run and files").add)
    _add_saving(_Group(parser, "Saving"))
    _add_evaluation_and_output(_Group(parser, "Evaluation and output"))
    _add_tracking(_Group(parser, "Tracking").add)
    _add_configuration(_Group(parser, "Configuration").add)


def _add_training(add: Callable[..., None]) -> None:
    count: dict[str, Any] = {"type": whole_number(1), "metavar": "N"}
    add("--max-epochs", "train for N epochs in all", default=10, **count)
    add("--max-iterations", "end after N iterations at the latest", **count)
    add("--epoch-length", "iterations in an epoch", **count)
    limit = "take at most N batches in an epoch and in each evaluation, for a quick look"
    add("--limit-batches", limit, **count)
    stop = 'save and stop after a time such as "2 hours"; the same command goes on'
    add("--stop-after", stop, type=duration, metavar="TIME")
    add("--batch-size", "samples in a batch", default=64, **count)
    rate = "learning rate of the optimizer"
    add("--learning-rate", rate, type=learning_rate, default=1e-3, metavar="RATE")
    add("--seed", "seed of everything random", type=whole_number(0), default=0, metavar="N")
    add("--deterministic", "use deterministic kernels only; may be slower", **_SWITCH)
    add("--device", "auto, cpu, cuda, cuda:1, mps …", default="auto", metavar="NAME")
    workers = "processes that load data; 0: load in the main process"
    add("--workers", workers, type=whole_number(0), default=0, metavar="N")
    nan = "what to do when the loss or the state is not finite"
    add("--on-nan", nan, choices=("stop", "warn"), default="stop")
    signals = "signals that save a checkpoint and end the program: names with commas, or none"
    default = "SIGINT,SIGTERM,SIGHUP"
    add("--stop-signals", signals, type=signal_names, default=default, metavar="NAMES")


def _add_updates(add: Callable[..., None]) -> None:
    number: dict[str, Any] = {"type": positive_number, "metavar": "X"}
    precision = "precision of the step's operations, by autocast; weights stay as they are"
    add("--precision", precision, choices=("fp32", "bf16", "fp16"), default="fp32")
    group = "update the weights by the gradients of N batches together"
    add("--accumulate", group, type=whole_number(1), default=1, metavar="N")
    add("--clip-norm", "scale the gradients of an update to a norm of X at most", **number)
    add("--clip-value", "cut each element of them to an absolute value of X at most", **number)
    add("--compile", "compile the modules by torch.compile", **_SWITCH)


def _add_run_and_files(add: Callable[..., None]) -> None:
    directory: dict[str, Any] = {"type": Path, "metavar": "DIR"}
    add("--output-dir", "the run's directory", **directory)
    add("--checkpoint-dir", "where checkpoints are kept", **directory)
    add("--model-dir", "where the exported model is put", **directory)
    resume = (
        "auto: go on from the newest checkpoint, if any; always: also when arguments that shape "
        "the result have changed; never: start afresh and set the old run aside; must: fail when "
        "there is no checkpoint; or the PATH of a checkpoint"
    )
    add("--resume", resume, type=word_or_path(RESUME_MODES), default="auto", metavar="HOW")
    override = "after a resume, set the new value of learning_rate in the optimizers; repeatable"
    names = ("learning_rate",)
    add("--override", override, action="append", choices=names, default=[])
    add("--strict", "refuse to resume with other code, data, commit or versions", **_SWITCH)
    add("--break-lock", "take over a run that another host seems to hold", **_SWITCH)


def _add_saving(group: _Group) -> None:
    count: dict[str, Any] = {"type": whole_number(1), "metavar": "N"}
    saving = interval_type(allow_time=True, allow_auto=True)
    every: dict[str, Any] = {"type": saving, "metavar": "INTERVAL"}
    when = "when to save; auto: as often as 1 %% of the time pays for (auto:0.5%%: another share)"
    group.add("--save-every", when, default="auto", **every)
    group.add_hidden("--save-event", dest="save_every", **every)
    group.add("--keep-last", "keep the N newest checkpoints", "--n-saved", default=3, **count)
    multiples = "keep for ever each checkpoint at a multiple of N iterations"
    group.add("--keep-every", multiples, **count)
    metric = "keep the best checkpoints by this metric too, such as eval/accuracy"
    group.add("--best-metric", metric, metavar="NAME")
    better = "which value is better; auto: as the metric or its name says"
    group.add("--best-mode", better, choices=("auto", "max", "min"), default="auto")
    best = "keep the N best checkpoints, where there is a --best-metric"
    group.add("--keep-best", best, default=1, **count)


def _add_evaluation_and_output(group: _Group) -> None:
    every: dict[str, Any] = {"type": interval_type(allow_time=False), "metavar": "INTERVAL"}
    timed: dict[str, Any] = {"type": interval_type(allow_time=True), "metavar": "INTERVAL"}
    group.add("--eval-every", "when to evaluate", default="1 epoch", **every)
    group.add_hidden("--eval-event", dest="eval_every", **every)
    only = "train nothing: run each evaluation once on a checkpoint of the run, and print it"
    group.add("--eval-only", only, **_SWITCH)
    which = "with --eval-only: best, latest, or the PATH of a checkpoint"
    group.add("--checkpoint", which, type=word_or_path(CHECKPOINTS), metavar="WHICH")
    size: dict[str, Any] = {"type": whole_number(1), "metavar": "N"}
    group.add("--eval-batch-size", "samples in a batch of evaluation", **size)
    group.add("--log-every", "when to log metrics", default="100 iterations", **every)
    group.add_hidden("--train-log-event", "--eval-log-event", dest="log_every", **every)
    group.add("--print-every", "when to print a line", default="1 epoch, 1 minute", **timed)
    group.add_hidden("--train-print-event", "--eval-print-event", dest="print_every", **timed)
    progress = (
        "how to show progress; auto: a bar in a terminal, else plain lines; debug: also the order "
        "in which callbacks are called"
    )
    shapes = ("auto", "bar", "plain", "json", "none", "debug")
    group.add("--progress", progress, choices=shapes, default="auto")
    picture = "draw the metrics, as metrics.png and metrics.svg, when training ends or stops"
    group.add("--picture", picture, **{**_SWITCH, "default": True})
    export = "export a completed run's model as torch or onnx too, or both with a comma between"
    group.add("--export", export, type=export_names, default="none", metavar="FORMATS")
    group.add_hidden("--train-pbar", "--eval-pbar", dest="progress", action=_BarSwitch)


def _add_tracking(add: Callable[..., None]) -> None:
    boolean = argparse.BooleanOptionalAction
    add("--mlflow", "track the run with MLflow", action=boolean, default=True)
    offline = "send nothing while training: the journal keeps all for `igniter sync`"
    add("--mlflow-offline", offline, **_SWITCH)
    add("--mlflow-tracking-uri", "where runs are tracked", metavar="URI")
    add("--mlflow-experiment-name", "experiment to put the run in", metavar="NAME")
    add("--mlflow-run-name", "what to call the run", metavar="NAME")
    user = "user name; the password is read from MLFLOW_TRACKING_PASSWORD alone"
    add("--mlflow-tracking-username", user, metavar="NAME")
    system = "log the machine's load and memory too, as MLflow does (needs psutil)"
    add("--mlflow-system-metrics", system, **_SWITCH)
    model = "log the model of a completed run as one that MLflow can serve"
    add("--mlflow-log-model", model, action=boolean, default=True)
    add("--mlflow-register-model", "register that model under this name", metavar="NAME")
    checkpoints = "log checkpoints: all, or the last or the best whenever training ends or stops"
    which = ("none", "last", "best", "all")
    add("--mlflow-log-checkpoints", checkpoints, choices=which, default="none")
    diff = "log the script's uncommitted changes, with what looks like secrets masked"
    add("--mlflow-log-git-diff", diff, **_SWITCH)
    tag: dict[str, Any] = {"type": name_and_value, "metavar": "NAME=VALUE", "default": []}
    add("--mlflow-tags", "a tag of the run; repeatable", action="append", **tag)
    add("--mlflow-description", "description of the run", metavar="TEXT")
    parent = "run that this one is a child of, such as a sweep's"
    add("--mlflow-parent-run-id", parent, metavar="ID")

    board = "write TensorBoard's files too, in OUTPUT_DIR/tensorboard (needs tensorboard)"
    add("--tensorboard", board, **_SWITCH)


def _add_configuration(add: Callable[..., None]) -> None:
    config = (
        "read settings from a YAML file or a preset (debug, preemptible, reproducible); "
        "repeatable, later ones win; IGNITER_* variables win over them and flags over all"
    )
    add("--config", config, action="append", default=[], metavar="NAME")
    show = "print every setting and where it came from, as YAML for --config, and exit"
    add("--print-config", show, action="store_true")
    verify = (
        "train the first two epochs straight and with stops, in directories of their own, tell "
        "whether they end alike, and exit: `igniter verify` for this very command"
    )
    add(VERIFY_RESUME, verify, action="store_true", default=argparse.SUPPRESS)
