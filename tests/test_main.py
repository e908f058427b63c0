"""igniter_main: real scripts, real processes, their exit codes and what they print."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import sys
from types import SimpleNamespace
from igniter.errors import *
from igniter.main import igniter_main
"""
# Most outcomes have nothing to do with seeding, which would import torch: a second and a half.
NO_SEEDING = "sys.modules['igniter.rng'] = SimpleNamespace(seed_everything=lambda seed: None)\n"


def run(
    tmp_path: Path,
    body: str,
    *argv: str,
    main: str = "igniter_main(main)",
    head: str = HEAD + NO_SEEDING,
) -> subprocess.CompletedProcess[str]:
    """Run a script whose ``main(args)`` has ``body``."""
    script = tmp_path / "script.py"
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    script.write_text(f"{head}\ndef main(args):\n{lines}\n{main}\n", encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(script), *argv], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("print(args.seed)", 0, ""),
        ("raise Interrupted(SimpleNamespace(signal=15))", 143, ""),
        ("raise Interrupted(SimpleNamespace(signal=2))", 130, ""),
        ("raise UsageError('no such thing')", 2, "error: no such thing\n"),
        ("raise RunLocked('pid 5 is at work')", 3, "error: pid 5 is at work\n"),
        ("raise NonFiniteError('loss is nan')", 1, "error: loss is nan\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("sys.exit(7)", 7, ""),
        ("sys.exit('words')", 1, "words\n"),
    ],
)
def test_exit_codes(tmp_path: Path, body: str, code: int, stderr: str) -> None:
    """Each outcome has its exit code and its one line, without a traceback."""
    done = run(tmp_path, body)
    assert (done.returncode, done.stderr) == (code, stderr)


@pytest.mark.parametrize("error", ["ValueError('mine')", "BrokenPipeError('mine')"])
def test_an_error_of_the_script(tmp_path: Path, error: str) -> None:
    """The script's own error shows its traceback and ends with 1, unlike an expected one."""
    done = run(tmp_path, f"raise {error}")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert f"raise {error}" in done.stderr


def test_interrupted_passes_except_exception(tmp_path: Path) -> None:
    """A script's ``except Exception`` round training does not swallow a stop."""
    body = "try:\n    raise Interrupted(SimpleNamespace(signal=15))\nexcept Exception: pass"
    assert run(tmp_path, body).returncode == 143


def test_usage_error(tmp_path: Path) -> None:
    """A wrong flag ends with 2 and two lines, before the script's main is called."""
    done = run(tmp_path, "print('called')", "--bacth-size", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 2


def test_unknown_key(tmp_path: Path) -> None:
    """An unknown key of a settings file ends with 2 and one line."""
    (tmp_path / "s.yaml").write_text("bacth-size: 3\n", encoding="utf-8")
    done = run(tmp_path, "print('called')", "--config", str(tmp_path / "s.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path}/s.yaml:1: unknown key 'bacth-size'")
    assert len(done.stderr.splitlines()) == 1


def test_arguments_reach_main(tmp_path: Path) -> None:
    """Inputs, the script's own arguments and ``argv`` all reach main(args)."""
    done = run(
        tmp_path,
        "print(args.data, args.width, args.seed)",
        main="igniter_main(main, inputs={'data': 'd'}, description='A script.', "
        "arguments=lambda p: p.add_argument('--width', type=int), "
        "argv=['--width', '3', '--seed', '5'])",
    )
    assert (done.stdout, done.returncode) == ("d 3 5\n", 0)


def test_seeded_before_main(tmp_path: Path) -> None:
    """Random numbers in main(args) depend on --seed alone, so each start builds the same model."""
    body = (
        "import random, numpy, torch\n"
        "print(random.random(), numpy.random.rand(), torch.rand(1).item())"
    )
    first, again, other = (run(tmp_path, body, "--seed", seed, head=HEAD).stdout for seed in "112")
    assert len(first.split()) == 3
    assert first == again
    assert all(a != b for a, b in zip(first.split(), other.split(), strict=True))


def test_deterministic(tmp_path: Path) -> None:
    """--deterministic switches deterministic kernels on before main(args), and only it does."""
    body = "import torch\nprint(torch.are_deterministic_algorithms_enabled())"
    assert run(tmp_path, body, "--deterministic", head=HEAD).stdout == "True\n"
    assert run(tmp_path, body, head=HEAD).stdout == "False\n"


@pytest.mark.parametrize(
    ("body", "unbuffered", "code", "words"),
    [
        ("while True: print('x' * 1000)", "", 1, "error: nobody reads the standard output"),
        ("while True: print('x' * 1000)", "1", 1, "error: nobody reads the standard output"),
        ("sys.stdin.read(); print('x')", "", 0, ""),
    ],
)
def test_closed_stdout(tmp_path: Path, body: str, unbuffered: str, code: int, words: str) -> None:
    """A reader of stdout that goes away (``| head``) gives no traceback."""
    script = tmp_path / "script.py"
    script.write_text(
        f"{HEAD}{NO_SEEDING}\ndef main(args):\n    {body}\nigniter_main(main)\n", encoding="utf-8"
    )
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, stderr = process.communicate(input="")
    assert process.returncode == code
    assert stderr.startswith(words)
    assert len(stderr.splitlines()) == (1 if words else 0)


# Exits with 11 if the first file gets a standard stream's descriptor, or a child lacks one.
OPENS_A_FILE = """
import os, subprocess
print("to stdout"), print("to stderr", file=sys.stderr), os.write(2, b"from a handler")
with open(args.data, "w") as file:
    descriptor = file.fileno()
    file.write("mine")
look = "import os; [os.fstat(number) for number in range(3)]"
child = subprocess.run([sys.executable, "-c", look])
sys.exit(10 if descriptor > 2 and child.returncode == 0 else 11)
"""


@pytest.mark.parametrize("closed", [">&- 2>&-", "<&- >&- 2>&-", "2>&-", ">&-", "<&-"])
@pytest.mark.parametrize(
    ("body", "code"),
    [(OPENS_A_FILE, 10), ("raise UsageError('x')", 2), ("raise KeyboardInterrupt", 130)],
)
def test_streams_closed_from_the_start(tmp_path: Path, closed: str, body: str, code: int) -> None:
    """With closed streams exit codes hold, and no file takes their descriptors, or their words."""
    done = run_closed(tmp_path, closed, body, HEAD + NO_SEEDING)
    assert done.returncode == code
    if body is OPENS_A_FILE:
        assert (tmp_path / "data").read_text(encoding="utf-8") == "mine"


def test_streams_left_closed(tmp_path: Path) -> None:
    """Negative control: left alone, the first file gets the lowest of the closed descriptors."""
    body = "with open(args.data, 'w') as file: sys.exit(10 + file.fileno())"
    left = "import igniter.main\nigniter.main._open_closed_streams = lambda: None\n"
    head = f"{HEAD}{NO_SEEDING}{left}igniter.main.flush_or_drop = lambda: None\n"
    assert run_closed(tmp_path, ">&- 2>&-", body, head).returncode == 11


def run_closed(
    tmp_path: Path, closed: str, body: str, head: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a script with some of its standard streams closed."""
    script = tmp_path / "script.py"
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    script.write_text(
        f"{head}\ndef main(args):\n{lines}\nigniter_main(main, inputs={{'data': 'd'}})\n",
        encoding="utf-8",
    )
    command = [sys.executable, str(script), "--data", str(tmp_path / "data")]
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *command],
        env={**os.environ, "PYTHONWARNINGS": "error"},
        check=False,
    )
