"""``igniter verify``: an exact script is found equal, and each planted fault is named."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import SCRIPTS, Zygote

from igniter.cli import main as igniter
from igniter.errors import UsageError
from igniter.settings import Settings
from igniter.spec import RunSpec
from igniter.verify.attempts import ScriptFailed
from igniter.verify.driver import Options, verify
from igniter.verify.fingerprints import fingerprints
from igniter.verify.plan import VARIABLE, Plan, Stop
from igniter.verify.stops import Place, draw

PLACES = [Place("run", iteration, 6) for iteration in range(1, 18)]
SIGNALS = ("SIGTERM", "SIGKILL")


class Verifying:
    """Runs ``verify`` on tests/scripts/faulty.py, its attempts forked from the zygote."""

    def __init__(self, zygote: Zygote, cwd: Path) -> None:
        self._zygote, self._cwd = zygote, cwd
        self.said: list[str] = []

    def __call__(self, fault: str, *argv: str, env: Any = (), **options: Any) -> bool:
        """Verify the script with a fault; its working directory is the test's."""
        how = Options(**{"seed": 1, **options})
        variables = {"TEST_FAULT": fault, **dict(env)}

        def start(command: Sequence[str], environ: Mapping[str, str], output: Path) -> int:
            plan = {VARIABLE: environ[VARIABLE]}
            done = self._zygote.run(
                command[1], *command[2:], cwd=self._cwd, env={**variables, **plan}
            )
            output.write_text(done.out + done.err, encoding="utf-8")
            for said in self._cwd.glob(".[oe]*-*"):
                said.unlink()
            return done.code

        command = [sys.executable, str(SCRIPTS / "faulty.py"), *argv]
        return verify(command, how, start=start, say=self.said.append)

    @property
    def text(self) -> str:
        """All that was said."""
        return "\n".join(self.said)

    @property
    def causes(self) -> list[str]:
        """The likely causes, in order."""
        return [line[5:] for line in self.said if line[:5].strip(" .").isdigit()]


@pytest.fixture
def verifying(zygote: Zygote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verifying:
    """Verifies in the test's own directory, with the throw-away directories beside it."""
    scratch, cwd = tmp_path / "scratch", tmp_path / "cwd"
    scratch.mkdir()
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    return Verifying(zygote, cwd)


def test_exact_script_is_equal(verifying: Verifying, tmp_path: Path) -> None:
    """An exact script is equal, with all that was compared in the table; nothing is left behind.

    The runs and the tracking of the script itself, which lie where it is started, stay as they
    are.
    """
    own = {"output/faulty-1a2b/run.yaml": "mine", "mlflow.db": "mine too", "run.yaml": "and mine"}
    for name, text in own.items():
        path = tmp_path / "cwd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert verifying("", "--output-dir", "output/faulty-1a2b", "--resume", "never")
    compared = [line.split("  ")[1] for line in verifying.said if line.endswith("  equal")]
    assert compared == [
        "batches", "random generators", "outputs of the step", "to_save: model",
        "to_save: optimizer", "journal", "final checkpoint",
    ]  # fmt: skip
    assert "SIGTERM at iteration" in verifying.said[-1]
    assert "SIGKILL at iteration" in verifying.said[-1]
    assert "--seed 1" in verifying.said[-1]
    found = {
        str(path.relative_to(tmp_path / "cwd")): path.read_text(encoding="utf-8")
        for path in (tmp_path / "cwd").rglob("*")
        if path.is_file()
    }
    assert found == own
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "top", "stops"),
    [
        ("scheduler", "the step uses scheduler (StepLR), which is not in to_save: ", 2),
        ("counter", "the step uses count (int), which no checkpoint holds: count was ", 2),
        ("handler", "the handler slow_down of EPOCH_COMPLETED uses epochs (int), ", 3),
        ("evaluation", "the step of eval uses evaluations (int), which no checkpoint ", 3),
        ("load_state_dict", "to_save['forgetful'] does not take back what its state_dict", 2),
        ("data set's seeded generator", "the dataset's attribute 'dice' is a random", 2),
        ("data set's counter", "the dataset keeps state of its own, which a stop loses: its", 2),
    ],
)
def test_what_a_stop_loses_is_named(verifying: Verifying, fault: str, top: str, stops: int) -> None:
    """Of a script that repeats itself, the likeliest cause is the one that was planted."""
    assert not verifying(fault, stops=stops)
    assert "straight run and run with stops:" in verifying.said
    assert verifying.causes[0].startswith(top), verifying.text


def test_what_cannot_be_seen_is_told(verifying: Verifying) -> None:
    """State that no closure leads to makes a difference, and the causes end with such places."""
    assert not verifying("hidden", stops=2)
    assert "an attribute of a class" in verifying.causes[-1]


