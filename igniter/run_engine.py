"""What handlers find on an engine besides ignite's: the run round it, and what it can be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from igniter.cadence import Length
from igniter.errors import UsageError
from igniter.figures import Figures, figure_png, image_png
from igniter.ignite_import import Engine, EventEnum
from igniter.spec import RunSpec

Kind = TypeVar("Kind")


class RunEvents(EventEnum):
    """The events of a whole run: fired once in it, over all its attempts, but for the last one."""

    TRAINING_STARTED = "training_started"
    """Nothing is trained yet. After it come the first epoch and its first iteration."""
    TRAINING_ENDED = "training_ended"
    """All is trained and evaluated. After it comes the final checkpoint, then ``COMPLETED``."""
    ATTEMPT_ENDED = "attempt_ended"
    """The last event of each attempt, however it ended: by a stop or an error, too."""


class RunEngine(Engine):
    """An engine of a run: its trainer, or that of one of its evaluations.

    Attributes:
        spec: what it runs, where it runs anything: not where a run is only evaluated.
        name: ``train``, or the evaluation's.
        kind: ``training``, ``validation`` or ``testing``.
        objects: all of ``to_save`` by name, none of it wrapped.
        evaluators: the engines of the evaluations by name; of the trainer alone.
        run_dir: the run's directory, None outside of a run.
        length: of the run, None outside of one.
        attempt: which start of the run this is, from 1; 0 outside of one.
        cycle: how often it was run in this run, this time included; of an evaluation alone.
        stage: the iteration of the training that an evaluation belongs to.
        say, warn: show a line of text where the run shows its own.
    """

    spec: RunSpec

    def __init__(
        self, process: Callable[[Any, Any], Any], name: str, figures: Figures | None
    ) -> None:
        super().__init__(process)
        self.register_events(*RunEvents)
        self.name = name
        self.kind = "training"
        self._figures = figures
        self.objects: Mapping[str, Any] = {}
        self.evaluators: Mapping[str, RunEngine] = {}
        self.run_dir: Path | None = None
        self.length: Length | None = None
        self.attempt = 0
        self.cycle = 0
        self.stage = 0
        self.say: Callable[[str], None] = lambda text: None
        self.warn: Callable[[str], None] = lambda text: None
        self.save_asked: Literal["once", "keep"] | None = None

    def objects_of(self, kind: type[Kind]) -> dict[str, Kind]:
        """Those of ``to_save`` that are of this kind, such as the modules, by name."""
        return {name: value for name, value in self.objects.items() if isinstance(value, kind)}

    def metrics_by_full_name(self) -> dict[str, float]:
        """The values that it has computed, such as ``eval/loss``."""
        return {f"{self.name}/{name}": value for name, value in self.state.metrics.items()}

    def end_attempt(self, *, after_an_error: bool = False) -> None:
        """Fire the last event of an attempt; an error in it takes no earlier one's place."""
        try:
            self.fire_event(RunEvents.ATTEMPT_ENDED)
        except Exception as error:
            if not after_an_error:
                raise
            notes = getattr(error, "__notes__", ["raised in a handler"])
            self.warn(f"{type(error).__name__}: {error} ({notes[0]})")

    def save_checkpoint(self, *, keep: bool = False) -> None:
        """Ask for a checkpoint at the next safe point; with ``keep`` it is kept for ever.

        The next safe point follows the iteration that is at work, or has just been done.
        """
        if keep or self.save_asked is None:
            self.save_asked = "keep" if keep else "once"

    def interrupt(self) -> None:
        """Refuse ignite's way to pause: the position would not be saved.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "engine.interrupt() is not supported; engine.terminate() ends the run, and a signal "
            "stops it to be resumed"
        )

    def terminate_epoch(self, skip_epoch_completed: bool = False) -> None:
        """Refuse ignite's way to cut an epoch short: positions are counted in whole epochs.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "engine.terminate_epoch() is not supported; give shorter epochs by --epoch-length or "
            "RunSpec(epoch_length=…)"
        )

    def log_figure(self, name: str, figure: Any) -> None:
        """Keep a matplotlib figure, at the iteration where training is: in an evaluation, too.

        It is kept as ``figures/train/<name>/iteration-<8 digits>.png`` of the run's directory, that
        of an evaluation under the evaluation's name, and sent to MLflow. After a resume it is drawn
        again and compared; each stands there once. Without a run, in ``evaluate``, it is not kept.

        Raises:
            UsageError: ``figure`` is none, or ``name`` is no name.
        """
        self._keep(name, figure_png(figure))

    def log_image(self, name: str, image: Any) -> None:
        """As :meth:`log_figure`, for an image.

        ``image`` is a PIL image, a numpy array H×W or H×W×C, or a tensor H×W or C×H×W; with 1, 3
        or 4 channels, of bytes, booleans, or floats from 0 to 1.

        Raises:
            UsageError: ``image`` is none, or ``name`` is no name.
        """
        self._keep(name, image_png(image))

    def _keep(self, name: str, png: bytes) -> None:
        if self._figures is not None:
            trains = self.name == "train"
            iteration = self.state.iteration if trains else self.stage
            self._figures.save(self.name, name, iteration, png)
