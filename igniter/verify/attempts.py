"""A script started, straight or again and again with stops, in directories that are thrown away."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from igniter.errors import IgniterError, UsageError
from igniter.rundir import RunRecord
from igniter.verify import trace
from igniter.verify.plan import VARIABLE, Plan, Stop
from igniter.verify.trace import Trace

_TAIL_LINES = 30

Start = Callable[[Sequence[str], Mapping[str, str], Path], int]
"""Run a command with an environment, its output into a file; return its exit code, -N where
signal N killed it."""


class ScriptFailed(IgniterError):
    """The script that is verified failed by itself."""

    exit_code = 1


@dataclass(frozen=True)
class Trial:
    """A script trained to its end in ``directory``, in one attempt or several."""

    directory: Path
    trace: Trace

    def run_dir(self, run: str) -> Path:
        """The directory of one of its runs."""
        return self.directory / run


class Attempts:
    """Starts ``command``; ``say`` is told of each attempt as it ends."""

    def __init__(
        self,
        command: Sequence[str],
        root: Path,
        plan: Plan,
        *,
        start: Start,
        say: Callable[[str], None],
    ) -> None:
        self._command, self._root, self._plan = command, root, plan
        self._start, self._say = start, say

    def straight(self, name: str, what: str, *, deterministic: bool = False) -> Trial:
        """Train to the end in one go; ``name`` is of the directory, ``what`` for people.

        Raises:
            ScriptFailed: it did not get there.
            UsageError: it trained nothing.
        """
        directory = self._directory(name)
        plan = replace(self._plan, directory=str(directory))
        if deterministic:
            plan = replace(plan, deterministic=True)
        began = time.monotonic()
        output = directory / "output-1.txt"
        self._finish(plan, output, self._run(plan, output))
        trial = Trial(directory, trace.read(plan.trace))
        if not trial.trace.runs:
            raise UsageError(
                f"{' '.join(self._command[1:])} ended without calling igniter.train(), so there "
                f"is nothing to verify. {_said(output)}"
            )
        self._say(f"{what}: {_size(trial.trace)}{_took(began)}")
        return trial

    def stopped(self, name: str, stops: Sequence[Stop], labels: Labels) -> Trial:
        """Train to the end with ``stops`` on the way; those that are not reached are left out.

        Raises:
            ScriptFailed: an attempt failed by itself.
        """
        directory = self._directory(name)
        pending: list[Stop | None] = [*stops, None]
        for number, stop in enumerate(pending, start=1):
            plan = replace(self._plan, directory=str(directory), stop=stop)
            began = time.monotonic()
            output = directory / f"output-{number}.txt"
            code = self._run(plan, output)
            if stop is not None and stop in trace.read(plan.trace).stops:
                self._check_stopped(stop, directory / stop.run, output, code)
                self._say(f"stopped by {stop.signal} at {labels(stop)}{_took(began)}")
                continue
            self._finish(plan, output, code)
            self._say(f"resumed and trained to the end{_took(began)}")
            break
        return Trial(directory, trace.read(directory / "trace.jsonl"))

    def _directory(self, name: str) -> Path:
        directory = self._root / name
        directory.mkdir()
        return directory

    def _run(self, plan: Plan, output: Path) -> int:
        file = Path(plan.directory) / "plan.json"
        plan.write(file)
        return self._start(self._command, {**os.environ, VARIABLE: str(file)}, output)

    def _finish(self, plan: Plan, output: Path, code: int) -> None:
        """See that an attempt which nothing stopped got to its end."""
        unfinished = [record for record in _records(plan) if record.status != "completed"]
        if code == 0 and not unfinished:
            return
        ended = "was killed by signal" if code < 0 else "ended with exit code"
        where = "".join(_standing(record) for record in unfinished[:1])
        raise ScriptFailed(f"the script {ended} {abs(code)}{where}. {_said(output)}")

    def _check_stopped(self, stop: Stop, run_dir: Path, output: Path, code: int) -> None:
        """See that what ended the attempt was the signal, and nothing that followed it."""
        if code < 0:
            return
        record = RunRecord.load(run_dir / "run.yaml")
        if record.attempts[-1].outcome in ("interrupted", "completed"):
            return
        raise ScriptFailed(
            f"stopped by {stop.signal} at iteration {stop.iteration}, the script did not save and "
            f"end: exit code {code}, {record.attempts[-1].reason}. {_said(output)}"
        )


Labels = Callable[[Stop], str]
"""Names the place of a stop, with the run where there are several."""


def start_process(command: Sequence[str], environ: Mapping[str, str], output: Path) -> int:
    """Run a command as a process of its own; see :data:`Start`.

    In a session of its own, so that Ctrl-C reaches this process alone, which then ends it.
    """
    with output.open("ab") as file:
        process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait()
        finally:
            if process.returncode is None:
                process.kill()  # its loader workers end with it
                process.wait()


def _records(plan: Plan) -> Iterator[RunRecord]:
    for run in trace.read(plan.trace).runs:
        path = Path(plan.directory) / run / "run.yaml"
        if path.exists():
            yield RunRecord.load(path)


def _standing(record: RunRecord) -> str:
    saved = f"iteration {record.iteration}" if record.iteration else "nothing"
    return f", with {saved} saved"


def _said(output: Path) -> str:
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines:
        return "It said nothing."
    return "Its last lines:\n" + "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])


def _size(found: Trace) -> str:
    """How much was trained."""
    iterations, runs = f"{len(found.at())} iterations", found.runs
    if len(runs) > 1:
        return f"{iterations} in {len(runs)} runs"
    begin = next(iter(runs.values()))
    epochs = -(-begin.total // begin.epoch_length)
    return f"{iterations}, {epochs} epoch{'s' if epochs > 1 else ''}"


def _took(began: float) -> str:
    return f" ({time.monotonic() - began:.1f} s)"