@pytest.mark.parametrize(
    ("fault", "top"),
    [
        ("clock", "randomness from outside: with the same batch and the same state"),
        ("os.urandom", "randomness from outside: with the same batch and the same state"),
        ("draws by chance", "the step draws another number of random numbers in each run"),
        ("data set's generator", "the dataset's attribute 'dice' is a random generator"),
        ("data set's clock", "the dataset gives something else in each run"),
        ("data that changes", "the data changes between two starts: 2"),
        ("built by chance", "the script builds model['weight'] with other values"),
        ("kernel", "a non-deterministic kernel: two straight runs differ, and agree"),
        ("kernel without a form", "frobnicate_cuda is not deterministic on this device"),
    ],
)
def test_what_does_not_repeat_itself_is_named(verifying: Verifying, fault: str, top: str) -> None:
    """Of a script that differs from run to run, the likeliest cause is the one planted."""
    assert not verifying(fault, stops=1)
    assert "two straight runs, without any stop:" in verifying.said
    assert verifying.causes[0].startswith(top), verifying.text


def test_kernels_can_be_left_out(verifying: Verifying) -> None:
    """With deterministic kernels throughout, the rest of a script is found equal."""
    assert verifying("kernel", stops=1, deterministic=True)


def test_two_runs_by_the_library_alone(verifying: Verifying) -> None:
    """A script of two ``train(name=…)`` without ``igniter_main`` is stopped in both and equal.

    It exits with 0 after a stop, and its own directory is not made.
    """
    assert verifying("", env={"TEST_LIBRARY": "1"}), verifying.text
    assert "(first)" in verifying.said[-1]
    assert "(second)" in verifying.said[-1]
    assert not Path("mine").exists()


def test_a_directory_that_moves_is_named(verifying: Verifying) -> None:
    """A script that gives each start another directory is told that it never resumes."""
    assert not verifying("moving directory", env={"TEST_LIBRARY": "1"}, stops=1)
    assert verifying.causes[0].startswith("the run's directory is another one at each start (mine-")


def test_workers_are_no_hindrance(verifying: Verifying) -> None:
    """With loader workers, which a SIGKILL takes along, the script is equal too."""
    assert verifying("", "--workers", "1", stops=2), verifying.text


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raises", "the script ended with exit code 1, with nothing saved"),
        ("raises after a resume", "the script ended with exit code 1, with iteration"),
    ],
)
def test_a_script_that_fails(verifying: Verifying, fault: str, words: str) -> None:
    """A failure of the script itself ends the verification with where it was and what it said."""
    with pytest.raises(ScriptFailed, match=words) as caught:
        verifying(fault, stops=1)
    assert "ValueError: something of the user's" in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_script_that_does_not_train(verifying: Verifying) -> None:
    """Where ``train`` is never called, that is said."""
    with pytest.raises(UsageError, match=r"without calling igniter\.train"):
        verifying("nothing trained")


def test_a_run_without_room_for_a_stop(verifying: Verifying) -> None:
    """Caps that leave one iteration leave nothing to stop, and that is said."""
    with pytest.raises(UsageError, match="one iteration long"):
        verifying("", max_iterations=1)


def test_kept_directories(verifying: Verifying, tmp_path: Path) -> None:
    """With ``keep`` the runs, the traces and what the script said stay, and are named."""
    assert verifying("", stops=1, keep=True)
    (kept,) = (tmp_path / "scratch").iterdir()
    assert str(kept) in verifying.text
    assert {path.name for path in kept.iterdir()} == {"straight", "stopped"}
    assert (kept / "stopped/trace.jsonl").exists()
    assert "completed" in (kept / "straight/output-1.txt").read_text(encoding="utf-8")


def command(tmp_path: Path) -> Path:
    """A script that is the ``igniter`` command."""
    path = tmp_path / "igniter.py"
    path.write_text("import sys\nfrom igniter.cli import main\nsys.exit(main())", encoding="utf-8")
    return path


@pytest.mark.slow
def test_command_line(zygote: Zygote, tmp_path: Path) -> None:
    """``igniter verify SCRIPT -- ARGS`` starts the script by itself, and exits with 0 if equal."""
    caps = ("--stops", "1", "--max-iterations", "3", "--signals", "kill", "--seed", "7")
    argv = (*caps, SCRIPTS / "faulty.py", "--", "--batch-size", "2")
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    done = zygote.run(str(command(tmp_path)), "verify", *argv, cwd=cwd)
    assert done.code == 0, done
    assert "straight run: 3 iterations" in done.out
    assert "as if it had never been stopped (SIGKILL at iteration 2; --seed 7)" in done.out
    assert not [path for path in cwd.iterdir() if path.name[:4] not in (".out", ".err")]


