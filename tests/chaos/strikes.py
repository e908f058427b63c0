"""A strike: wait for its moment, do it, and say where the process was then."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from chaos import plans, watch
from chaos.plans import Strike
from chaos.process import Process, command
from chaos.watch import Watch
from igniter.checkpoint.manifest import MANIFEST

# Closer than this, the same signal is one request; less than igniter's 0.3 s.
SAME_REQUEST_SECONDS = 0.25
_POLL = 0.0004
_BETWEEN_TWO = 0.01
_FROZEN = 0.3


@dataclass(frozen=True)
class Made:
    """A strike that was made: where the process was, and whether it was one single request."""

    strike: Strike
    moment: str
    iteration: int
    single: bool

    def __str__(self) -> str:
        """For the report of a round."""
        return f"{self.strike}: made when {self.moment} at iteration {self.iteration}"


class Target:
    """A process to strike: its run's directory and its watch."""

    def __init__(self, process: Process, run_dir: Path, seen: Watch) -> None:
        self.process, self._run_dir, self._watch = process, run_dir, seen

    def strike(self, strike: Strike, patience: float) -> Made | None:
        """Make a strike; None where the process ended before its moment came.

        Raises:
            TimeoutError: the moment did not come, nor an end.
        """
        end = time.monotonic() + patience
        while strike.when != plans.TIME and not self._reached(strike):
            if self.process.poll() is not None:
                return None
            if time.monotonic() > end:
                raise TimeoutError(f"{strike.when} did not come in {patience} s")
            time.sleep(_POLL)
        self._pass(strike.delay)
        if self.process.poll() is not None:
            return None
        moment, iteration = self._moment(), self._watch.now[1]
        try:
            single = self._make(strike)
        except ProcessLookupError:
            return None
        return None if single is None else Made(strike, moment, iteration, single)

    def _pass(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (rest := end - time.monotonic()) > 0 and self.process.poll() is None:
            time.sleep(min(rest, 0.02))

    def _reached(self, strike: Strike) -> bool:
        phase, iteration = self._watch.now
        parts = self._parts()
        final = any("-final" in part for part in parts)
        if strike.when == plans.IMPORTING:
            return True
        if strike.when == plans.STARTING:
            return phase >= watch.STARTING
        if strike.when == plans.LOADING:
            return phase >= watch.LOADING
        if strike.when == plans.TRAINING:
            return phase >= watch.TRAINING and iteration >= strike.iteration
        if strike.when == plans.EVALUATING:
            return phase == watch.EVALUATING and iteration >= strike.iteration
        if strike.when == plans.SAVING:
            return bool(parts) and not final and iteration >= strike.iteration
        if strike.when == plans.LAST_SAVE:
            return final
        return phase == watch.COMPLETED

    def _moment(self) -> str:
        """Where the process is now."""
        phase = self._watch.now[0]
        parts = self._parts()
        if phase in (watch.TRAINING, watch.EVALUATING) and parts:
            return plans.LAST_SAVE if any("-final" in part for part in parts) else plans.SAVING
        if phase == watch.STARTING:
            return plans.STARTING
        return {
            watch.IMPORTING: plans.IMPORTING,
            watch.LOADING: plans.LOADING,
            watch.TRAINING: plans.TRAINING,
            watch.EVALUATING: plans.EVALUATING,
            watch.COMPLETED: plans.ENDING,
        }[phase]

    def _parts(self) -> list[str]:
        """The checkpoints that this process is writing; a sound one has a manifest already."""
        checkpoints = self._run_dir / "checkpoints"
        parts = [part.name for part in checkpoints.glob(f".iteration-*.{self.process.pid}.part")]
        made = [p.name for p in checkpoints.glob("iteration-*") if not (p / MANIFEST).exists()]
        return parts + made

    def _make(self, strike: Strike) -> bool | None:
        """Do it; tell whether it is one request to stop, None where there is nothing to strike."""
        pid, kind = self.process.pid, strike.kind
        if kind == plans.SIGNAL:
            os.kill(pid, strike.signals[0])
        elif kind == plans.GROUP:
            os.killpg(pid, strike.signals[0])
        elif kind in (plans.TWICE, plans.TWO):
            begun = time.monotonic()
            os.kill(pid, strike.signals[0])
            time.sleep(_BETWEEN_TWO)
            os.kill(pid, strike.signals[1])
            return kind == plans.TWICE and time.monotonic() - begun < SAME_REQUEST_SECONDS
        elif kind in (plans.FREEZE, plans.FROZEN_STOP):
            os.killpg(pid, signal.SIGSTOP)
            for number in strike.signals:
                os.kill(pid, number)
            time.sleep(_FROZEN)
            os.killpg(pid, signal.SIGCONT)
        elif kind in (plans.HANG_UP, plans.NOHUP):
            self.process.hang_up()
        elif kind == plans.KILL_PARENT:
            self.process.kill_parent()
        else:
            victims = self._shippers() if kind == plans.KILL_SHIPPER else self._workers()
            if not victims:
                return None
            os.kill(victims[0], signal.SIGKILL)
        return True

    def _shippers(self) -> list[int]:
        return [child for child in self.process.children() if "tracking.follow" in command(child)]

    def _workers(self) -> list[int]:
        shippers = self._shippers()
        return [child for child in self.process.children() if child not in shippers]


def status(run_dir: Path) -> tuple[str, int]:
    """The run's status by its record, and the iteration of its newest checkpoint."""
    from igniter.rundir import Paths, RunRecord

    paths = Paths(run_dir)
    if not paths.run_yaml.exists():
        return "absent", 0
    manifests = sorted(paths.checkpoints.glob("iteration-*/manifest.json"))
    newest = json.loads(manifests[-1].read_bytes())["iteration"] if manifests else 0
    return RunRecord.load(paths.run_yaml).status, newest
