"""An evaluation: without gradients, in eval mode, with randomness of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import GeneratorType

import torch

from igniter.engine import Events, StepEngine
from igniter.errors import UsageError
from igniter.figures import Figures
from igniter.loader import Batches
from igniter.metrics import accumulated
from igniter.phases import Phases
from igniter.spec import RunSpec


class Evaluator:
    """One named evaluation, run as often as asked; it leaves training as it found it.

    ``interrupted()`` is asked after each batch, and ends the evaluation without a result.
    ``limit`` is how many batches it takes at most.
    """

    def __init__(
        self,
        name: str,
        spec: RunSpec,
        *,
        seed: int,
        device: torch.device,
        modules: Iterable[torch.nn.Module],
        interrupted: Callable[[], bool] = lambda: False,
        before_workers: Callable[[], None] = lambda: None,
        figures: Figures | None = None,
        limit: int | None = None,
    ) -> None:
        if spec.weights is not None and not hasattr(spec.weights, "applied"):
            raise UsageError(
                f"the weights of the evaluation {name!r} are a {type(spec.weights).__name__}, "
                "which has no applied(); give an igniter.handlers.EMA, or leave them out"
            )
        if isinstance(spec.loader, Phases):
            raise UsageError(
                f"the evaluation {name!r} has loaders by epoch, as only training may; give it one, "
                "or make an evaluation of each"
            )
        self.name = name
        self.spec = spec
        self._modules = list(modules)
        self._weights = spec.weights
        self._interrupted = interrupted
        self._computed = False
        self._batches = Batches(
            spec.loader, seed=seed, purpose=f"eval/{name}", before_workers=before_workers
        )
        length = spec.epoch_length or self._batches.length
        self._length = length if limit is None or length is None else min(length, limit)
        self._limit = limit
        if self._batches.length == 0:
            raise UsageError(f"the loader of the evaluation {name!r} is empty; give it batches")
        if isinstance(spec.loader, GeneratorType):
            raise UsageError(
                f"the loader of the evaluation {name!r} is a generator, which is used up after "
                "one evaluation; hand in an object that can be iterated again"
            )
        self._metrics = [accumulated(key, metric, device) for key, metric in spec.metrics.items()]
        self.engine = StepEngine(
            spec,
            self._batches,
            seed=seed,
            purpose=f"eval/{name}",
            device=device,
            metrics=self._metrics,
            after_iteration=self._look_up,
            figures=figures,
        )
        # Before any handler of the user's, which then finds the values in engine.state.metrics.
        self.engine.add_event_handler(Events.EPOCH_COMPLETED, self._compute)
        self.engine.add_event_handler(Events.COMPLETED, self._compute)

    def _compute(self) -> None:
        # A handler that ends the evaluation early leaves out EPOCH_COMPLETED.
        if self._computed:
            return
        self._computed = True
        for metric in self._metrics:
            self.engine.state.metrics.update(metric.compute())

    def _look_up(self) -> None:
        if self._interrupted():
            self.engine.terminate(skip_completed=True)

    def run(self, iteration: int) -> dict[str, float] | None:
        """The metrics as ``name/metric``, or None where it was interrupted.

        ``iteration`` is where training stands: the data's order and all randomness follow from it
        alone, not from how many evaluations there were before.
        """
        self._computed = False
        for metric in self._metrics:
            metric.reset()
        self.engine.state.metrics.clear()
        self.engine.stage = iteration
        self.engine.cycle += 1
        self._batches.seek(iteration)
        self.engine.state.max_epochs = self.engine.state.epoch_length = None
        # ignite takes the length of a pass from its data, where it is known in no other way.
        data = islice(self._until_pass_is_over(), self._limit) if self._length is None else None
        weights = contextlib.nullcontext() if self._weights is None else self._weights.applied()
        with weights, eval_mode(self._modules), torch.no_grad():
            self.engine.run(data, max_epochs=1, epoch_length=self._length)
        if self.engine.should_terminate == "skip_completed":
            return None
        return {f"{self.name}/{key}": float(v) for key, v in self.engine.state.metrics.items()}

    def _until_pass_is_over(self) -> Iterator[None]:
        if self._batches.pass_is_over():
            raise UsageError(f"the loader of the evaluation {self.name!r} gave no batch")
        while not self._batches.pass_is_over():
            yield None

    def close(self) -> None:
        """End the loader's workers."""
        self._batches.close()


@contextlib.contextmanager
def eval_mode(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Eval mode within; afterwards each submodule is in the mode that it was in.

    One flag for all would not do: a frozen batch norm stays in eval mode while training.
    """
    modules = list(modules)
    before = {part: part.training for module in modules for part in module.modules()}
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module in modules:
            module.train(before[module])
        for part, training in before.items():
            part.training = training