@pytest.mark.slow
def test_verify_resume(zygote: Zygote, tmp_path: Path) -> None:
    """``python train.py --verify-resume`` does so for its own command; it exits with 1 if not."""
    flags = ("--max-iterations", "3", "--verify-resume", "--learning-rate", "0.5")
    done = zygote.run("faulty.py", *flags, cwd=tmp_path, env={"TEST_FAULT": "counter"})
    assert done.code == 1, done
    first = done.out.splitlines()[0]
    assert first.endswith("faulty.py --max-iterations 3 --learning-rate 0.5"), done
    assert "straight run: 3 iterations" in done.out
    assert "the step uses count (int)" in done.out
    assert not [path for path in tmp_path.iterdir() if path.name[:4] not in (".out", ".err")]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_stopped_itself(zygote: Zygote, tmp_path: Path, name: str) -> None:
    """Ctrl-C or SIGTERM ends the script's process too, and removes the directories."""
    script = tmp_path / "waits.py"
    script.write_text(
        f"import os, signal\nfile = open('waiting', 'w')\n"
        f"print(os.environ[{VARIABLE!r}], file=file, flush=True)\nsignal.pause()\n",
        encoding="utf-8",
    )
    os.mkfifo(tmp_path / "waiting")
    running = zygote.start(str(command(tmp_path)), "verify", script, cwd=tmp_path)
    with (tmp_path / "waiting").open(encoding="utf-8") as waiting:
        plan = Path(waiting.readline().strip())
        assert plan.exists()
        os.kill(running.pid, signal.Signals[name])
        assert running.wait().code == 128 + signal.Signals[name]
        assert waiting.read() == ""  # nobody has it open any more
    assert not plan.parent.parent.exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["verify", "missing.py"], "there is no script missing.py"),
        (["verify"], "SCRIPT"),
        (["verify", "--signals", "TERM,HAMMER", "x.py"], "'HAMMER' is not one of SIGINT"),
        (["verify", "--stops", "0", "x.py"], "not a whole number of at least 1"),
    ],
)
def test_usage_errors(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that cannot be honoured exits with 2 and says what is wrong with it."""
    try:
        code: Any = igniter(argv)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert words in capsys.readouterr().err


def test_verify_resume_needs_its_own_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given to ``igniter_main`` by a program, the flag cannot start that command again."""
    from igniter.main import igniter_main

    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py"])
    with pytest.raises(SystemExit) as stop:
        igniter_main(lambda args: None, argv=["--verify-resume"])
    assert stop.value.code == 2
    assert "give it on the command line" in capsys.readouterr().err


@pytest.mark.parametrize("signals", [SIGNALS, ("SIGKILL",)])
def test_where_the_stops_fall(signals: Sequence[str]) -> None:
    """Of three stops one is in mid-epoch first, one ends an epoch, one is in a later epoch.

    They follow one another, use every signal, and leave something to be done again after a kill.
    """
    for seed in range(200):
        stops = draw(PLACES, 3, signals, seed)
        at = [stop.iteration for stop in stops]
        assert at == sorted(set(at))
        assert at[0] % 6 not in (0, 1)
        ends = [iteration for iteration in at if iteration % 6 == 0]
        assert ends
        assert at[-1] > ends[0]
        assert at[-1] % 6 not in (0, 1)
        assert {stop.signal for stop in stops} == set(signals)
        for stop in stops:
            if stop.signal == "SIGKILL":
                assert stop.save_every is not None
                assert 1 <= stop.iteration - stop.save_every <= 3
            else:
                assert stop.save_every is None


def test_stops_are_drawn_by_the_seed() -> None:
    """The same seed draws the same stops, and others draw others."""
    assert draw(PLACES, 4, SIGNALS, 5) == draw(PLACES, 4, SIGNALS, 5)
    assert len({tuple(draw(PLACES, 4, SIGNALS, seed)) for seed in range(20)}) > 10


@pytest.mark.parametrize(("places", "count"), [(1, 3), (2, 3), (5, 9), (17, 17), (0, 2)])
def test_no_more_stops_than_places(places: int, count: int) -> None:
    """A short run is stopped at each of its iterations but the last, and no more often."""
    for seed in range(20):
        assert len(draw(PLACES[:places], count, SIGNALS, seed)) == places


def applied(plan: Plan, spec: Mapping[str, Any], **settings: Any) -> tuple[Settings, RunSpec]:
    """A plan applied to a run."""
    run_spec = RunSpec(step=lambda engine, batch: {}, loader=[1, 2, 3, 4], **spec)
    return plan.applied(Settings(**settings), run_spec, Path("output/mine"))


def test_caps_only_make_shorter() -> None:
    """The caps hold where the script asks for more, and the script where it asks for less."""
    plan = Plan("/tmp/x", max_epochs=2, max_iterations=9, epoch_length=3)
    settings, spec = applied(plan, {}, max_epochs=10)
    assert (settings.max_epochs, settings.max_iterations, spec.epoch_length) == (2, 9, 3)
    settings, spec = applied(plan, {"max_epochs": 7, "epoch_length": 2}, max_iterations=5)
    assert (spec.max_epochs, settings.max_iterations, spec.epoch_length) == (2, 5, 2)
    settings, spec = applied(Plan("/tmp/x"), {"max_epochs": 1}, max_epochs=10)
    assert (settings.max_epochs, spec.max_epochs, spec.epoch_length) == (10, 1, None)


def test_a_plan_keeps_the_script_out_of_its_own_runs() -> None:
    """Every directory is in the plan's; a run has one of its own there, by where it would be."""
    mine = {"output_dir": "mine", "checkpoint_dir": "a", "model_dir": "b", "resume": "must"}
    plan = Plan("/tmp/x", stop=Stop("run", 9, "SIGKILL", save_every=7))
    settings, _ = applied(plan, {}, **mine)
    assert Path(str(settings.output_dir)).parent == Path("/tmp/x")
    assert (settings.checkpoint_dir, settings.model_dir) == (None, None)
    assert (settings.resume, settings.mlflow) == ("auto", False)
    assert str(settings.interval("save_every")) == "7 iterations"
    spec = RunSpec(step=lambda engine, batch: {}, loader=[1])
    other = plan.applied(Settings(), spec, Path("output/other"))[0]
    assert other.output_dir != settings.output_dir


class Holder:
    """An object with attributes, one of which leads back to it."""

    def __init__(self, value: Any) -> None:
        self.value, self.me = value, self


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (torch.ones(3), torch.ones(3), torch.tensor([1, 1, 1.0000001])),
        (torch.zeros(2), torch.zeros(2), -torch.zeros(2)),
        (torch.ones(2), torch.ones(2), torch.ones(2, 1)),
        (torch.ones(2), torch.ones(2), torch.ones(2, dtype=torch.bfloat16)),
        (np.arange(3), np.arange(3), np.arange(1, 4)),
        (float("nan"), float("nan"), 0.0),
        (-0.0, -0.0, 0.0),
        (1, 1, True),
        ("a" * 99, "a" * 99, "a" * 98 + "b"),
        ({1, 2, 3}, {3, 2, 1}, {1, 2}),
        ([1, [2, torch.ones(1)]], [1, [2, torch.ones(1)]], [1, [2, torch.zeros(1)]]),
        (Holder(1), Holder(1), Holder(2)),
        (torch.nn.Linear, torch.nn.Linear, None),
        (Path("a"), Path("a"), Path("b")),
        (torch.float32, torch.float32, torch.float64),
        ({(1, 2): 1}, {(1, 2): 1}, {(1, 3): 1}),
        (np.array(["a", None]), np.array(["a", None]), np.array(["a", 1], dtype=object)),
        (torch.eye(2).to_sparse(), torch.eye(2).to_sparse(), 2 * torch.eye(2).to_sparse()),
    ],
)
def test_fingerprints(one: Any, same: Any, other: Any) -> None:
    """They are equal for values that are equal bit for bit, and for no others."""
    assert fingerprints(one) == fingerprints(same)
    assert fingerprints(one) != fingerprints(other)


