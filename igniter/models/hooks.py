"""What a model may do besides its steps: its hooks, each of which does nothing by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from igniter import hooks


class ModelHooks:
    """Called by the run; override those that you need.

    What a hook changes in the model is saved with it, so it is changed exactly once however often
    the run is stopped. A file written or a message sent may be so again after a kill.
    """

    def on_attempt_start(self) -> None:
        """At each start of the program, when the checkpoint is loaded."""

    def on_attempt_end(self) -> None:
        """At each end of the program that is not a kill; what it changes is no longer saved."""

    def on_training_start(self) -> None:
        """Once in a run, before its first iteration."""

    def on_training_end(self) -> None:
        """Once in a run, when all is trained and before its final checkpoint and its export."""

    def on_epoch_start(self, epoch: int) -> None:
        """Before the first batch of an epoch, counted from 1."""

    def on_epoch_end(self, epoch: int) -> None:
        """After an epoch and the evaluations that follow from it."""

    def on_batch_start(self, batch: Any) -> None:
        """Before each :meth:`train_step`, with the batch on its device."""

    def on_batch_end(self, batch: Any, output: Any) -> None:
        """After each :meth:`train_step`, with what it returned."""

    def on_validation_start(self, cycle: int, name: str) -> None:
        """Before the evaluation ``name`` runs for the ``cycle``-th time in the run."""

    def on_validation_batch_start(self, batch: Any) -> None:
        """Before each :meth:`eval_step`."""

    def on_validation_batch_end(self, batch: Any, output: Any) -> None:
        """After each :meth:`eval_step`, with what it returned."""

    def on_validation_end(self, cycle: int, name: str, metrics: Mapping[str, float]) -> None:
        """After the evaluation ``name``, with its metrics by full name, such as ``eval/loss``."""

    def on_testing_start(self, cycle: int, name: str) -> None:
        """Before a test."""

    def on_testing_batch_start(self, batch: Any) -> None:
        """Before each :meth:`test_step`."""

    def on_testing_batch_end(self, batch: Any, output: Any) -> None:
        """After each :meth:`test_step`, with what it returned."""

    def on_testing_end(self, cycle: int, name: str, metrics: Mapping[str, float]) -> None:
        """After a test, with its metrics by full name, such as ``test/loss``."""

    def have_metrics_improved(self, metrics: Mapping[str, float]) -> bool:
        """Whether a validation's ``metrics`` are better than before: asked where there is patience.

        With ``patience = N`` training ends after N validations in a row that are no better.
        """
        raise NotImplementedError

    def should_training_stop(self) -> bool:
        """Whether to end the run as completed; asked after each step, validation and epoch."""
        return False

    def trained_state_dict(self) -> Mapping[str, Any]:
        """What is exported when the run completes: modules, or states of tensors, by name."""
        raise NotImplementedError

    def checkpoint_metadata(self) -> Mapping[str, Any]:
        """Plain data for each checkpoint's manifest; ``"label"`` becomes part of its name too."""
        return {}

    def banner(self) -> Sequence[str]:
        """Lines to show when the run begins."""
        return ()


def is_overridden(model: ModelHooks, name: str) -> bool:
    """Whether the model, or its class, has its own method of that name."""
    return getattr(getattr(model, name), "__func__", None) is not getattr(ModelHooks, name)


def own_hooks(model: ModelHooks) -> SimpleNamespace:
    """The hooks that the model's class has overridden."""
    names = [name for name in hooks.hook_names() if is_overridden(model, name)]
    return SimpleNamespace(**{name: getattr(model, name) for name in names})
