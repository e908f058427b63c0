"""``ModelBase``: the parts of a model, declared or assigned, and where its run is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from igniter.checkpoint.gradients import parameters
from igniter.errors import UsageError
from igniter.imports import nearest
from igniter.models.components import component, declared
from igniter.models.parts import ATTRIBUTES, PlainAttributes, parts_of
from igniter.models.stepping import Stepping, split_step_on
from igniter.models.steps import Steps
from igniter.updates import Updates

if TYPE_CHECKING:
    from igniter.run_engine import RunEngine
    from igniter.schedulers import Sizes

Built = TypeVar("Built", bound="ModelBase")

_PARTS = ("module", "loss", "optimizer", "scheduler", "prediction_transform")


class ModelBase(Steps):
    """See :class:`igniter.Model`."""

    module: Any = None
    loss: Any = None
    optimizer: Any = None
    scheduler: Any = None
    prediction_transform: Any = None
    step_on: str = "update"
    patience: int | None = None

    def __init__(self, parameters: Mapping[str, Any] | None = None) -> None:
        self.parameters = dict(parameters or {})
        self.device = torch.device("cpu")
        self.sizes: Sizes | None = None
        self.trainer: RunEngine | None = None
        self.updates = Updates()
        self.stepping: Stepping | None = None
        self.is_built = False
        self._plain: PlainAttributes | None = None

    def setup(self) -> None:
        """Make the parts; called once, with ``device`` and, for training, ``sizes`` known.

        Raises:
            UsageError: a part cannot be made, or parameters are given for what is none.
        """
        for name in set(self.parameters) - set(_PARTS):
            raise UsageError(
                f"{type(self).__name__} is given parameters for {name!r}; its parts are "
                f"{', '.join(_PARTS)}{nearest(name, _PARTS)}. A setup() of your own may read others"
            )
        for part in ("module", "loss", "prediction_transform"):
            setattr(self, part, self.make(part))
        if self.sizes is not None:
            self.setup_training()

    def setup_training(self) -> None:
        """Make what only training needs: the optimizer and the scheduler."""
        # A setup of one's own may have made others. load_model makes one that has its state.
        is_wanted = "optimizer" in self.parameters or declared(type(self), "optimizer") is not None
        if is_wanted and vars(self).get("optimizer") is None:
            self.optimizer = self.make("optimizer", self.trained_parameters())
        if self.optimizer is not None and vars(self).get("scheduler") is None:
            self.scheduler = self.make("scheduler", self.optimizer)

    def build(self: Built, device: torch.device | str = "cpu", sizes: Sizes | None = None) -> Built:
        """Have the parts made on ``device``, unless they are made; for training with ``sizes``.

        Raises:
            UsageError: a part cannot be made, or the class's own ``__init__`` left out ours.
        """
        if "updates" not in vars(self):
            raise UsageError(
                f"{type(self).__name__}.__init__ does not call super().__init__(parameters); add it"
            )
        untrained, self.sizes = self.sizes is None, sizes
        self.device = torch.device(device)
        if not self.is_built:
            self.setup()
            self.is_built = True
            self.updates = Updates(*self.modules().values())
        elif untrained and sizes is not None:
            self.setup_training()
        scheduler = vars(self).get("scheduler")
        self.stepping = None if scheduler is None else Stepping(scheduler, self.step_on)
        return self

    def make(self, part: str, *given: Any) -> Any:
        """The part as declared and parametrised, on the device; None where there is none.

        Raises:
            UsageError: it cannot be made of what is said of it.
        """
        parameters = self.parameters.get(part, {})
        if part == "scheduler":
            parameters, self.step_on = split_step_on(parameters, self.step_on)
        if self.sizes is not None:
            parameters = self.sizes.fill(parameters)
        wanted = component(part, declared(type(self), part), parameters)
        if wanted is None:
            return None
        made = wanted.build(*given)
        return made.to(self.device) if isinstance(made, torch.nn.Module) else made

    def trained_parameters(self) -> Iterable[Any]:
        """What the optimizer is made for: parameters, or groups of them; those of ``module``."""
        self.require("module", "trained_parameters")
        return self.module.parameters()  # type: ignore[no-any-return]

    def require(self, part: str, method: str) -> None:
        """See that there is the ``part`` that ``method`` uses.

        Raises:
            UsageError: there is not.
        """
        if vars(self).get(part) is None:
            raise UsageError(
                f"{type(self).__name__} has no {part}: declare it in the class, assign it in "
                f"setup(), or override {method}()"
            )

    def metrics(self, name: str) -> Mapping[str, Any]:
        """The metrics of training (``train``) or of an evaluation, made anew at each call.

        They read what the steps return; see :class:`igniter.RunSpec`.
        """
        return {"loss": "loss"}

    @property
    def batch(self) -> Any:
        """The batch at hand, None outside of training."""
        return None if self.trainer is None else self.trainer.state.batch

    @property
    def iteration(self) -> int:
        """The iteration of the run, counted from 1; 0 outside of training."""
        return 0 if self.trainer is None else self.trainer.state.iteration

    @property
    def epoch(self) -> int:
        """The epoch of the run, counted from 1; 0 outside of training."""
        return 0 if self.trainer is None else self.trainer.state.epoch

    def train(self) -> None:
        """Put what is trained in training mode; called once in a run, before it begins.

        That is every module of which an optimizer holds a part: a frozen teacher stays as it is.
        """
        optimizers = [p for p in self.parts().values() if isinstance(p, torch.optim.Optimizer)]
        trained = {id(p) for optimizer in optimizers for p in parameters(optimizer)}
        for module in self.modules().values():
            if any(id(parameter) in trained for parameter in module.parameters()):
                module.train()

    def eval(self) -> None:
        """Put every module in eval mode."""
        for module in self.modules().values():
            module.eval()

    def modules(self) -> dict[str, torch.nn.Module]:
        """The modules among the parts, by name."""
        return {n: part for n, part in self.parts().items() if isinstance(part, torch.nn.Module)}

    def parts(self) -> dict[str, Any]:
        """The attributes with a state, by name."""
        return parts_of(self, NO_PARTS)

    def to_save(self) -> dict[str, Any]:
        """What a checkpoint holds of it: the parts, and plain attributes that training changes."""
        if self._plain is None:
            self._plain = PlainAttributes(self, NO_PARTS)
        return {**self.parts(), ATTRIBUTES: self._plain}


# Attributes of igniter's own, which are no parts.
NO_PARTS = ("parameters", "device", "sizes", "trainer", "stepping", "is_built", "_plain")