class Refusing:
    """An object that lets nobody look at it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no")


def test_fingerprints_of_what_cannot_be_looked_into() -> None:
    """What has no values, an address for a name or no end, is told by its kind, and never fails."""
    endless: dict[str, Any] = {}
    endless["self"] = endless
    for value in (torch.empty(3, device="meta"), torch.nn.LazyLinear(3), Refusing(), endless):
        assert fingerprints(value) == fingerprints(value)
    assert fingerprints(lambda: 1) == fingerprints(lambda: 2)
    assert fingerprints(object()) == fingerprints(object())
    assert fingerprints(torch.ones(99), limit=9) == fingerprints(torch.zeros(99), limit=9)
    assert len(fingerprints([[1], [2]] * 50, limit=9)) == 1


@pytest.mark.parametrize(
    "generator",
    [
        lambda: np.random.default_rng(0),
        lambda: np.random.RandomState(0),
        lambda: torch.Generator().manual_seed(0),
        lambda: __import__("random").Random(0),
    ],
)
def test_fingerprints_of_generators(generator: Callable[[], Any]) -> None:
    """A generator's changes when it is drawn from."""
    one, other = generator(), generator()
    assert fingerprints(one) == fingerprints(other)
    torch.rand(1, generator=one) if isinstance(one, torch.Generator) else one.random()
    assert fingerprints(one) != fingerprints(other)
