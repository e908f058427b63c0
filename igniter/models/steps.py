"""The steps of a model: train, evaluate, test and predict one batch, and what these are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from igniter.average import samples_in
from igniter.devices import detached, to_device
from igniter.models.hooks import ModelHooks
from igniter.models.stepping import Stepping
from igniter.updates import Updates


class Steps(ModelHooks):
    """Reads as the loop does; each method can be overridden, and none of the steps calls another.

    So another :meth:`train_step` leaves :meth:`eval_step` and :meth:`test_step` as they are, while
    another :meth:`forward` or :meth:`compute_loss` is what all of them use.
    """

    module: Any
    loss: Any
    optimizer: Any
    scheduler: Any
    prediction_transform: Any
    device: torch.device
    updates: Updates
    stepping: Stepping | None

    def train_step(self, batch: Any) -> Mapping[str, Any]:
        """Train on one batch; returns ``prediction``, ``target`` and ``loss``."""
        inputs, target = self.split(self.to_device(batch))
        with self.updates.autocast():
            prediction = self.forward(inputs)
            loss = self.compute_loss(prediction, target)
        self.backward(loss)
        if self.updates.due:
            self.optimizer_step()
            self.scheduler_step()
            self.zero_grad()
        return {**self.output(prediction, target, loss), **self.updates.measured()}

    def eval_step(self, batch: Any) -> Mapping[str, Any]:
        """Evaluate one batch, without gradients and in eval mode; returns what training's does."""
        inputs, target = self.split(self.to_device(batch))
        with self.updates.autocast():
            prediction = self.forward(inputs)
            loss = self.compute_loss(prediction, target)
        return self.output(prediction, target, loss)

    def test_step(self, batch: Any) -> Mapping[str, Any]:
        """Test on one batch, as :meth:`eval_step`, of which it is independent."""
        inputs, target = self.split(self.to_device(batch))
        with self.updates.autocast():
            prediction = self.forward(inputs)
            loss = self.compute_loss(prediction, target)
        return self.output(prediction, target, loss)

    def predict_step(self, inputs: Any) -> Any:
        """The prediction for one batch of inputs, without gradients and in eval mode."""
        with self.updates.autocast():
            prediction = self.forward(self.to_device(inputs))
        return self.transformed(prediction)

    # What the steps are made of.

    def to_device(self, batch: Any) -> Any:
        """The batch with every tensor on the device, without waiting for the copies."""
        # The batch of a training step was moved before the hooks saw it.
        return batch if batch is self.batch else to_device(batch, self.device)

    def split(self, batch: Any) -> tuple[Any, Any]:
        """The inputs and the target in a batch, which is a pair of them."""
        inputs, target = batch
        return inputs, target

    def forward(self, inputs: Any) -> Any:
        """The module's prediction."""
        return self.module(inputs)

    def compute_loss(self, prediction: Any, target: Any) -> torch.Tensor:
        """The loss to be minimised: a tensor of one element, a mean over :meth:`loss_weight`."""
        return self.loss(prediction, target)  # type: ignore[no-any-return]

    def loss_weight(self, batch: Any) -> Any:
        """What the loss is a mean over: the samples of the batch; its tokens, for instance.

        With ``--accumulate`` each batch of a group counts by it. A number or a tensor of one.
        """
        return samples_in(batch, None)

    def backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients of the loss and add them to those there are."""
        several = self.updates.options.accumulate > 1 and self.batch is not None
        self.updates.backward(loss, self.loss_weight(self.batch) if several else 1)

    def optimizer_step(self) -> None:
        """Update the weights, once a group of batches, by clipped gradients."""
        self.updates.step(self.optimizer)

    def scheduler_step(self) -> None:
        """Step the scheduler, after each update that was made."""
        if self.stepping is not None and self.updates.stepped:
            self.stepping.after_update()

    def zero_grad(self) -> None:
        """Clear the gradients, which the update has used."""
        self.optimizer.zero_grad()

    def output(self, prediction: Any, target: Any, loss: torch.Tensor) -> dict[str, Any]:
        """What a step returns, for metrics and hooks: nothing in it holds on to gradients."""
        return {
            "prediction": self.transformed(detached(prediction)),
            "target": target,
            "loss": loss.detach(),
        }

    def transformed(self, prediction: Any) -> Any:
        """The prediction through ``prediction_transform``, where there is one."""
        transform = self.prediction_transform
        return prediction if transform is None else transform(prediction)

    @property
    def batch(self) -> Any:
        """The batch at hand, None outside of training."""
        raise NotImplementedError
