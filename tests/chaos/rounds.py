"""One round: a run started and struck by its plan until it completes, and what is wrong then."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from support import environment

from chaos import verdict
from chaos.plans import Plan, Shape, Start
from chaos.process import How, Process, command, descendants
from chaos.strikes import Made, Target, status
from chaos.watch import Watch

SCRIPT = Path(__file__).parent / "script.py"
PATIENCE = 90.0
# torch's workers look every five seconds whether their parent lives; who sends to MLflow has half a
# minute to go on by itself.
_ORPHANS_SECONDS = 8.0
_SHIPPER_SECONDS = 60.0


@dataclass
class Tally:
    """What was done in all, for the report."""

    rounds: int = 0
    starts: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    missed: int = 0


class Round:
    """A plan carried out in ``folder``; ``log`` tells what was done, line by line."""

    def __init__(self, plan: Plan, folder: Path, tally: Tally, broken: str = "") -> None:
        self._plan, self.folder, self._tally, self._broken = plan, folder, tally, broken
        self._run_dir = folder / "run"
        self._starts = 0
        self.log: list[str] = []
        folder.mkdir()

    def play(self, straight: Path) -> list[str]:
        """Carry it out; return what is wrong, compared with the folder of the straight run."""
        wrong: list[str] = []
        for start in self._plan.starts:
            wrong += self._start(start)
            if wrong or status(self._run_dir)[0] == "completed":
                break
        if not wrong:
            # One that is complete says so and changes nothing.
            wrong += self._start(Start(How(), workers=0))
        wrong += self._nothing_left_alive()
        if not wrong and self._plan.mlflow:
            verdict.send_the_rest(self._run_dir)
        if not wrong:
            wrong += verdict.differences(straight, self.folder)
        if not wrong and self._plan.mlflow:
            wrong += verdict.of_mlflow(self._run_dir, self.folder / "mlflow.db")
        return wrong

    def straight(self) -> None:
        """Run it once without a strike.

        Raises:
            AssertionError: it does not complete.
        """
        wrong = self._start(self._plan.starts[0])
        assert not wrong, f"the straight run: {wrong}, in {self.folder}"

    def _start(self, start: Start) -> list[str]:
        self._starts += 1
        self._tally.starts += 1
        number = self._starts
        seen = self.folder / f"watch-{number}"
        stacks = self.folder / f"stacks-{number}"
        env = {
            **environment(),
            "CHAOS_WATCH": str(seen),
            "CHAOS_RESULT": str(self.folder / "result.json"),
            "CHAOS_STACKS": str(stacks),
            "CHAOS_BROKEN": self._broken,
        }
        del env["PYTHONUNBUFFERED"]  # streams as users have them
        out = self.folder / f"out-{number}"
        page = Watch(seen)
        process = Process([str(SCRIPT), *self._flags(start)], self.folder, env, start.how, out)
        made: list[Made] = []
        self.log.append(f"start {number}: {start.how}, {start.workers} workers")
        try:
            target = Target(process, self._run_dir, page)
            for strike in start.strikes:
                done = target.strike(strike, PATIENCE)
                self.log.append(f"    {done or f'too late: {strike}'}")
                if done is None:
                    self._tally.missed += 1
                else:
                    made.append(done)
                    self._tally.kinds[strike.kind] += 1
                    self._tally.moments[done.moment] += 1
            begun = time.monotonic()
            if process.wait(PATIENCE) is None:
                raise TimeoutError(f"it has not ended {PATIENCE} s after the last strike")
        except TimeoutError as late:
            self.log.append("    hangs")
            return [f"start {number} hangs ({late}): {self._stacks(process, stacks)}"]
        finally:
            if process.code is None:
                process.kill_parent()
                os.kill(process.pid, signal.SIGKILL)
                process.wait(PATIENCE)
        assert process.code is not None
        self._tally.codes[process.code] += 1
        took = time.monotonic() - begun
        self.log.append(f"    exit {process.code}, {took:.2f} s after")
        now, newest = status(self._run_dir)
        wrong = verdict.of_an_exit(process.code, made, now, newest)
        return [f"start {number}: {what}; see {out}" for what in wrong]

    def _flags(self, start: Start) -> list[str]:
        best = ["--best-metric", "eval/loss", "--best-mode", "min"] if self._plan.best else []
        return [
            *self._plan.shape.flags(), "--save-every", self._plan.save_every, *best,
            "--workers", str(start.workers), "--mlflow" if self._plan.mlflow else "--no-mlflow",
        ]  # fmt: skip

    def _stacks(self, process: Process, stacks: Path) -> str:
        """Where a process that hangs is."""
        os.kill(process.pid, signal.SIGCONT)
        os.kill(process.pid, signal.SIGABRT)
        process.wait(10.0)
        children = [command(child)[:300] for child in descendants()]
        text = stacks.read_text() if stacks.exists() else "before the script began"
        return f"{text}\nbelow the chaos run: {children}"

    def _nothing_left_alive(self) -> list[str]:
        begun = time.monotonic()
        while left := descendants():
            shippers = all("tracking.follow" in command(pid) for pid in left)
            limit = _SHIPPER_SECONDS if shippers else _ORPHANS_SECONDS
            if time.monotonic() - begun > limit:
                names = {pid: command(pid)[:300] for pid in left}
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return [f"left alive {limit} s after the end: {names}"]
            time.sleep(0.02)
        return []


class Straights:
    """The straight runs, one for each shape; ``broken`` as what they are compared with."""

    def __init__(self, folder: Path, broken: str = "") -> None:
        self._folder, self._broken = folder, broken
        self._made: dict[Shape, Path] = {}

    def of(self, shape: Shape) -> Path:
        """The folder of the straight run of this shape."""
        if shape not in self._made:
            folder = self._folder / f"straight-{len(self._made) + 1}"
            plan = Plan(shape, "1 epoch", best=True, mlflow=False, starts=(Start(How(), 0),))
            Round(plan, folder, Tally(), self._broken).straight()
            self._made[shape] = folder
        return self._made[shape]
