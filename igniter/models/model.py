"""``Model``: what is trained, as one class whose methods read as the loop does.

Synopsis::

    class Digits(igniter.Model):
        module = Network
        loss = torch.nn.CrossEntropyLoss
        optimizer = torch.optim.Adam

    def main(args):
        model = Digits({"module": {"width": 64}, "optimizer": {"lr": args.learning_rate}})
        model.fit(train_loader, eval_loader, **train_kwargs(args), parameters=vars(args))
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from igniter.models.base import ModelBase

if TYPE_CHECKING:
    from igniter.result import Result
    from igniter.spec import RunSpec


class Model(ModelBase):
    """The parts of what is trained, and its steps.

    A part is declared in the class: a class or another factory, its import path, or a mapping of
    names to those; ``parameters`` has the arguments of each by its name, see
    :mod:`igniter.models.components`. Or :meth:`setup` is overridden and assigns what it likes.
    Every attribute with a state is saved under its name, and plain ones that training changes.

    Attributes:
        parameters: as given.
        step_on: when the scheduler steps: ``update``, ``epoch``, or on a metric such as
            ``eval/loss``; its parameters may have it too.
        patience: validations without :meth:`have_metrics_improved` that end training; None for
            any number.
        device: where modules and batches are.
        sizes: how long the run is, in epochs and updates; None outside of training.
        trainer: the engine of the run, None outside of training.
        updates: makes the updates as the flags say.
    """

    def fit(
        self,
        loader: Any,
        evaluations: Any = None,
        *,
        callbacks: Any = (),
        **options: Any,
    ) -> Result:
        """Train on ``loader``, from where the run was left to its end.

        Args:
            loader: as in :class:`igniter.RunSpec`.
            evaluations: a loader (called ``eval``), or several by name; each a loader or what
                :meth:`evaluation` returns.
            callbacks: objects with ``on_…`` methods (:mod:`igniter.hooks`), or functions; one, or
                several in a list.
            options: the further arguments of :func:`igniter.train`. Without ``parameters`` and
                ``identity`` the class and :attr:`parameters` tell which run it is.

        Raises: as :func:`igniter.train`.
        """
        from igniter.models import running

        return running.fit(self, loader, evaluations, callbacks, options)

    def validate(self, loader: Any, checkpoint: str | Path | None = None) -> dict[str, float]:
        """Evaluate the parts as they are, or as a checkpoint holds them; the metrics by full name.

        Args:
            loader: as ``evaluations`` of :meth:`fit`.
            checkpoint: a checkpoint's directory, or a run's for its newest.
        """
        from igniter.models import running

        return running.evaluate(self, loader, checkpoint, "eval", "validation")

    def test(self, loader: Any, checkpoint: str | Path | None = None) -> dict[str, float]:
        """Test, as :meth:`validate`, by :meth:`test_step`; the metrics are ``test/…``."""
        from igniter.models import running

        return running.evaluate(self, loader, checkpoint, "test", "testing")

    def predict(self, data: Any) -> Any:
        """The predictions for one batch of inputs, or for all batches of a ``DataLoader``.

        Of a loader each batch is the inputs, or a pair of these and the target. Its predictions are
        put together along the first dimension where they are tensors, else given as a list.
        """
        from igniter.models import running

        return running.predict(self, data)

    def evaluation(self, loader: Any, name: str = "eval", **options: Any) -> RunSpec:
        """An evaluation of it on ``loader``, with further fields of :class:`igniter.RunSpec`."""
        from igniter.models import specs

        return specs.evaluation(self, loader, name, options)
