"""``RunSpec``: a step function with its loader, its metrics and when it has something to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from igniter.errors import UsageError
from igniter.intervals import Interval, parse_interval
from igniter.phases import Phases

if TYPE_CHECKING:
    from igniter.updates import Updates

Step = Callable[..., Any]
Callback = Callable[..., Any]


@dataclass(frozen=True)
class RunSpec:
    """What to run on each batch, and what to make of its output.

    Synopsis::

        RunSpec(step=train_step, loader=train_loader, metrics={"loss": "loss"})

    ``step(engine, batch)`` handles one batch and returns a dict of tensors or numbers. ``metrics``
    maps a name to a key of that dict (averaged over samples), to a metric of ``ignite.metrics`` or
    to one of torchmetrics. ``callback`` is one function or several, each called once as
    ``callback(engine, trainer)`` to attach handlers; for a training spec both are the trainer.
    ``batch_size(batch)`` tells how many samples a batch counts for, where that is not the first
    dimension of its first tensor.

    ``every`` says when an evaluation runs and ``log_every`` when training metrics are logged; an
    interval is text such as ``"500 iterations"``. ``log``, ``print`` and ``show`` name the metrics
    that go to the journal and MLflow, to printed lines, and into the progress bar; all by default.
    What is not given here is what the command line says.

    ``loader`` may also map epochs to loaders, ``{1: small, 5: large}``: each from its epoch on.
    ``callback`` may also be an object with ``on_…`` methods, or several (:mod:`igniter.hooks`).
    ``updates`` makes the step's updates as the flags say (:mod:`igniter.updates`); an evaluation
    has its precision of them. Of an evaluation, ``weights.applied()`` is a context manager within
    which it runs, such as a moving average's, and ``kind`` says which hooks it calls.
    """

    step: Step
    loader: Iterable[Any]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    max_epochs: int | None = None
    epoch_length: int | None = None
    callback: Any = ()
    batch_size: Callable[[Any], int] | None = None
    every: Interval | str | int | None = None
    log_every: Interval | str | int | None = None
    print_every: Interval | str | int | None = None
    log: Sequence[str] | None = None
    print: Sequence[str] | None = None
    show: Sequence[str] | None = None
    updates: Updates | None = None
    weights: Any = None
    kind: Literal["validation", "testing"] = "validation"

    def __post_init__(self) -> None:
        """Refuse what could only fail later.

        Raises:
            UsageError: a part is of the wrong kind, or a name is no metric's.
        """
        if not callable(self.step):
            raise UsageError(f"RunSpec(step=…) needs a function, not {type(self.step).__name__}")
        if isinstance(self.loader, Mapping):
            object.__setattr__(self, "loader", Phases(self.loader))
        if not hasattr(self.loader, "__iter__"):
            raise UsageError(
                f"RunSpec(loader=…) needs a DataLoader or another iterable, "
                f"not {type(self.loader).__name__}"
            )
        for name in ("max_epochs", "epoch_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"RunSpec({name}={value}) must be at least 1")
        for name in ("every", "log_every", "print_every"):
            value = getattr(self, name)
            if value is not None:
                interval = parse_interval(value, allow_time=name == "print_every")
                object.__setattr__(self, name, interval)
        for name in ("log", "print", "show"):
            unknown = set(getattr(self, name) or ()) - set(self.metrics)
            if unknown:
                raise UsageError(
                    f"RunSpec({name}=…) names {sorted(unknown)}; the metrics are "
                    f"{sorted(self.metrics)}"
                )

    def interval(self, name: str, otherwise: Interval) -> Interval:
        """The interval called ``name``, or ``otherwise`` where none was given."""
        value = getattr(self, name)
        return value if isinstance(value, Interval) else otherwise

    @property
    def callbacks(self) -> tuple[Callback, ...]:
        """The callbacks, however many were given."""
        several = isinstance(self.callback, Sequence)
        return tuple(self.callback) if several else (self.callback,)

    @classmethod
    def train_spec(
        cls,
        *,
        model: Any,
        criterion: Callable[[Any, Any], Any],
        optimizer: Any,
        loader: Iterable[Any],
        scheduler: Any = None,
        metrics: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> RunSpec:
        """The ordinary supervised training step, on batches of (inputs, targets).

        Its updates are made as the flags say: precision, accumulation, clipping. The step returns
        ``loss``, ``prediction`` and ``target``. ``scheduler`` is stepped after every update.
        ``options`` are further fields of :class:`RunSpec`.
        """
        from igniter.steps import supervised_training
        from igniter.updates import Updates

        updates = Updates(model)
        return cls(
            step=supervised_training(model, criterion, optimizer, updates, scheduler),
            loader=loader,
            updates=updates,
            metrics={"loss": "loss"} if metrics is None else metrics,
            **options,
        )

    @classmethod
    def eval_spec(
        cls,
        *,
        model: Any,
        criterion: Callable[[Any, Any], Any],
        loader: Iterable[Any],
        metrics: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> RunSpec:
        """The ordinary supervised evaluation step on (inputs, targets) batches.

        It computes in the run's precision. The step returns ``loss``, ``prediction`` and
        ``target``, and ``accuracy`` where the targets are class indices (integers of shape N for
        predictions of shape N x classes).
        """
        from igniter.steps import supervised_evaluation
        from igniter.updates import Updates

        updates = Updates()
        return cls(
            step=supervised_evaluation(model, criterion, updates),
            loader=loader,
            updates=updates,
            metrics={"loss": "loss"} if metrics is None else metrics,
            **options,
        )


def metrics_by_full_name(specs: Mapping[str, RunSpec]) -> dict[str, Any]:
    """The metrics of several specs by full name, such as ``eval/accuracy``."""
    return {
        f"{n}/{key}": metric for n, spec in specs.items() for key, metric in spec.metrics.items()
    }
