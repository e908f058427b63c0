"""What a round is: a configuration, and how each start of it is stopped. Drawn from a seed."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass, replace

from chaos.process import How

# The moments that a strike waits for. "time" is any: so many seconds after the start.
IMPORTING, STARTING, LOADING = "importing", "starting", "loading"
TRAINING, SAVING, EVALUATING = "training", "saving", "evaluating"
LAST_SAVE, ENDING, TIME = "the last save", "ending", "any time"
MOMENTS = (
    IMPORTING, STARTING, LOADING, TRAINING, SAVING, EVALUATING, LAST_SAVE, ENDING, TIME
)  # fmt: skip

# What is done then. A stop should end the process, what passes should not.
SIGNAL, GROUP, TWICE, TWO = "a signal", "to the group", "twice", "two different"
FROZEN_STOP, HANG_UP, KILL_WORKER = "stopped and signalled", "hang-up", "SIGKILL a worker"
STOPS = (SIGNAL, GROUP, TWICE, TWO, FROZEN_STOP, HANG_UP, KILL_WORKER)
FREEZE, KILL_SHIPPER = "stopped for a while", "SIGKILL the shipper"
KILL_PARENT, NOHUP = "its parent killed", "hang-up under nohup"
PASSING = (FREEZE, KILL_SHIPPER, KILL_PARENT, NOHUP)

_CATCHABLE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Shape:
    """What shapes the result of a run: two rounds with the same one end alike."""

    form: str
    sampler: str
    accumulate: int
    evaluations: int
    epoch_length: int | None

    def flags(self) -> list[str]:
        """As flags of the script."""
        length = [] if self.epoch_length is None else ["--epoch-length", str(self.epoch_length)]
        return [
            "--form", self.form, "--sampler", self.sampler, "--accumulate", str(self.accumulate),
            "--evaluations", str(self.evaluations), *length,
            "--max-iterations", "30", "--max-epochs", "100", "--batch-size", "8",
            "--learning-rate", "0.01", "--log-every", "3", "--output-dir", "run",
        ]  # fmt: skip


@dataclass(frozen=True)
class Strike:
    """Something done to the process at a moment.

    Args:
        kind: what.
        when: the moment waited for, after ``iteration`` where there is training at it.
        delay: then, in seconds; the whole delay for ``TIME``.
        signals: which, where the kind leaves that open.
    """

    kind: str
    when: str
    iteration: int
    delay: float
    signals: tuple[signal.Signals, ...] = ()

    def __str__(self) -> str:
        """For the report of a round."""
        names = " ".join(number.name for number in self.signals)
        return f"{self.kind} {names} when {self.when} from {self.iteration}, {self.delay:.4f} s"


@dataclass(frozen=True)
class Start:
    """One start of the script, with what is done to it."""

    how: How
    workers: int
    strikes: tuple[Strike, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A round; its last start is left alone."""

    shape: Shape
    save_every: str
    best: bool
    mlflow: bool
    starts: tuple[Start, ...]


def draw(
    seed: int, number: int, *, mlflow: bool = True, moments: tuple[str, ...] = MOMENTS
) -> Plan:
    """Draw round ``number``; the same for the same arguments."""
    draw = random.Random(f"{seed}/{number}")
    shape = Shape(
        form=random.Random(f"{seed}/{number}/form").choice(["function", "class"]),
        sampler=draw.choice(["shuffled", "sequential", "weighted", "custom", "stateful"]),
        accumulate=draw.choice([1, 3]),
        evaluations=draw.choice([1, 2]),
        epoch_length=draw.choice([None, None, 4, 9]),
    )
    save_every = draw.choice(["2 iterations", "7 iterations", "1 epoch", "0.05 seconds"])
    best = draw.random() < 0.4
    tracked = draw.random() < 0.2 and mlflow
    count = draw.randint(3, 5) if tracked else draw.randint(5, 9)
    workers = draw.choice([0, 1, 2])
    starts = []
    for index in range(count):
        if draw.random() < 0.3:  # their number may change between two starts
            workers = draw.choice([0, 1, 2])
        begin = index * 30 // count
        starts.append(_start(draw, begin, workers, tracked, moments, last=index == count - 1))
    quiet = Start(How(), workers)
    return Plan(shape, save_every, best, tracked, (*starts, quiet))


def _start(
    draw: random.Random,
    begin: int,
    workers: int,
    tracked: bool,
    moments: tuple[str, ...],
    *,
    last: bool,
) -> Start:
    late = [LAST_SAVE, ENDING] if last else []
    chosen = [when for when in late if when in moments and draw.random() < 0.8]
    common = [when for when in moments if when not in (LAST_SAVE, ENDING)]
    when = draw.choice(chosen or common or list(moments))
    stops = [*STOPS, SIGNAL, SIGNAL, SIGNAL]
    if not workers or when not in (TRAINING, SAVING, EVALUATING):
        stops.remove(KILL_WORKER)
    else:
        stops += [KILL_WORKER] * 2
    stop = _strike(draw, draw.choice(stops), when, begin)
    how = How(fresh=when == IMPORTING or draw.random() < 0.05, terminal=stop.kind == HANG_UP)
    if draw.random() < 0.6 or when in (IMPORTING, STARTING, LOADING):
        return Start(how, workers, (stop,))
    passing = [FREEZE]
    if TRAINING in moments:
        passing += [KILL_PARENT] + [KILL_SHIPPER] * 8 * tracked
        if not how.terminal and signal.SIGHUP not in stop.signals:
            passing += [NOHUP] * 2
    kind = draw.choice(passing)
    early = (IMPORTING, STARTING, LOADING) if kind == KILL_SHIPPER else ()  # it is not there yet
    first_moments = [moment for moment in common if moment not in early]
    first = _strike(draw, kind, draw.choice(first_moments or list(moments)), begin)
    how = replace(
        how,
        terminal=how.terminal or first.kind == NOHUP,
        nohup=first.kind == NOHUP,
        parent=first.kind == KILL_PARENT,
    )
    if first.when == IMPORTING:
        how = replace(how, fresh=True)
    return Start(how, workers, (first, stop))


def _strike(draw: random.Random, kind: str, when: str, begin: int) -> Strike:
    signals: tuple[signal.Signals, ...] = ()
    if kind == SIGNAL:
        signals = (draw.choice([*_CATCHABLE, signal.SIGKILL, signal.SIGKILL]),)
    elif kind == GROUP:
        signals = (draw.choice(_CATCHABLE),)
    elif kind == TWICE:
        signals = (draw.choice(_CATCHABLE),) * 2
    elif kind == TWO:
        signals = tuple(draw.sample([*_CATCHABLE, signal.SIGKILL], 2))
    elif kind == FROZEN_STOP:
        signals = (draw.choice(_CATCHABLE),)
    longest = {IMPORTING: 2.5, STARTING: 0.08, TIME: 0.8}.get(when, 0.006)
    if when == ENDING:
        longest = draw.choice([0.001, 0.05, 2.0])
    return Strike(kind, when, begin + draw.randint(1, 6), draw.uniform(0, longest), signals)
