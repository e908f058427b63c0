"""``igniter verify``: the trials in their order, the comparison, and the verdict."""

from __future__ import annotations

import contextlib
import random
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from igniter.errors import UsageError
from igniter.signals import ended_by_exception
from igniter.verify import causes, chance, words
from igniter.verify.attempts import Attempts, ScriptFailed, Start, Trial, start_process
from igniter.verify.comparison import Comparison, compare
from igniter.verify.plan import Plan, Stop
from igniter.verify.stops import Place, draw

_REFUSED = re.compile(r"([\w:.]+) does not have a deterministic implementation")


def _print(text: str) -> None:
    print(text, flush=True)


@dataclass(frozen=True)
class Options:
    """What to try.

    Args:
        stops: how many; fewer where the run is shorter.
        signals: their names, such as SIGTERM; used in turn.
        max_epochs, max_iterations, epoch_length: what the script asks for is cut to these.
        seed: of where the stops fall.
        deterministic: use torch's deterministic kernels throughout.
        keep: leave the directories, and say where they are.
    """

    seed: int
    stops: int = 3
    signals: Sequence[str] = ("SIGTERM", "SIGKILL")
    max_epochs: int | None = 2
    max_iterations: int | None = None
    epoch_length: int | None = None
    deterministic: bool = False
    keep: bool = False


def verify(
    command: Sequence[str],
    options: Options,
    *,
    start: Start = start_process,
    say: Callable[[str], None] = _print,
) -> bool:
    """Train by ``command`` straight and with stops; say how they compare, and whether equal.

    The command's own runs and tracking are neither read nor written.

    Raises:
        ScriptFailed: the command failed by itself.
        UsageError: it trains nothing, or too little to be stopped.
    """
    say(f"verifying: {shlex.join(command)}")
    with ended_by_exception(), _directory(options, say) as root:
        plan = Plan(
            directory="",
            max_epochs=options.max_epochs,
            max_iterations=options.max_iterations,
            epoch_length=options.epoch_length,
            deterministic=options.deterministic,
        )
        attempts = Attempts(command, root, plan, start=start, say=lambda text: say(f"  {text}"))
        straight = attempts.straight("straight", "straight run")
        runs = straight.trace.runs
        stops = draw(_places(straight), options.stops, options.signals, options.seed)
        if not stops:
            raise UsageError(
                "the run is one iteration long: there is nowhere to stop it. Give larger caps, by "
                "--max-epochs, --max-iterations or --epoch-length"
            )

        def place(stop: Stop) -> str:
            return f"iteration {stop.iteration}{words.label(stop.run, runs)}"

        stopped = attempts.stopped("stopped", stops, place)
        compared = compare(straight, stopped)
        if compared.is_equal:
            say("")
            _tell(compared, straight, say)
            verdict = "equal: the run ends as if it had never been stopped"
        else:
            verdict = _explain(attempts, straight, stopped, compared, options, say)
        made = ", ".join(f"{stop.signal} at {place(stop)}" for stop in stopped.trace.stops)
        say("")
        say(f"{verdict} ({made}; --seed {options.seed})")
        return compared.is_equal


def drawn_seed() -> int:
    """A seed for :class:`Options` where none is asked for."""
    return random.SystemRandom().randrange(1_000_000)


def _explain(
    attempts: Attempts,
    straight: Trial,
    stopped: Trial,
    compared: Comparison,
    options: Options,
    say: Callable[[str], None],
) -> str:
    """Say what differs and why; return the verdict."""
    say("  they differ; looking for the cause")
    again = attempts.straight("again", "straight run once more")
    repeated = compare(straight, again)
    say("")
    if repeated.is_equal:
        say("straight run and run with stops:")
        _tell(compared, straight, say)
        found = causes.of_stops(straight, stopped, again, compared)
        verdict = "different: the run does not end as if it had never been stopped"
    else:
        say("two straight runs, without any stop:")
        _tell(repeated, straight, say)
        found = _of_chance(attempts, straight, again, repeated, options)
        verdict = "different: the script does not repeat itself, stopped or not"
    say("")
    say("likely causes:" if len(found) > 1 else "likely cause:")
    for number, cause in enumerate(found, start=1):
        say(f"  {number}. {cause}")
    return verdict


def _of_chance(
    attempts: Attempts, straight: Trial, again: Trial, repeated: Comparison, options: Options
) -> list[str]:
    """Why two straight trials differ; by two more, where a kernel may be to blame."""
    if not options.deterministic and chance.is_in_the_step(straight, again, repeated):
        try:
            pair = [
                attempts.straight(name, "with deterministic kernels", deterministic=True)
                for name in ("deterministic", "deterministic-again")
            ]
        except ScriptFailed as error:
            refused = _REFUSED.search(str(error))
            if refused:
                return [chance.kernel(refused[1])]
        else:
            if compare(*pair).is_equal:
                return [chance.kernel(None)]
    return chance.of_chance(straight, again, repeated)


def _tell(compared: Comparison, straight: Trial, say: Callable[[str], None]) -> None:
    for line in words.table(compared, straight.trace.runs):
        say(line)


def _places(straight: Trial) -> list[Place]:
    """Where the script can be stopped: after each iteration but the last of each run."""
    runs = straight.trace.runs
    return [
        Place(run, iteration, runs[run].epoch_length)
        for run, iteration in straight.trace.at()
        if iteration < runs[run].total
    ]


@contextlib.contextmanager
def _directory(options: Options, say: Callable[[str], None]) -> Iterator[Path]:
    if options.keep:
        kept = Path(tempfile.mkdtemp(prefix="igniter-verify-"))
        say(f"  everything is kept in {kept}")
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="igniter-verify-") as name:
        yield Path(name).resolve()
