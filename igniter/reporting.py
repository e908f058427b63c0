"""The values of a run: from its metrics to the journal, the record and the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType

from igniter.cadence import Length
from igniter.errors import NonFiniteError
from igniter.measure import Measures
from igniter.metrics import Accumulated, KeyAverage
from igniter.rundir import RunRecord
from igniter.saving import OnNan
from igniter.spec import RunSpec
from igniter.tracking.display import Display
from igniter.tracking.journal import Journal


class Reporter:
    """Takes in what was measured and passes it on to who is to have it.

    Args:
        metrics: those of the training spec, by name.
        measures: what is logged besides them.
        values: the trainer's ``state.metrics``, which gets each epoch's values.
        on_nan: whether a logged training metric that is not finite stops the run.
        standing: says which checkpoint there is to go back to.
    """

    def __init__(
        self,
        spec: RunSpec,
        metrics: Mapping[str, Accumulated],
        measures: Measures,
        values: dict[str, float],
        journal: Journal,
        record: RunRecord,
        display: Display,
        on_nan: OnNan,
        standing: Callable[[], str],
    ) -> None:
        self._spec = spec
        self._metrics = metrics
        self._measures = measures
        self._values = values
        self._journal = journal
        self._record = record
        self._display = display
        self._on_nan = on_nan
        self._standing = standing
        self._shown: dict[str, float] = {}
        self._samples_per_second: float | None = None

    def begin_epoch(self) -> None:
        """Let every metric begin anew."""
        for metric in self._metrics.values():
            metric.reset()

    def log_window(self, iteration: int, epoch: int, *, close: bool) -> None:
        """Log each average over the samples of its window, as ``train/<metric>``, and the measures.

        With ``close`` the window ends here and another begins.

        Raises:
            NonFiniteError: one is NaN or infinite and the run is to stop for that.
        """
        values = {
            f"train/{name}": value
            for metric in self._metrics.values()
            if isinstance(metric, KeyAverage)
            for name, value in metric.window(close=close).items()
        }
        besides = self._measures.results(iteration, close=close)
        self.take_in(iteration, epoch, values, self._spec, besides=besides)
        # After the averages were read: before, the device may be many steps behind.
        measured = self._measures.speed.window(iteration)
        self._samples_per_second = measured.get("perf/samples_per_second")
        self._journal.log(iteration, epoch, measured, kind="measured")
        self._refuse_non_finite(iteration, values)

    def log_epoch(self, iteration: int, epoch: int) -> None:
        """Log each metric over the epoch: an average as ``train/<metric>_epoch``.

        Raises:
            NonFiniteError: as :meth:`log_window`.
        """
        named: dict[str, float] = {}
        for metric in self._metrics.values():
            values = metric.compute()
            self._values.update(values)
            # The plain name of an average is taken by its windows.
            suffix = "_epoch" if isinstance(metric, KeyAverage) else ""
            named.update({f"train/{name}{suffix}": value for name, value in values.items()})
        self.take_in(iteration, epoch, named, self._spec)
        self._refuse_non_finite(iteration, named)

    def take_in(
        self,
        iteration: int,
        epoch: int,
        values: Mapping[str, float],
        spec: RunSpec,
        *,
        besides: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Pass on ``values`` of ``iteration``, by full name, as their spec says.

        What is ``besides`` goes to the journal alone, whatever the spec says.
        """
        self._record.metrics.update(values)
        if spec is self._spec or spec.show is not None:
            self._shown.update(_chosen(values, spec.show))
        self._journal.log(iteration, epoch, {**_chosen(values, spec.log), **besides})

    def show(self, iteration: int) -> None:
        """Move the progress display to ``iteration``."""
        self._display.progress(iteration, at_a_glance(self._shown, whole_epochs=False))

    def print(self, iteration: int, length: Length, evaluations: Mapping[str, RunSpec]) -> None:
        """Print where the run is, with the values that the specs ask to see.

        Training's averages are those of the epoch so far; they are read here.
        """
        values = dict(self._record.metrics)
        for metric in self._metrics.values():
            if isinstance(metric, KeyAverage):
                values |= {f"train/{name}": value for name, value in metric.compute().items()}
        printed: dict[str, float] = {}
        for name, spec in {"train": self._spec, **evaluations}.items():
            own = {k: v for k, v in values.items() if k.startswith(f"{name}/")}
            printed.update(_chosen(own, spec.print))
        epoch, epochs = length.epoch_of(iteration), length.epoch_of(length.total)
        self._display.report(
            iteration,
            epoch,
            epochs,
            at_a_glance(printed, whole_epochs=length.ends_epoch(iteration)),
            samples_per_second=self._samples_per_second,
        )

    def _refuse_non_finite(self, iteration: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                continue
            text = f"{name} is {value} at iteration {iteration}"
            if self._on_nan == "stop":
                raise NonFiniteError(
                    f"{text}. {self._standing()} Lower the learning rate, clip gradients, or go on "
                    "with --on-nan warn."
                )
            self._display.warn(text)


def at_a_glance(values: Mapping[str, float], *, whole_epochs: bool) -> dict[str, float]:
    """One value for each training average: that of its epoch, or that of its last window.

    Training's come first, whatever came last.
    """
    glance: dict[str, float] = {}
    for name in sorted(values, key=lambda name: not name.startswith("train/")):
        plain = name.removesuffix("_epoch") if name.startswith("train/") else name
        if plain == name:
            glance.setdefault(name, values[name])
        elif whole_epochs or plain not in values:
            glance[plain] = values[name]
    return glance


def _chosen(values: Mapping[str, float], metrics: Collection[str] | None) -> dict[str, float]:
    """The values, by full name, whose metric is among ``metrics``; all where that is None."""
    if metrics is None:
        return dict(values)
    return {name: value for name, value in values.items() if _is_one_of(name, metrics)}


def _is_one_of(name: str, metrics: Iterable[str]) -> bool:
    """Whether the full name is a metric's: ``eval/loss``, ``train/loss_epoch``, ``eval/top/5``."""
    own = name.split("/", 1)[-1]
    return any(own in (m, f"{m}_epoch") or own.startswith(f"{m}/") for m in metrics)
